"""What models say, averaged: estimators over the predictions of their members."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
