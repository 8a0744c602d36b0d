"""The table of selections by name, the class of its entries, and parameter checks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np

from ensembles._typing import Counts, Float64
from ensembles.registry import RegisteredFunction, Table
from ensembles.selection.score import CachedScore, Score, Trial

Record = Callable[[Trial], None]


class Selection(RegisteredFunction):
    """A function that chooses weights by their score, with its properties.

    Parameters
    ----------
    function : callable (n_members, score, *, record, **params) -> weights or counts
        Returns float64 weights of shape (n_members,), non-negative, with sum 1, or
        int64 counts of how often each member was added; or the best `Trial`, if it
        ``samples_params``. It receives a ``CachedScore``, and calls ``record`` with
        each `Trial`.
    check : callable (n_members, **params), or None, default=None
        Raises if a parameter is not valid; it receives all of them, before anything is
        scored. None checks their names only.
    needs_base : bool, default=False
        Whether the members must be fine-tuned from a base. The base has the weight 1
        minus the sum of their weights, which may then be less than 1.
    adds_members : bool, default=False
        Whether members are added one by one. Then trials have counts, and a score can
        update a running mean.
    uses_gradient : bool, default=False
        Whether it optimizes a smooth score, by its gradient if the score has one.
    single_member : bool, default=False
        Whether it gives one member all the weight. Then no warning is raised if the
        weights do not beat the best single member.
    samples_params : bool, default=False
        Whether it also chooses the parameters of the rule for which the score has
        ``ranges``.
    symmetric : bool, default=True
        Whether the weights of the members are independent of their order, up to ties.
    n_scores : callable (n_members) -> int, or None, default=None
        Approximate number of scores with default parameters; None if unknown.
    """

    noun = "selection"
    reserved = frozenset(("record",))

    def __init__(
        self,
        function: Callable[..., Float64 | Counts | Trial],
        *,
        check: Callable[..., None] | None = None,
        needs_base: bool = False,
        adds_members: bool = False,
        uses_gradient: bool = False,
        single_member: bool = False,
        samples_params: bool = False,
        symmetric: bool = True,
        n_scores: Callable[[int], int] | None = None,
    ) -> None:
        super().__init__(function)
        self.check = check
        self.needs_base = needs_base
        self.adds_members = adds_members
        self.uses_gradient = uses_gradient
        self.single_member = single_member
        self.samples_params = samples_params
        self.symmetric = symmetric
        self.n_scores = n_scores

    def __call__(
        self,
        n_members: int,
        score: Score,
        *,
        record: Record | None = None,
        **params: Any,
    ) -> Float64:
        """Choose weights.

        Parameters
        ----------
        n_members : int, at least 1
            Number of members.
        score : Score
            Score of weights; greater is better. It is called once for each set of
            weights.
        record : callable or None, default=None
            Called with each `Trial`, in order; None ignores them.
        **params
            Parameters of the selection.

        Returns
        -------
        ndarray of shape (n_members,), float64, non-negative
            With sum 1, or at most 1 if the selection needs a base.
        """
        self.check_params(n_members, params)
        cached = score if isinstance(score, CachedScore) else CachedScore(score)
        record = record or _ignore
        chosen = self.function(n_members, cached, record=record, **params)
        if isinstance(chosen, Trial):
            return chosen.weights
        weights = np.asarray(chosen)
        return weights / weights.sum() if weights.dtype.kind == "i" else weights

    def check_params(self, n_members: int, params: Mapping[str, Any]) -> None:
        """Raise if a parameter is unknown or not valid.

        Parameters
        ----------
        n_members : int, at least 1
            Number of members.
        params : mapping of str to value
            Parameters of the selection; the others have their defaults.

        Raises
        ------
        ValueError, TypeError
            If a parameter is unknown or not valid.
        ImportError
            If the selection needs a package that is not installed.
        """
        self.check_names(params)
        if self.check is not None:
            self.check(n_members, **{**self.params, **params})

    def check_names(self, params: Iterable[str]) -> None:
        """Raise if the selection has no parameter of one of these names.

        Parameters
        ----------
        params : iterable of str
            Names of parameters.

        Raises
        ------
        ValueError
            If a name is unknown; the message lists the parameters of the selection, and
            the other selections that have a parameter of this name.
        """
        names = self.params
        for name in params:
            if name not in names:
                owners = [key for key, s in SELECTIONS.items() if name in s.params]
                hint = (
                    f"; it is a parameter of {' and '.join(owners)}" if owners else ""
                )
                raise ValueError(
                    f"selection {self.name!r} has no parameter {name!r} "
                    f"(known: {', '.join(names) or 'none'}){hint}"
                )


SELECTIONS: Table[Selection] = Table("selection", Selection)


def _ignore(trial: Trial) -> None:
    """Default ``record``, which does nothing."""


def check_integer(**params: Any) -> None:
    """Check that parameters are integers.

    Parameters
    ----------
    **params
        Parameters by name.

    Raises
    ------
    TypeError
        If a parameter is not an integer, or is a bool.
    """
    for name, value in params.items():
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise TypeError(f"{name} must be an integer, found {value!r}")


def check_real(**params: Any) -> None:
    """Check that parameters are real numbers.

    Parameters
    ----------
    **params
        Parameters by name.

    Raises
    ------
    TypeError
        If a parameter is not a real number, or is a bool.
    """
    for name, value in params.items():
        number = value[()] if isinstance(value, np.ndarray) else value
        if isinstance(number, bool) or not isinstance(number, Real):
            raise TypeError(f"{name} must be a number, found {value!r}")


def generator_of(random_state: Any) -> np.random.Generator:
    """NumPy generator for a parameter ``random_state``.

    Parameters
    ----------
    random_state : int, Generator, RandomState or None
        Seed, or a generator that is returned itself. A RandomState draws the seed; None
        takes the seed from the operating system.

    Returns
    -------
    Generator

    Raises
    ------
    TypeError
        If ``random_state`` has another type.
    ValueError
        If it is negative.
    """
    if isinstance(random_state, np.random.RandomState):
        return np.random.default_rng(random_state.randint(2**31))
    if random_state is None or isinstance(random_state, np.random.Generator):
        return np.random.default_rng(random_state)
    if isinstance(random_state, bool) or not isinstance(random_state, Integral):
        raise TypeError(
            "random_state must be an integer, a Generator, a RandomState or None, "
            f"found {random_state!r}"
        )
    if random_state < 0:
        raise ValueError(f"random_state must not be negative, found {random_state}")
    return np.random.default_rng(int(random_state))
