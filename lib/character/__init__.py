"""R4: networks of 78 to 275 thousand parameters on characters (Experiments 1 to 11)."""
