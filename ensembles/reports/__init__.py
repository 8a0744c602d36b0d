"""Comparisons of models with their averages and ensembles, and displays."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
