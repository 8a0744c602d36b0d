"""Fits and outputs of members that are transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from sklearn.base import clone


class TransformerOutputs:
    """Output format of transformers, for `fit_members`."""

    def fit(self, fit: Callable[[Any], Any], y: Any) -> Any:
        """Fit a member by ``fit(y)``."""
        return fit(y)

    def check(self, name: str, member: Any) -> None:
        """Raise if a fitted member has no ``transform``."""
        check_has_transform(name, member)

    def predict(self, name: str, member: Any, X: Any) -> Any:
        """Output of a fitted member for ``X``, as by `transformed`."""
        return transformed(name, member, X)


class PairOutputs(TransformerOutputs):
    """Output format of (member, output) pairs from `fit_transform_clone`."""

    def check(self, name: str, member: Any) -> None:
        """Do nothing: the unfitted member has been checked."""


def check_has_transform(name: str, member: Any) -> None:
    """Raise ValueError if a member has no ``transform``."""
    if not hasattr(member, "transform"):
        raise ValueError(
            f"member {name!r} must have a transform method: {type(member).__name__} "
            "has none"
        )


def transformed(name: str, member: Any, X: Any) -> Any:
    """2-D output of a fitted member, dense or sparse; values of a dataframe."""
    return check_2d(name, member.transform(X))


def fit_transform_clone(
    name: str, member: Any, X: Any, y: Any, params: Mapping[str, Any]
) -> Any:
    """Clone a member, fit the clone, and transform the training data with it.

    Parameters
    ----------
    name : str
        Name of the member; part of the cache key, as in
        `ensembles.predictions.members.fitting.fit_clone`.
    member : transformer
        Left unchanged.
    X, y : array-like
        Training data.
    params : mapping of str to value
        Keyword arguments of ``fit_transform``, or of ``fit`` if the member has no
        ``fit_transform``.

    Returns
    -------
    (fitted transformer, output)
    """
    fresh = clone(member)
    if not hasattr(fresh, "fit_transform"):
        fitted = fresh.fit(X, y, **params)
        return fitted, fitted.transform(X)
    output = fresh.fit_transform(X, y, **params)
    if isinstance(output, tuple):  # PLS and CCA also return the scores of y
        output = output[0]
    return fresh, output


def check_2d(name: str, output: Any) -> Any:
    """Convert an output to a 2-D array or sparse matrix, or raise if it is not 2-D."""
    array = output if is_sparse(output) else np.asarray(output)
    if array.ndim != 2:
        raise ValueError(
            f"member {name!r} must have 2-D outputs: found an output of shape "
            f"{array.shape}"
        )
    return array


def is_sparse(output: Any) -> bool:
    """Whether an output is a sparse matrix."""
    return hasattr(output, "toarray")
