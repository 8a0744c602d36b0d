"""Commands that list registered functions, with formulas and papers."""
