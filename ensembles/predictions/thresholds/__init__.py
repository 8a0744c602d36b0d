"""Class thresholds, chosen together with the weights."""
