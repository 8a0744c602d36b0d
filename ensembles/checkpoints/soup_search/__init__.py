"""Select a soup of checkpoint files by the score of a callable, and write it."""
