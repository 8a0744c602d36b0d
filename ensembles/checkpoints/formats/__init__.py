"""Checkpoint formats: readers of tensor names, dtypes, shapes and file offsets."""
