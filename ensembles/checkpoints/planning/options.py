"""Options of a merge that say which tensors are merged, and how they are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal, get_args

import numpy as np

from ensembles.checkpoints.formats.checkpoint import Keys
from ensembles.dtypes import FLOATS

MEMORY = 64 << 20
Integers = Literal["error", "first", "max"]
Missing = Literal["error", "skip", "first", "present"]
SHORT_NAMES = {
    **{"f64": "float64", "f32": "float32", "f16": "float16", "bf16": "bfloat16"},
    **{"fp32": "float32", "fp16": "float16"},
}


@dataclass(frozen=True, kw_only=True)
class MergeOptions:
    """Validated options of `plan` and `average`, besides members, base and rule.

    Parameters
    ----------
    dtype : str or None, default=None
        Float format of the result; None keeps the dtype of each tensor in the first
        member. A short name such as "bf16" becomes the NumPy name "bfloat16".
    integers : {"error", "first", "max"}, default="error"
        How to merge integer and boolean tensors that differ: raise an error, take the
        first member's, or take the elementwise maximum. BatchNorm's
        ``num_batches_tracked`` always takes the maximum.
    missing : {"error", "skip", "first", "present"}, default="error"
        How to handle a tensor that some members or the base lack: raise an error, leave
        it out, copy it from the first member, or combine it from the members that have
        it. A tensor that the first member lacks is left out with "first" too, and one
        that the base lacks is an error with "present".
    include, exclude : sequence of str, default=()
        Glob patterns for tensor names, such as "*.bias". An empty ``include`` includes
        all tensors; ``exclude`` takes precedence.
    key : str, sequence of str or None, default=None
        Key of the state dict in PyTorch checkpoints, with dots between nested keys,
        such as "ema.model"; several keys if the parts of one model have a key each.
        None finds it.
    shard_size : int or None, default=None
        Largest size of a weight file in a directory, in bytes; a larger tensor gets a
        file of its own. None divides tensors into files like the first member.
    only_weights : bool or None, default=None
        True writes only tensors, and the auxiliary files of a directory. False keeps
        the first member's training state and other contents too, or raises an error:
        a PyTorch file is a copy of the first member's file in which only the tensors
        differ, and its ``optimizer.pt`` and the like are copied into a directory. None
        keeps the contents of a PyTorch file where possible, and leaves training state
        out of a directory.
    memory : int, default=64 MiB
        Largest total size of the read buffers, in bytes.
    threads : int or None, default=None
        Number of threads; None uses all processors available to the process.
    force : bool, default=False
        Whether an existing output is replaced.
    rank : int, default=0
        Number of this process among the ones that write the output together, from 0.
    world_size : int or None, default=None
        Number of processes that write the output together; None writes it in this
        process alone.

    Raises
    ------
    TypeError
        If an option has the wrong type.
    ValueError
        If the value of an option is not allowed.
    """

    dtype: str | None = None
    integers: Integers = "error"
    missing: Missing = "error"
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    key: Keys = None
    shard_size: int | None = None
    only_weights: bool | None = None
    memory: int = MEMORY
    threads: int | None = None
    force: bool = False
    rank: int = 0
    world_size: int | None = None

    def __post_init__(self) -> None:
        """Validate all options."""
        _check_integer("memory", self.memory, "bytes, such as 64 << 20 for 64 MiB")
        if self.shard_size is not None:
            unit = "bytes, such as 5 * 10**9 for 5 GB"
            _check_integer("shard_size", self.shard_size, unit)
            if self.shard_size < 1:
                raise ValueError(
                    f"shard size must be positive, found {self.shard_size}"
                )
        if self.threads is not None:
            _check_integer("threads", self.threads, "threads")
        _check_rank(self.rank, self.world_size)
        if self.dtype is not None:
            object.__setattr__(self, "dtype", str(float_dtype(self.dtype)))
        _check_patterns("include", self.include)
        _check_patterns("exclude", self.exclude)
        if isinstance(self.key, str):
            object.__setattr__(self, "key", (self.key,))
        _check_choice("integers", self.integers, get_args(Integers))
        _check_choice("missing", self.missing, get_args(Missing))


def _check_integer(name: str, value: object, unit: str) -> None:
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number of {unit}, found {value!r}")


def _check_rank(rank: int, world_size: int | None) -> None:
    _check_integer("rank", rank, "processes, from 0")
    if world_size is None:
        if rank != 0:
            raise ValueError(f"rank={rank} needs world_size, the number of processes")
        return
    _check_integer("world_size", world_size, "processes")
    if not 0 <= rank < world_size:
        raise ValueError(
            "rank must be at least 0 and smaller than world_size, found "
            f"rank={rank} and world_size={world_size}"
        )


def _check_patterns(name: str, patterns: object) -> None:
    if isinstance(patterns, str):
        raise TypeError(
            f"{name} must be a sequence of patterns, found a string: {patterns!r}"
        )


def _check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, found {value!r}")


def float_dtype(name: str) -> np.dtype[Any]:
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
    dtypes = {str(dtype): dtype for dtype in FLOATS}
    if SHORT_NAMES.get(name, name) not in dtypes:
        raise ValueError(f"dtype must be one of {', '.join(dtypes)}, found {name!r}")
    return dtypes[SHORT_NAMES.get(name, name)]
