"""What an average may be told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any, TypedDict

import numpy as np
from numpy.typing import ArrayLike

from ensembles.dtypes import FLOATS
from ensembles.rules.rule import Rule

MEMORY = 64 << 20
CHOICES = {"integers": ("error", "first", "max"), "missing": ("error", "skip", "first")}


class Options(TypedDict, total=False):
    """What `plan` and `average` may be told, all by name.

    Parameters
    ----------
    rule : str or Rule, default="mean"
        A name in `ensembles.rules.RULES`, or a rule of one's own.
    weights : array-like of shape (n_members,) or None, default=None
        How much each member counts; None means equally.
    params : mapping of str to value, default={}
        Parameters of the rule.
    dtype : str or None, default=None
        Float format of the result; None keeps each tensor's own, in the first member.
    integers : {"error", "first", "max"}, default="error"
        What becomes of integer and boolean tensors that differ. Counts of batches
        (BatchNorm's ``num_batches_tracked``) take the largest in any case.
    missing : {"error", "skip", "first"}, default="error"
        What becomes of a tensor that a member lacks: nothing is done, it is left out,
        or it is copied from the first member.
    include, exclude : sequence of str, default=()
        Patterns for the names of tensors in the result; no ``include`` means all.
    key : str or None, default=None
        Where in a file of torch the state dict lies, by keys with dots between them.
    shard_size : int or None, default=None
        Bytes at most in a file of a directory; None keeps the first member's files.
    memory : int, default=64 MiB
        Bytes of buffers at most.
    threads : int or None, default=None
        None takes all processors.
    force : bool, default=False
        Whether an existing output is replaced.
    """

    rule: str | Rule
    weights: ArrayLike | None
    params: Mapping[str, Any]
    dtype: str | None
    integers: str
    missing: str
    include: Sequence[str]
    exclude: Sequence[str]
    key: str | None
    shard_size: int | None
    memory: int
    threads: int | None
    force: bool


def with_defaults(options: Options) -> Options:
    """All options, as given or by default.

    Parameters
    ----------
    options : Options

    Returns
    -------
    Options

    Raises
    ------
    TypeError
        If there is no such option.
    ValueError
        If an option is none of its choices.
    """
    given: Options = {
        "rule": "mean",
        "weights": None,
        "params": {},
        "dtype": None,
        "integers": "error",
        "missing": "error",
        "include": (),
        "exclude": (),
        "key": None,
        "shard_size": None,
        "memory": MEMORY,
        "threads": None,
        "force": False,
    }
    unknown = sorted(options.keys() - given.keys())
    if unknown:
        raise TypeError(f"unknown option {unknown[0]!r} (known: {', '.join(given)})")
    given |= options
    _check_numbers(given)
    given["params"] = given["params"] or {}
    if given["dtype"] is not None:
        given["dtype"] = str(float_named(given["dtype"]))
    for name in ("include", "exclude"):
        if isinstance(given[name], str):
            raise TypeError(
                f"{name} must be a sequence of patterns, found one alone: "
                f"{given[name]!r}"
            )
    for name, choices in CHOICES.items():
        if given[name] not in choices:  # type: ignore[literal-required]
            raise ValueError(
                f"{name} must be one of {', '.join(choices)}, found {given[name]!r}"  # type: ignore[literal-required]
            )
    if given["shard_size"] is not None and given["shard_size"] < 1:
        raise ValueError(f"shard size must be positive, found {given['shard_size']}")
    return given


def _check_numbers(given: Options) -> None:
    """Sizes and counts are whole numbers; None stands for a default."""
    for name, way in (
        ("memory", "bytes, such as 64 << 20 for 64 MiB"),
        ("shard_size", "bytes, such as 5 * 10**9 for 5 GB"),
        ("threads", "threads"),
    ):
        value = given[name]  # type: ignore[literal-required]
        is_number = isinstance(value, Integral) and not isinstance(value, bool)
        if not (is_number or (value is None and name != "memory")):
            raise TypeError(f"{name} must be a whole number of {way}, found {value!r}")


def float_named(name: str) -> np.dtype[Any]:
    """Float format of that name.

    Parameters
    ----------
    name : str

    Returns
    -------
    dtype

    Raises
    ------
    ValueError
        If none has it; the message lists all.
    """
    known = {str(dtype): dtype for dtype in FLOATS}
    short = {"f64": "float64", "f32": "float32", "f16": "float16", "bf16": "bfloat16"}
    short |= {"fp32": "float32", "fp16": "float16"}
    if short.get(name, name) not in known:
        raise ValueError(f"dtype must be one of {', '.join(known)}, found {name!r}")
    return known[short.get(name, name)]
