"""Checkpoints whose tensors are computed from others when they are read."""
