"""The values that a fitted embedder is saved as."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ensembles._typing import Float32
from ensembles.embeddings.pooling.builtin import Pooling
from ensembles.embeddings.pooling.spec import Divide
from ensembles.embeddings.postprocessing.projection import Projection
from ensembles.embeddings.vectors.lookup import Rows
from ensembles.parallel import cut

STEP = 1 << 16  # rows that are read together


@dataclass(frozen=True, eq=False)
class SavedEmbedder:
    """All that a fitted embedder is made of.

    Parameters
    ----------
    params : dict of str to value
        Constructor parameters of the embedder.
    rows : Rows
        Vectors, vocabulary and tokenizer.
    rules : tuple of Pooling
    weights : ndarray of shape (n_rows,), float32, or None
        One weight a row of the vectors; None counts every word once.
    unmet : float
        Weight of a word without a row, where n-grams make up its vector.
    divide : {"weights", "count"}
        What a weighted sum is divided by.
    projection : Projection or None
        Removed components, whitening and principal axes.
    normalize : bool
        Whether sentence vectors are L2-normalized.
    dtype : str
        Of the sentence vectors.
    scale : float or None
        Largest magnitude of the training vectors; None unless ``dtype`` is int8.
    coverage : float
        Share of the training tokens that have a vector, NaN where there were none.
    n_features_out : int
        Columns of the output of ``transform``.
    """

    params: dict[str, Any]
    rows: Rows
    rules: tuple[Pooling, ...]
    weights: Float32 | None
    unmet: float
    divide: Divide
    projection: Projection | None
    normalize: bool
    dtype: str
    scale: float | None
    coverage: float
    n_features_out: int

    @property
    def is_linear(self) -> bool:
        """Whether a vector is the mean over words of vectors that do not depend on it.

        All that is learned can then be folded into the table of word vectors.
        """
        if len(self.rules) > 1 or not self.rules[0].linear:
            return False
        if self.weights is not None and self.divide != "count":
            return False
        # Zeros stay zeros where a mean is taken off, unlike zeros beside other words.
        centered = self.projection is not None and self.projection.mean.any()
        return not (centered and self._has_zeros)

    @property
    def _has_zeros(self) -> bool:
        if self.weights is not None and not self.weights.all():
            return True
        matrix = self.rows.vectors.matrix
        steps = cut(len(matrix), STEP)
        return any(not matrix[start:stop].any(axis=1).all() for start, stop in steps)

    def fold(self, index: np.ndarray[Any, np.dtype[np.int64]]) -> Any:
        """Word vectors of some rows, weighted and projected.

        Parameters
        ----------
        index : ndarray of shape (n,), int64
            Rows of the vectors.

        Returns
        -------
        ndarray of shape (n, n_columns), float64
        """
        folded = self.rows.vectors.matrix[index].astype(np.float64)
        if self.weights is not None:
            folded *= self.weights[index][:, None]
        if self.projection is not None:
            folded = (folded - self.projection.mean) @ self.projection.matrix
        return folded
