"""Ensembles of quantile forecasts, and scores of forecasts."""
