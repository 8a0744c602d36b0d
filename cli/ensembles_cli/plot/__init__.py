"""Images of runs, soups and loss landscapes."""
