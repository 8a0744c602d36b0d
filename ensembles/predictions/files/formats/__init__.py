"""Formats of prediction files: CSV, TSV, Parquet, and NumPy arrays and archives."""
