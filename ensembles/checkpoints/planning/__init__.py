"""Plan a merge of checkpoints from their headers."""
