"""State of a fitted embedder, for saving."""

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

STEP = 1 << 16  # rows of a block


@dataclass(frozen=True, eq=False)
class SavedEmbedder:
    """State of a fitted embedder.

    Parameters
    ----------
    params : dict of str to value
        Constructor parameters of the embedder.
    rows : Rows
        Vectors, vocabulary and tokenizer.
    rules : tuple of Pooling
        Pooling rules; their results are concatenated.
    weights : ndarray of shape (n_rows,), float32, or None
        Weight of each row of the vectors; None weighs every word equally.
    unmet : float
        Weight of an out-of-vocabulary word whose vector is composed of n-grams.
    divide : {"weights", "count"}
        Divisor of the weighted sum: the sum of the weights, or the number of words.
    projection : Projection or None
        Removed components, whitening and principal axes; None if not used.
    normalize : bool
        Whether sentence vectors are L2-normalized.
    dtype : str
        Data type of the sentence vectors.
    scale : float or None
        Largest magnitude of the training vectors; None unless ``dtype`` is int8.
    coverage : float
        Share of the training tokens that have a vector; NaN without training texts.
    n_features_out : int
        Number of columns of the output of ``transform``.
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
        """Whether a sentence vector is the plain mean of fixed vectors of its words.

        Weights and projection can then be folded into the table of word vectors.
        """
        if len(self.rules) > 1 or not self.rules[0].linear:
            return False
        if self.weights is not None and self.divide != "count":
            return False
        # A sentence vector of zeros is not centered, but a zero word vector in another
        # sentence is: no single table gives both.
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
        """Weighted and projected word vectors of rows.

        Parameters
        ----------
        index : ndarray of shape (n,), int64
            Rows of the table.

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
