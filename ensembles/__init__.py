"""Averages of models: of what they say, of what they are, of what words mean.

The map: `ensembles.rules` combines a stack of members into one, `ensembles.selection`
chooses weights, and `ensembles.checkpoints` brings checkpoints in and out.
"""

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
