"""Checkpoints in, checkpoints out: averages of what models are."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
