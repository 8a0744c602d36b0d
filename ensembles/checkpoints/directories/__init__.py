"""Checkpoints on disk: files and directories, found and opened."""
