"""Commands that look into checkpoints and change nothing."""
