"""Calibration of probabilities, and its measurement."""
