"""Options of an average, with their defaults and validation."""

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
    """Keyword options of `plan` and `average`.

    Parameters
    ----------
    rule : str or Rule, default="mean"
        Rule that combines the members: a name in `ensembles.rules.RULES`, or a custom
        `Rule`.
    weights : array-like of shape (n_members,) or None, default=None
        Weight of each member; None gives all members the same weight.
    params : mapping of str to value, default={}
        Parameters of the rule, by name.
    dtype : str or None, default=None
        Float format of the result; None keeps the dtype of each tensor in the first
        member.
    integers : {"error", "first", "max"}, default="error"
        How to merge integer and boolean tensors that differ: raise an error, take the
        first member's, or take the elementwise maximum. BatchNorm's
        ``num_batches_tracked`` always takes the maximum.
    missing : {"error", "skip", "first"}, default="error"
        How to handle a tensor that some members lack: raise an error, leave it out, or
        copy it from the first member. A tensor that the first member lacks is left out
        with "first" too.
    include, exclude : sequence of str, default=()
        Glob patterns for tensor names, such as "*.bias". An empty ``include`` includes
        all tensors; ``exclude`` takes precedence.
    key : str or None, default=None
        Key of the state dict in PyTorch checkpoints, with dots between nested keys,
        such as "ema.model"; None finds it.
    shard_size : int or None, default=None
        Largest size of a weight file in a directory, in bytes; a larger tensor gets a
        file of its own. None divides tensors into files like the first member.
    memory : int, default=64 MiB
        Largest total size of the read buffers, in bytes.
    threads : int or None, default=None
        Number of threads; None uses all processors available to the process.
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
    """Validate options and fill in the defaults.

    Parameters
    ----------
    options : Options
        Options from the user, any subset.

    Returns
    -------
    Options
        All options, with ``dtype`` as a NumPy name such as "bfloat16".

    Raises
    ------
    TypeError
        If an option is unknown or has the wrong type.
    ValueError
        If the value of an option is not allowed.
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
    """Raise `TypeError` if a size or number of threads is not an integer or None."""
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
    """Float dtype with a name.

    Parameters
    ----------
    name : str
        NumPy name, such as "bfloat16", or a short name, such as "bf16" or "fp16".

    Returns
    -------
    dtype

    Raises
    ------
    ValueError
        If the name is unknown; the message lists all NumPy names.
    """
    known = {str(dtype): dtype for dtype in FLOATS}
    short = {"f64": "float64", "f32": "float32", "f16": "float16", "bf16": "bfloat16"}
    short |= {"fp32": "float32", "fp16": "float16"}
    if short.get(name, name) not in known:
        raise ValueError(f"dtype must be one of {', '.join(known)}, found {name!r}")
    return known[short.get(name, name)]
