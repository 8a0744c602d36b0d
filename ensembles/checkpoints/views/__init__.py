"""Virtual checkpoints: tensors that are computed from others while they are read."""
