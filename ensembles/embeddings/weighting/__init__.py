"""Word weights, such as SIF and inverse document frequency."""
