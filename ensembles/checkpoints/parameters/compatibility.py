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
            expected, actual = (_trait(part, name) for part in (wanted, first))
            if expected != actual:
                raise ValueError(
                    f"members must have the estimator's {name}{_of(step)}, "
                    f"{expected!r}: the first has {actual!r}"
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
    for (step, first_part), (_, part) in _pairs(first, member):
        for trait in MEANING if hasattr(first_part, "get_params") else ():
            expected, actual = (_trait(each, trait) for each in (first_part, part))
            if not np.array_equal(np.asarray(expected), np.asarray(actual)):
                raise ValueError(
                    f"members must agree in {trait}{_of(step)}: {name} has "
                    f"{_shown(actual, expected)}, the first {_shown(expected, actual)}"
                )
        if not step or is_averaged(first_part):
            continue
        same = is_same(unwrap_frozen(first_part), unwrap_frozen(part))
        if same is None:
            warn_caller(
                f"cannot verify that step {step!r} of {name} behaves like that of the "
                "first member"
            )
        elif not same:
            raise ValueError(
                f"members must agree in step {step!r}, which is not averaged: the "
                f"{type(unwrap_frozen(part)).__name__} of {name} differs from that of "
                "the first; fit it once for all members, and wrap it in "
                "sklearn.frozen.FrozenEstimator"
            )


def _trait(part: Any, name: str) -> Any:
    """Value of a setting or an attribute; None if it is missing."""
    if name == "link" and hasattr(part, "_get_loss"):  # "auto" depends on the power
        return type(part._get_loss().link).__name__
    return getattr(part, name, None)


def _pairs(
    first: Any, second: Any
) -> Iterator[tuple[tuple[str, Any], tuple[str, Any]]]:
    return zip(iter_steps(first), iter_steps(second), strict=True)


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


def is_same(first: Any, second: Any) -> bool | None:
    """Whether two values are the same object or have equal contents.

    Parameters
    ----------
    first, second : object
        Values to compare. Objects are compared by the contents of their pickles,
        without settings that do not affect predictions.

    Returns
    -------
    bool or None
        None if unknown, e.g. for two lambda functions.
    """
    if first is second or _digest(first, exact=True) == _digest(second, exact=True):
        return True
    is_unknown = _digest(first, exact=False) == _digest(second, exact=False)
    return None if is_unknown else False


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
            self.containers: list[int] = []  # ids of the containers of a value

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
    expected, actual = (_lines(module) for module in (template, member))
    if type(template) is type(member) and expected != actual:
        pairs = zip_longest(expected, actual, fillvalue="nothing more")
        expected_line, line = next(pair for pair in pairs if pair[0] != pair[1])
        warn_caller(
            f"{name} has another architecture than the estimator: {line} instead of "
            f"{expected_line}"
        )
    keys = config_differences(_config(template), _config(member))
    if keys:
        warn_caller(
            f"{name} has another configuration than the estimator, in {', '.join(keys)}"
        )


def _lines(module: Any) -> list[str]:
    """Lines of a module's representation, without dropout and identity layers."""
    text = re.sub(r",? ?dropout=[\d.]+", "", repr(module))
    lines = (line.strip() for line in text.splitlines())
    return [
        line for line in lines if "Dropout" not in line and "Identity()" not in line
    ]


def _config(module: Any) -> dict[str, Any]:
    to_dict = getattr(getattr(module, "config", None), "to_dict", None)
    return {} if to_dict is None else dict(to_dict())
