"""Files of texts and of vectors."""
