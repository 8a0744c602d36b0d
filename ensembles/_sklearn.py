"""Tools for scikit-learn estimators: fit parameters by row, warnings, unfreezing."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from ensembles._typing import Counts


def index_fit_params(
    params: Mapping[str, Any], indices: Sequence[int] | Counts, n_samples: int
) -> dict[str, Any]:
    """Fit parameters for a subset of the samples.

    Parameters
    ----------
    params : mapping of str to value
        Fit parameters by name, such as ``sample_weight``.
    indices : sequence of int
        Indices of the samples in the subset.
    n_samples : int
        Number of samples before the selection.

    Returns
    -------
    dict of str to value
        Parameters with one row per sample are indexed by ``indices``, all others are
        unchanged.
    """
    from sklearn.utils import _safe_indexing, indexable

    return {
        # `indexable` converts COO matrices to CSR; COO does not support indexing.
        name: _safe_indexing(indexable(value)[0], indices)
        if _is_per_row(value, n_samples)
        else value
        for name, value in params.items()
    }


def _is_per_row(value: Any, size: int) -> bool:
    shape = getattr(value, "shape", None)
    if shape is not None:  # len() of a sparse matrix raises TypeError
        return len(shape) > 0 and shape[0] == size
    countable = hasattr(value, "__len__") and not isinstance(value, str | Mapping)
    return countable and len(value) == size


def warn_caller(message: str) -> None:
    """Issue a `UserWarning` that points to the user's line.

    Parameters
    ----------
    message : str
        Text of the warning.

    Warns
    -----
    UserWarning
        At the innermost frame outside ensembles, joblib and scikit-learn.
    """
    level, frame = 1, sys._getframe()
    libraries = {"ensembles", "joblib", "sklearn"}
    while frame.f_back and frame.f_globals["__name__"].split(".")[0] in libraries:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)


def unwrap_frozen(estimator: Any) -> Any:
    """Estimator without its `FrozenEstimator` wrapper.

    Parameters
    ----------
    estimator : object
        Estimator that may be wrapped.

    Returns
    -------
    object
        The wrapped estimator; ``estimator`` itself if it is not frozen.
    """
    from sklearn.frozen import FrozenEstimator

    return estimator.estimator if isinstance(estimator, FrozenEstimator) else estimator
