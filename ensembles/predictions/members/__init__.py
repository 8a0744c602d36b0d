"""Members of an ensemble: named, fitted, and what they predict."""
