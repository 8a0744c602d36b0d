"""Registry of learned parameters: a getter and a setter for each estimator type."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Parameters = dict[str, Any]  # NumPy arrays or PyTorch tensors by name


@dataclass(frozen=True)
class ParameterAccess:
    """Getter and setter of the learned parameters of an estimator type.

    Parameters
    ----------
    get : callable (estimator) -> dict of str to ndarray or torch.Tensor
        Returns the parameters of a fitted estimator. The arrays may share memory with
        the estimator; they are written to only in a private copy of it.
    set : callable (estimator, dict)
        Replaces the parameters by those of a dict as from ``get``.
    initialize : callable (estimator, X, y) -> estimator, or None, default=None
        Returns an estimator with parameters of the right shapes, from one that may be
        unfitted. None means that the type has no parameters before ``fit``.
    module : callable (estimator) -> torch.nn.Module, or None, default=None
        Returns the module with the parameters, for gradients; its names are those of
        ``get``. None means that the type has no PyTorch module.
    continue_training : callable (estimator, X, y, rng), or None, default=None
        Trains a fitted estimator for one more pass, in a sample order drawn from the
        NumPy Generator. None uses ``partial_fit`` or ``warm_start``, if available.
    is_permutable : bool or callable (estimator) -> sequence of str, default=False
        Whether hidden units can be permuted without a change of the predictions, or
        the names of the tensors where they can. Members must then be trained from the
        same initialization.
    counts : bool, default=False
        Whether ``partial_fit`` adds samples to counts, so that a second pass over the
        same samples counts them twice. Such an estimator is fitted once.
    """

    get: Callable[[Any], Parameters]
    set: Callable[[Any, Parameters], None]
    initialize: Callable[[Any, Any, Any], Any] | None = None
    module: Callable[[Any], Any] | None = None
    continue_training: Callable[[Any, Any, Any, np.random.Generator], None] | None = (
        None
    )
    is_permutable: bool | Callable[[Any], Sequence[str]] = False
    counts: bool = False

    def permutable_names(self, estimator: Any) -> list[str]:
        """Names of the tensors whose hidden units can be permuted.

        Parameters
        ----------
        estimator : object
            Fitted estimator of the type.

        Returns
        -------
        list of str
            Empty if ``is_permutable`` is False.
        """
        if callable(self.is_permutable):
            return list(self.is_permutable(estimator))
        return list(self.get(estimator)) if self.is_permutable else []


# Keys are classes, or full names of classes, so that their packages are not imported.
STATES: dict[type | str, ParameterAccess] = {}
REFUSED: dict[str, str] = {}  # reasons, by full name of a class or package


def register_state(
    kind: type | str,
    get: Callable[[Any], Parameters],
    set: Callable[[Any, Parameters], None],
    **more: Any,
) -> None:
    """Register the learned parameters of an estimator type.

    Parameters
    ----------
    kind : type or str
        A class, or its full name as in ``"package.module.Class"``. The registration
        also applies to its subclasses, unless they are registered themselves.
    get : callable (estimator) -> dict of str to ndarray or torch.Tensor
        Returns the parameters of a fitted estimator.
    set : callable (estimator, dict)
        Replaces the parameters by those of a dict as from ``get``.
    **more
        Further arguments of `ParameterAccess`.

    Raises
    ------
    ValueError
        If ``kind`` is registered already.

    Examples
    --------
    >>> from ensembles.checkpoints import get_state, set_state
    >>> class Line:
    ...     slope = 1.0
    >>> register_state(Line, vars, lambda line, state: vars(line).update(state))
    >>> line = Line()
    >>> set_state(line, {"slope": 2.0})
    >>> get_state(line)
    {'slope': 2.0}
    """
    if kind in STATES:
        raise ValueError(
            f"{kind!r} must be registered only once, but is registered already"
        )
    STATES[kind] = ParameterAccess(get, set, **more)


def parameter_access(estimator: Any) -> ParameterAccess:
    """Getter and setter registered for the type of an estimator.

    Parameters
    ----------
    estimator : object
        Estimator, fitted or not, whose class or nearest registered base class is used.

    Returns
    -------
    ParameterAccess

    Raises
    ------
    TypeError
        If the type is not registered, or its parameters cannot be averaged; the message
        gives the reason.
    """
    # Not imported above: the built-in kinds need this module.
    importlib.import_module("ensembles.checkpoints.parameters.builtin")
    for kind in type(estimator).__mro__:
        full = f"{kind.__module__}.{kind.__qualname__}"
        for key in (kind, full):
            if key in STATES:
                return STATES[key]
        packages = full.split(".")
        for size in range(len(packages), 0, -1):
            reason = REFUSED.get(".".join(packages[:size]))
            if reason is not None:
                raise TypeError(
                    f"{type(estimator).__name__} cannot be averaged: {reason}"
                )
    raise TypeError(
        f"the learned parameters of {type(estimator).__name__} are unknown; register "
        "them with ensembles.checkpoints.register_state(kind, get, set), or wrap a "
        "step of a pipeline that is equal in all members in a FrozenEstimator"
    )
