"""What scikit-learn's estimators need everywhere: rows of fit parameters, warnings."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from ensembles._typing import Counts


def rows_of(
    params: Mapping[str, Any], places: Sequence[int] | Counts, n_samples: int
) -> dict[str, Any]:
    """Parameters of a fit to some of the samples: those with a row a sample cut.

    Parameters
    ----------
    params : mapping of str to value
    places : sequence of int
        The samples that are left.
    n_samples : int
        How many there were.

    Returns
    -------
    dict of str to value
    """
    from sklearn.utils import _safe_indexing, indexable

    return {
        # Of a sparse matrix of coordinates no rows can be taken before.
        name: _safe_indexing(indexable(value)[0], places)
        if _is_per_row(value, n_samples)
        else value
        for name, value in params.items()
    }


def _is_per_row(value: Any, size: int) -> bool:
    shape = getattr(value, "shape", None)
    if shape is not None:  # a sparse matrix has no length
        return len(shape) > 0 and shape[0] == size
    countable = hasattr(value, "__len__") and not isinstance(value, str | Mapping)
    return countable and len(value) == size


def warn_user(message: str) -> None:
    """Warn, pointing at the user's line: the nearest that no library has called.

    Parameters
    ----------
    message : str

    Warns
    -----
    UserWarning
    """
    level, frame = 1, sys._getframe()
    libraries = {"ensembles", "joblib", "sklearn"}
    while frame.f_back and frame.f_globals["__name__"].split(".")[0] in libraries:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)


def thawed(estimator: Any) -> Any:
    """What is frozen, as it is without that; anything else as it is.

    Parameters
    ----------
    estimator : object

    Returns
    -------
    object
    """
    from sklearn.frozen import FrozenEstimator

    return estimator.estimator if isinstance(estimator, FrozenEstimator) else estimator
