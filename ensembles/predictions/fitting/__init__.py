"""Weights and what else is learned from out-of-fold predictions."""
