"""Postprocessing of sentence vectors: projection, normalization and quantization."""
