"""Stream members through a rule and write the result."""
