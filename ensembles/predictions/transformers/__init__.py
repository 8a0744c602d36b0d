"""Outputs of transformers: combined, weighted by rated pairs, and projected."""
