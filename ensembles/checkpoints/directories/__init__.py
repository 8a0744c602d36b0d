"""Checkpoint files and directories: discovery, readers and unsupported formats."""
