"""Training runs: their checkpoints, and weights along a run."""
