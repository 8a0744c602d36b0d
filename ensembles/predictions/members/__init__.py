"""Members of an ensemble: naming, fitting and predictions."""
