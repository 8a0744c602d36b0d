"""Output of the commands: plans, progress and results."""
