"""Whether members can be averaged, and how they differ."""
