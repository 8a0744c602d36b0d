"""Scores of member weights, computed from out-of-fold predictions."""
