"""From a base with an adapter to a model, and back."""
