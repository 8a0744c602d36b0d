"""Text files and vector files: reading, writing and format detection."""
