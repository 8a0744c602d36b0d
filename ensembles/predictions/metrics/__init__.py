"""Scores of weights, from out-of-fold predictions."""
