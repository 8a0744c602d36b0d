"""From texts to rows of a table of vectors."""
