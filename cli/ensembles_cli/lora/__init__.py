"""Commands for low-rank adapters and their bases."""
