"""From the vectors of a text's words to one vector."""
