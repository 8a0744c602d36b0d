"""Tokenization: maps texts to the row indices of their tokens in a vector table."""
