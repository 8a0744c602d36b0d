"""Save and load fitted embedders."""
