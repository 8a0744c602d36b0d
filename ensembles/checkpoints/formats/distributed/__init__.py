"""Distributed checkpoints: tensors in chunks, which several files hold."""
