"""Checks that members can be averaged: names, shapes, ties and initialization."""
