"""Similarity of vectors, and its evaluation."""
