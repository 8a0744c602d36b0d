"""Combiners: rules that combine predictions one member at a time."""
