"""Merge methods: rules for checkpoints that combine differences from a base."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
