"""Zip files: entries and their checksums, read and written."""
