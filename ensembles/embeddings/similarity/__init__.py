"""Cosine similarity, and evaluation on human similarity ratings."""
