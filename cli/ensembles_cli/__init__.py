"""The command ``ensemble``."""
