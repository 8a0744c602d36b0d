"""Outputs of transformers, as an ensemble asks for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from sklearn.base import clone


class Outputs:
    """What transformers are asked for."""

    def fitted(self, fit: Callable[[Any], Any], y: Any) -> Any:
        """A member fitted."""
        return fit(y)

    def check_before(self, name: str, member: Any) -> None:
        """Raise if a member cannot transform."""
        if not hasattr(member, "transform"):
            raise ValueError(
                f"member {name!r} must have transform, {type(member).__name__} has not"
            )

    def check(self, name: str, member: Any) -> None:
        """Raise if a fitted member cannot transform."""
        self.check_before(name, member)

    def of(self, name: str, member: Any, X: Any) -> Any:
        """Output of a member, dense or sparse; a dataframe's values."""
        return as_rows(name, member.transform(X))


class PairsWithOutputs(Outputs):
    """Of members beside their outputs."""

    def check(self, name: str, member: Any) -> None:
        """Nothing: it was looked at before."""


def fitted_and_transformed(
    name: str, member: Any, X: Any, y: Any, params: Mapping[str, Any]
) -> Any:
    """A clone of a member, fitted, and its output of the same data.

    Parameters
    ----------
    name : str
        As in `ensembles.predictions.members.fitting.fit_clone`.
    member : transformer
    X, y : array-like
    params : mapping of str to value
        What its ``fit_transform`` gets, or its ``fit`` if it has no such method.

    Returns
    -------
    (fitted transformer, output)
    """
    fresh = clone(member)
    if hasattr(fresh, "fit_transform"):
        output = fresh.fit_transform(X, y, **params)
        if isinstance(output, tuple):  # of PLS and CCA: the targets' scores beside X's
            output = output[0]
        return fresh, output
    fitted = fresh.fit(X, y, **params)
    return fitted, fitted.transform(X)


def as_rows(name: str, output: Any) -> Any:
    """An output, dense or sparse, that is known to have rows and columns."""
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
