"""Last steps on sentence vectors."""
