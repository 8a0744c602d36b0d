"""Selections: ways to choose weights by a score, which is all they see."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
