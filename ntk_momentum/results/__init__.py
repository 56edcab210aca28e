"""Results on disk: whole files with our mark, the work that makes them, and the way back to
arrays."""
