"""Tools for scikit-learn estimators: checks of parameters, warnings, unfreezing."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any, ClassVar

import numpy as np

from ensembles._typing import Counts


class NestedParams:
    """Mixin of estimators whose entries of dicts are parameters for a search.

    An entry ``"density"`` of ``rule_params`` is the parameter ``rule_params__density``
    of `get_params` and `set_params`, as for nested estimators, and so of
    `GridSearchCV`. The mixin must come before `BaseEstimator`.

    Attributes
    ----------
    nested_params : tuple of str
        Names of the parameters that are a dict or None.
    """

    nested_params: ClassVar[tuple[str, ...]] = ("rule_params", "weights_params")

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Parameters of the estimator.

        Parameters
        ----------
        deep : bool, default=True
            Whether to include entries of dicts and parameters of nested estimators.

        Returns
        -------
        dict of str to value
        """
        params: dict[str, Any] = super().get_params(deep=deep)  # type: ignore[misc]
        if deep:
            for name in self.nested_params:
                entries = params[name] if isinstance(params[name], Mapping) else {}
                params |= {f"{name}__{key}": entries[key] for key in entries}
        return params

    def set_params(self, **params: Any) -> Any:
        """Set parameters of the estimator.

        Parameters
        ----------
        **params
            Parameters; ``rule_params__density=0.2`` changes an entry of a copy of
            ``rule_params``.

        Returns
        -------
        self
        """
        entries: dict[str, dict[str, Any]] = {}
        for name in list(params):
            owner, separator, key = name.partition("__")
            if separator and owner in self.nested_params:
                entries.setdefault(owner, {})[key] = params.pop(name)
        super().set_params(**params)  # type: ignore[misc]
        for owner, changed in entries.items():
            before = check_mapping(owner, getattr(self, owner))
            setattr(self, owner, before | changed)
        return self


def check_bool(name: str, value: Any, *, optional: bool = False) -> None:
    """Raise unless the value of a parameter is True or False.

    Parameters
    ----------
    name : str
        Name of the parameter, for the message.
    value : object
        Value of the parameter.
    optional : bool, default=False
        Whether None is allowed too.

    Raises
    ------
    TypeError
        If ``value`` is of another type, such as the string "no", which is true.
    """
    if not isinstance(value, bool | np.bool_) and not (optional and value is None):
        allowed = "True, False or None" if optional else "True or False"
        raise TypeError(f"{name} must be {allowed}, found {value!r}")


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    """Raise unless the value of a parameter is one of its choices.

    Parameters
    ----------
    name : str
        Name of the parameter, for the message.
    value : object
        Value of the parameter.
    choices : sequence of str or None
        Values that are allowed.

    Raises
    ------
    ValueError
        If ``value`` is none of them.
    """
    if not (value is None or isinstance(value, str)) or value not in choices:
        allowed = ", ".join(map(repr, choices))
        raise ValueError(f"{name} must be one of {allowed}, found {value!r}")


def check_mapping(name: str, params: Any) -> dict[str, Any]:
    """Copy a parameter that contains other parameters to a dict.

    Parameters
    ----------
    name : {"rule_params", "weights_params"}
        Name of the parameter, for the message.
    params : mapping of str to value, or None
        Value of the parameter; None means no parameters.

    Returns
    -------
    dict of str to value

    Raises
    ------
    TypeError
        If ``params`` is neither a mapping nor None.
    """
    if not isinstance(params, Mapping | None):
        raise TypeError(f"{name} must be a dict or None, found {params!r:.80}")
    return dict(params or {})


def check_n_jobs(n_jobs: Any) -> None:
    """Raise unless ``n_jobs`` is an integer other than 0, or None.

    Parameters
    ----------
    n_jobs : object
        Value of the parameter.

    Raises
    ------
    TypeError
        If it is not an integer.
    ValueError
        If it is 0.
    """
    if n_jobs is None:
        return
    if isinstance(n_jobs, bool) or not isinstance(n_jobs, Integral):
        raise TypeError(f"n_jobs must be an integer or None, found {n_jobs!r}")
    if n_jobs == 0:
        raise ValueError("n_jobs must not be 0; use 1, or -1 for all processors")


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
