"""Combine models: average their checkpoints, their predictions, or word vectors.

- `ensembles.checkpoints`: `average` of checkpoints, and `ModelSoup`, a model soup as an
  estimator.
- `ensembles.predictions`: `EnsembleClassifier`, `EnsembleRegressor` and
  `EnsembleTransformer`, ensembles of scikit-learn estimators.
- `ensembles.embeddings`: `SentenceEmbedder` and `SentenceEncoder`, from texts to
  vectors.
- `ensembles.reports`: `compare`, a table of models, their averages and ensembles; and
  displays of runs, soups and loss landscapes.
- `ensembles.rules`: functions that combine a stack of members into one.
- `ensembles.selection`: functions that choose the weights of members by a score.
"""

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
