"""Checkpoint files and directories: opening, weight files and unsupported formats."""
