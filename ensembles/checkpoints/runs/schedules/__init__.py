"""Schedules: weights of the checkpoints of a run, from their training steps."""
