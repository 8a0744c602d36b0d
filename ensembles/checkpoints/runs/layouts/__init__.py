"""Run layouts: how trainers name and describe the checkpoints of a run."""
