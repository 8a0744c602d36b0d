"""Second moments of the data of a member, and merges layer by layer with data."""
