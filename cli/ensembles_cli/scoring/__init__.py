"""The user's scoring command: run, and its output read."""
