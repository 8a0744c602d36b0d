"""Displays: pictures of runs, soups and loss landscapes, drawn with matplotlib."""
