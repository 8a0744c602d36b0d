"""Learned parameters of estimators."""
