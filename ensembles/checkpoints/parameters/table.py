"""What an estimator's parameters are: a getter and a setter for each kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Parameters = dict[str, Any]  # names to numpy arrays or torch tensors


@dataclass(frozen=True)
class State:
    """How the learned parameters of a kind of estimator are taken out and put in.

    Parameters
    ----------
    get : callable (estimator) -> dict of str to ndarray or torch.Tensor
        Of a fitted estimator. The arrays may be its own: they are never written to,
        except in a copy that nobody else holds.
    set : callable (estimator, dict)
        Puts in what ``get`` would give.
    start : callable (estimator, X, y) -> estimator, or None, default=None
        One of the kind with parameters of the right shapes, to put others into, from
        one that need not be fitted. None is for kinds that have none before ``fit``.
    module : callable (estimator) -> torch.nn.Module, or None, default=None
        The module whose parameters they are, for gradients; its names are those of
        ``get``.
    advance : callable (estimator, X, y, rng), or None, default=None
        Trains a fitted one for one more pass, in an order that the generator draws.
        None goes by ``partial_fit`` or ``warm_start`` where there is one.
    is_network : bool or callable (estimator) -> sequence of str, default=False
        Whether hidden units could change places, or in which tensors: members must
        be trained from one initialization then.
    counts : bool, default=False
        Whether ``partial_fit`` adds samples to counts, so that a second pass over the
        same samples counts them twice. Such an estimator is fitted once.
    """

    get: Callable[[Any], Parameters]
    set: Callable[[Any, Parameters], None]
    start: Callable[[Any, Any, Any], Any] | None = None
    module: Callable[[Any], Any] | None = None
    advance: Callable[[Any, Any, Any, np.random.Generator], None] | None = None
    is_network: bool | Callable[[Any], Sequence[str]] = False
    counts: bool = False

    def network(self, estimator: Any) -> list[str]:
        """Names of the tensors whose units could change places.

        Parameters
        ----------
        estimator : object
            Of the kind.

        Returns
        -------
        list of str
        """
        if callable(self.is_network):
            return list(self.is_network(estimator))
        return list(self.get(estimator)) if self.is_network else []


# Classes by themselves, or by their full name, which spares importing their packages.
STATES: dict[type | str, State] = {}
REFUSED: dict[str, str] = {}  # the same, or whole packages: why there is no state


def register_state(
    kind: type | str,
    get: Callable[[Any], Parameters],
    set: Callable[[Any, Parameters], None],
    **more: Any,
) -> None:
    """Say what the learned parameters of a kind of estimator are.

    Parameters
    ----------
    kind : type or str
        A class, or its full name as in ``"package.module.Class"``; it holds for the
        classes derived from it, unless they are registered themselves.
    get, set, **more
        See `State`.

    Raises
    ------
    ValueError
        If the kind is registered already.

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
        raise ValueError(f"a kind must be registered once, found a second {kind!r}")
    STATES[kind] = State(get, set, **more)


def state_of(estimator: Any) -> State:
    """How the parameters of an estimator are taken out and put in.

    Parameters
    ----------
    estimator : object

    Returns
    -------
    State

    Raises
    ------
    TypeError
        If its kind has no parameters whose mean would mean anything, or is unknown;
        the message says why.
    """
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
        f"it is not known what {type(estimator).__name__} has learned; "
        "ensembles.checkpoints.register_state(kind, get, set) says it, and a step of a "
        "pipeline that is the same in all members goes into a FrozenEstimator"
    )
