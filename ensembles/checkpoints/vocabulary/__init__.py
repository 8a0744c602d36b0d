"""Tokenizers of language models, and the tensors with a row for each token."""
