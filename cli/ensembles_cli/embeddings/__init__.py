"""Commands of text embeddings."""
