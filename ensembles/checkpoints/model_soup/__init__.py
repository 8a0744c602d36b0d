"""The `ModelSoup` estimator: members trained or read, weighted and combined."""
