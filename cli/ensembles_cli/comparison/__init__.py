"""The command that compares models, and what it prints."""
