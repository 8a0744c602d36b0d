"""Compiled loops over task vectors: the differences of members from a base."""
