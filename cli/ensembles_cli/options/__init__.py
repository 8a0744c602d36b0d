"""Options and parameter types shared by several commands."""
