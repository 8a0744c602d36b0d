"""Output formats of transformers: how members are fitted, checked and run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from sklearn.base import clone


class TransformerOutputs:
    """Output format of fitted transformers."""

    def fitted(self, fit: Callable[[Any], Any], y: Any) -> Any:
        """Member fitted by ``fit(y)``."""
        return fit(y)

    def check_methods(self, name: str, member: Any) -> None:
        """Raise if a member has no ``transform``."""
        if not hasattr(member, "transform"):
            raise ValueError(
                f"member {name!r} must have transform, {type(member).__name__} has not"
            )

    def check(self, name: str, member: Any) -> None:
        """Raise if a fitted member has no ``transform``."""
        self.check_methods(name, member)

    def of(self, name: str, member: Any, X: Any) -> Any:
        """2-D output of a fitted member, dense or sparse; values of a dataframe."""
        return as_rows(name, member.transform(X))


class PairsWithOutputs(TransformerOutputs):
    """Output format of (member, output) pairs from `fitted_and_transformed`."""

    def check(self, name: str, member: Any) -> None:
        """Do nothing; `Outputs.check_before` has checked the unfitted member."""


def fitted_and_transformed(
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
    if hasattr(fresh, "fit_transform"):
        output = fresh.fit_transform(X, y, **params)
        if isinstance(output, tuple):  # PLS and CCA also return the scores of y
            output = output[0]
        return fresh, output
    fitted = fresh.fit(X, y, **params)
    return fitted, fitted.transform(X)


def as_rows(name: str, output: Any) -> Any:
    """Convert an output to a 2-D array or sparse matrix, or raise if it is not 2-D."""
    out = output if is_sparse(output) else np.asarray(output)
    if out.ndim != 2:
        raise ValueError(
            f"member {name!r} must give rows of columns, found an output of shape "
            f"{out.shape}"
        )
    return out


def is_sparse(output: Any) -> bool:
    """Whether an output is a sparse matrix."""
    return hasattr(output, "toarray")
