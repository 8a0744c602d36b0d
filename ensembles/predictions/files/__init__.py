"""Predictions in files: reading, alignment by ids, and blending."""
