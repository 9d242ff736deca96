"""Tables, their schema, claims and verdicts."""
