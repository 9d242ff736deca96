"""How a computation is named, placed, run once, and kept: keys, files, devices, the sweep."""
