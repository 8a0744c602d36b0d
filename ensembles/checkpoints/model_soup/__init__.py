"""The ModelSoup estimator."""
