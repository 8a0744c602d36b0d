"""Weighted sums of low-rank adapters: exact, or of a smaller rank."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from numpy.typing import ArrayLike

from ensembles.checkpoints.adapters.plan import plan_adapters
from ensembles.checkpoints.adapters.writing import AdapterReport, write_adapters
from ensembles.checkpoints.directories.adapter_files import AdapterSource
from ensembles.checkpoints.merging.average import silent


def average_adapters(
    members: Sequence[AdapterSource],
    out: str | os.PathLike[str],
    *,
    rule: str = "mean",
    weights: ArrayLike | None = None,
    rule_params: Mapping[str, Any] | None = None,
    rank: int | None = None,
    energy: float | None = None,
    dtype: str | None = None,
    threads: int | None = None,
    force: bool = False,
    progress: Callable[[int], None] = silent,
) -> AdapterReport:
    """Merge low-rank adapters (LoRA): a weighted sum of their updates, not of factors.

    The sum of the updates ``scale * b @ a`` is exact: the factors are stacked, so that
    ranks add up. Adapters with an equal first or second factor share it, and keep their
    rank. With ``rank`` or ``energy``, the result is the best approximation of a smaller
    rank, from the singular values of the stacked factors; no update is ever computed in
    the size of its weight. Everything is computed in float64 and rounded once.

    Parameters
    ----------
    members : sequence of paths, state dicts or checkpoints, at least one
        Directories of PEFT with ``adapter_config.json``, or files of kohya's
        sd-scripts, musubi-tuner or diffusers. A module that an adapter does not update
        counts as an update of zero.
    out : path
        Path of the output: a directory is written for PEFT; a file, such as
        ``merged.safetensors``, with the names of kohya, or those of diffusers if the
        first adapter has them.
    rule : str, default="mean"
        "mean" divides by the sum of the weights; "task_arithmetic" is the weighted sum,
        times its parameter ``scale``. Other rules, such as "ties", "tsv" or "iso_c",
        merge the updates of each module in the space that their factors span; the
        result has at most the sum of the ranks.
    weights : array-like of shape (n_members,) or None, default=None
        Weight of each adapter, of any sign; None gives all the weight 1.
    rule_params : mapping of str to value or None, default=None
        Parameters of the rule, by name; None means the defaults.
    rank : int or None, default=None
        Largest rank of a module in the result; None keeps the exact sum.
    energy : float or None, default=None
        Fraction of the sum of squared singular values that each module keeps, such as
        0.99, with the smallest rank that does; None keeps the exact sum.
    dtype : str or None, default=None
        Float format of the result, such as "float32"; None keeps the format of each
        tensor in the first adapter.
    threads : int or None, default=None
        Number of threads; None uses all processors available to the process.
    force : bool, default=False
        Whether an existing output is replaced.
    progress : callable, optional
        Called with the number of bytes read since the last call, from any thread; the
        total is ``plan_adapters(...).read_bytes``.

    Returns
    -------
    AdapterReport

    Raises
    ------
    FileNotFoundError
        If an adapter does not exist.
    FileExistsError
        If ``out`` exists, unless ``force``.
    TypeError
        If a member has the wrong type.
    ValueError
        If the adapters have no weighted sum, as of DoRA, or belong to different bases,
        or ``out`` cannot be written; nothing is written.

    Warns
    -----
    UserWarning
        If a tensor of the result contains NaN or infinity.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> from ensembles.checkpoints import average_adapters
    >>> rng = np.random.default_rng(0)
    >>> def adapter():
    ...     return {
    ...         "lora_unet_fc.lora_down.weight": rng.standard_normal((2, 6)),
    ...         "lora_unet_fc.lora_up.weight": rng.standard_normal((4, 2)),
    ...         "lora_unet_fc.alpha": np.array(1.0),
    ...     }
    >>> path = os.path.join(tempfile.mkdtemp(), "merged.safetensors")
    >>> report = average_adapters([adapter(), adapter()], path, weights=[1, -0.5])
    >>> [(module.ranks, module.rank) for module in report.modules]
    [((2, 2), 4)]
    """
    planned = plan_adapters(
        members,
        out,
        rule=rule,
        weights=weights,
        rule_params=rule_params,
        rank=rank,
        energy=energy,
        dtype=dtype,
        threads=threads,
        force=force,
    )
    return write_adapters(planned, progress=progress)
