"""Read, write and compare the learned parameters of estimators."""
