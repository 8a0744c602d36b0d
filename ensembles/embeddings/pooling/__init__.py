"""Poolings: rules that combine the vectors of a text's words into one vector."""
