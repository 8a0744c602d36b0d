"""Contents of checkpoints, their differences, and verification of results."""
