"""Pictures of ensembles of predictions."""
