"""Distillation of sentence encoders into averaged word vectors."""
