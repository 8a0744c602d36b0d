"""Command-line interface ``ensemble``."""
