"""Merges of low-rank adapters: of their updates, never of their factors."""
