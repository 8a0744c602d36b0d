"""How predictions of members are combined."""
