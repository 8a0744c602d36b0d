"""Word weights."""
