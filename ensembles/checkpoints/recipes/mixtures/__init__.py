"""Mixtures of experts, built from dense models."""
