"""The hubverse layout of forecasts: tasks, model output and target data."""
