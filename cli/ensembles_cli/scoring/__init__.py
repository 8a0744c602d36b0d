"""Scoring commands of the user: running them and parsing their output."""
