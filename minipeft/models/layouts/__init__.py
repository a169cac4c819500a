"""How checkpoints of other libraries are read: one file a family, as a table of its names and settings."""
