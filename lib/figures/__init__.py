"""One look for all figures, and the figures that several experiments share."""
