"""Check that two estimators interpret their parameters in the same way."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

import numpy as np

from ensembles._sklearn import unwrap_frozen, warn_caller
from ensembles.checkpoints.compatibility.configuration import config_differences
from ensembles.checkpoints.formats.state_dict import as_array, is_torch
from ensembles.checkpoints.parameters.pipeline_steps import is_averaged, iter_steps

# Settings that affect the meaning of parameters, and learned attributes that do.
SETTINGS = ("activation", "link", "with_std", "with_scaling")
MEANING = (*SETTINGS, "out_activation_", "feature_names_in_", "classes_")
SHOWN = 10  # maximum number of array entries in a message
# Settings that do not affect predictions, and an attribute that differs by process.
IDLE = ("copy", "memory", "n_jobs", "random_state", "verbose", "_stop_words_id")


def check_settings(template: Any, estimator: Any) -> None:
    """Raise if an estimator's settings give parameters another meaning.

    Parameters
    ----------
    template : estimator
        The first fitted member.
    estimator : estimator
        Estimator of the soup, with the same steps.

    Raises
    ------
    ValueError
        If they differ in one of `SETTINGS`, such as the activation function.
    """
    for (step, first), (_, wanted) in _pairs(template, estimator):
        for name in SETTINGS:
            ours, theirs = (_trait(one, name) for one in (wanted, first))
            if ours != theirs:
                raise ValueError(
                    f"members must have the estimator's {name}{_of(step)}, {ours!r}: "
                    f"the first has {theirs!r}"
                )


def check_compatible(first: Any, member: Any, name: str) -> None:
    """Raise if a member's parameters have another meaning than those of the first.

    Parameters
    ----------
    first, member : object
        Fitted estimators; nothing is compared if their types differ.
    name : str
        Name of the member in messages.

    Raises
    ------
    ValueError
        If they differ in an entry of `MEANING`, such as their classes, or in a step of
        a pipeline that is not averaged.

    Warns
    -----
    UserWarning
        If such steps cannot be compared, as with two lambda functions.
    """
    if type(first) is not type(member):
        return
    for (step, one), (_, other) in _pairs(first, member):
        for trait in MEANING if hasattr(one, "get_params") else ():
            ours, theirs = (_trait(part, trait) for part in (one, other))
            if not np.array_equal(np.asarray(ours), np.asarray(theirs)):
                raise ValueError(
                    f"members must agree in {trait}{_of(step)}: {name} has "
                    f"{_shown(theirs, ours)}, the first {_shown(ours, theirs)}"
                )
        if not step or is_averaged(one):
            continue
        same = is_same(unwrap_frozen(one), unwrap_frozen(other))
        if same is None:
            warn_caller(
                f"cannot verify that step {step!r} of {name} behaves like that of the "
                "first member"
            )
        elif not same:
            raise ValueError(
                f"members must agree in step {step!r}, which is not averaged: {name} "
                f"has another {type(unwrap_frozen(other)).__name__} than the first; "
                "fit it once for all, and wrap it in sklearn.frozen.FrozenEstimator"
            )


def _trait(part: Any, name: str) -> Any:
    """Value of a setting or an attribute; None if it is missing."""
    if name == "link" and hasattr(part, "_get_loss"):  # "auto" depends on the power
        return type(part._get_loss().link).__name__
    return getattr(part, name, None)


def _pairs(one: Any, other: Any) -> Iterator[tuple[tuple[str, Any], tuple[str, Any]]]:
    return zip(iter_steps(one), iter_steps(other), strict=True)


def _of(step: str) -> str:
    return f" of step {step!r}" if step else ""


def _shown(value: Any, other: Any) -> str:
    """Value for a message; for long arrays, the length or first differing entry."""
    if np.ndim(value) != 1 or len(value) <= SHOWN:
        return str(value)
    if np.shape(value) != np.shape(other):
        return f"{len(value)} entries"
    index = int(np.flatnonzero(np.asarray(value) != np.asarray(other))[0])
    return f"{value[index]!r} at index {index}"


def is_same(one: Any, other: Any) -> bool | None:
    """Whether two values are the same object or have equal contents.

    Parameters
    ----------
    one, other : object
        Values to compare. Objects are compared by the contents of their pickles,
        without settings that do not affect predictions.

    Returns
    -------
    bool or None
        None if unknown, e.g. for two lambda functions.
    """
    if one is other or _digest(one, exact=True) == _digest(other, exact=True):
        return True
    return None if _digest(one, exact=False) == _digest(other, exact=False) else False


def _digest(value: Any, *, exact: bool) -> str:
    """Hash of the contents of a value.

    Values that cannot be pickled, such as lambda functions, count as equal; with
    ``exact`` they differ unless they are one object.
    """
    from joblib.hashing import NumpyHasher

    class Hasher(NumpyHasher):
        """Hasher of values; sharing, memory layout and idle settings do not count."""

        def __init__(self) -> None:
            super().__init__("md5")
            self.containers: list[int] = []  # identities of those around a value

        def memoize(self, obj: Any) -> None:
            """Do nothing: one list used twice equals two equal lists."""

        def save(self, obj: Any) -> None:
            if id(obj) in self.containers:
                super().save(f"container {self.containers.index(id(obj))}")
                return
            self.containers.append(id(obj))
            try:
                super().save(_normalized(obj))
            except Exception:  # pickling may raise anything
                super().save((type(obj).__qualname__, id(obj) if exact else None))
            self.containers.pop()

        def _batch_setitems(self, items: Any, *more: Any) -> None:
            kept = [(k, v) for k, v in items if not isinstance(k, str) or k not in IDLE]
            super()._batch_setitems(kept, *more)

    return str(Hasher().hash(value))


def _normalized(value: Any) -> Any:
    """Value that is hashed instead, the same for equal contents, such as 1 and 1.0."""
    if is_torch(value):
        value = as_array(value, "tensor")
    if isinstance(value, bool | np.bool | int | np.integer | np.floating):
        number = float(value)
        return number if number == value or number != number else value
    if isinstance(value, str | frozenset):  # NumPy strings; frozensets have an order
        return str(value) if isinstance(value, str) else set(value)
    if not isinstance(value, np.ndarray):
        return value
    if value.dtype.kind in "biuf" and value.dtype.itemsize <= 8:
        floats = value.astype(np.float64, order="C") + 0.0  # -0.0 is 0.0
        with np.errstate(invalid="ignore"):  # the largest integers
            is_exact = value.dtype.kind == "f" or np.array_equal(
                floats.astype(value.dtype), value
            )
        return floats if is_exact else np.ascontiguousarray(value)
    # Structured arrays, as in trees, may have random bytes between the fields.
    return np.ascontiguousarray(value) if value.dtype.kind in "cmM" else value.tolist()


def warn_module_differences(template: Any, member: Any, name: str) -> None:
    """Warn if a module differs from the estimator's in architecture or configuration.

    Parameters
    ----------
    template, member : torch.nn.Module
        Modules of the estimator and of the member.
    name : str
        Name of the member in the warning.

    Warns
    -----
    UserWarning
        If submodules differ in the same class of module, or configurations differ.
    """
    ours, theirs = (_lines(module) for module in (template, member))
    if type(template) is type(member) and ours != theirs:
        pairs = zip_longest(ours, theirs, fillvalue="nothing more")
        one, other = next(pair for pair in pairs if pair[0] != pair[1])
        warn_caller(
            f"{name} has another architecture than the estimator: {other} instead of "
            f"{one}"
        )
    differ = config_differences(_config(template), _config(member))
    if differ:
        warn_caller(
            f"{name} has another configuration than the estimator, in "
            f"{', '.join(differ)}"
        )


def _lines(module: Any) -> list[str]:
    """Lines of a module's representation, without dropout and identity layers."""
    text = re.sub(r",? ?dropout=[\d.]+", "", repr(module))
    lines = (line.strip() for line in text.splitlines())
    return [
        line for line in lines if "Dropout" not in line and "Identity()" not in line
    ]


def _config(module: Any) -> dict[str, Any]:
    tell = getattr(getattr(module, "config", None), "to_dict", None)
    return {} if tell is None else dict(tell())
