"""Plan a merge from headers alone."""
