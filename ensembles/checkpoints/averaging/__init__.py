"""Averages of the parameters that are kept while a model is trained."""
