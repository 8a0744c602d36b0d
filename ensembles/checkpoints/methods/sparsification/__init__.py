"""Merge methods that drop entries of task vectors."""
