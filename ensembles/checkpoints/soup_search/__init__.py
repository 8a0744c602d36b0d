"""Soups of checkpoint files, chosen by any score."""
