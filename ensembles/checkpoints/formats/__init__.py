"""Checkpoint formats: where each tensor's bytes lie, found without reading them."""
