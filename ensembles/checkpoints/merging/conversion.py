"""Convert a checkpoint to another format, float format or division into files."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

from ensembles.checkpoints.directories.open import Member
from ensembles.checkpoints.formats.checkpoint import Keys
from ensembles.checkpoints.merging.average import MergeReport, silent, write
from ensembles.checkpoints.planning.notices import NEW_CARD
from ensembles.checkpoints.planning.options import MEMORY
from ensembles.checkpoints.planning.plan import Plan, plan


def convert(
    checkpoint: Member,
    out: str | os.PathLike[str],
    *,
    dtype: str | None = None,
    key: Keys = None,
    shard_size: int | None = None,
    only_weights: bool | None = None,
    memory: int = MEMORY,
    threads: int | None = None,
    force: bool = False,
    progress: Callable[[int], None] = silent,
    sha256: bool = False,
    rank: int = 0,
    world_size: int | None = None,
) -> MergeReport:
    """Convert a checkpoint: its format, the float format, or the division into files.

    Tensors have the same bytes, or are rounded once if ``dtype`` is another one. They
    are streamed, and the output is atomic, as in `average`. A directory keeps its
    auxiliary files, also the model card. If the checkpoint is itself an average, the
    result has its provenance too.

    Parameters
    ----------
    checkpoint : path or state dict
        Checkpoint file, directory, or mapping of names to NumPy arrays or torch
        tensors.
    out : path
        Path of the output: a file with the suffix of a format, such as
        ``.safetensors``, ``.pt``, ``.npz`` or ``.gguf``, else a directory.
    dtype : str or None, default=None
        Float format of the result, such as "bfloat16"; None keeps each tensor's.
    key : str, sequence of str or None, default=None
        Key of the state dict in a PyTorch checkpoint, with dots between nested keys,
        such as "ema.model"; several for one model in parts. None finds it.
    shard_size : int or None, default=None
        Largest size of a weight file in a directory, in bytes; a larger tensor gets a
        file of its own. None divides tensors into files like the checkpoint.
    only_weights : bool or None, default=None
        Whether the output contains only tensors, and the auxiliary files of a
        directory. False also keeps training state, or raises an error; None keeps the
        optimizer state and counters of a PyTorch file that is converted to a PyTorch
        file, unless the dtype changes. See `average`.
    memory : int, default=64 MiB
        Largest total size of the read buffers, in bytes.
    threads : int or None, default=None
        Number of threads; None uses all processors available to the process.
    force : bool, default=False
        Whether an existing output is replaced.
    progress : callable, optional
        Called with the number of bytes read since the last call, from any thread.
    sha256 : bool, default=False
        Whether to compute the SHA-256 of all weight files for the report.
    rank : int, default=0
        Number of this process among ``world_size`` processes, from 0.
    world_size : int or None, default=None
        Number of processes that write the output together, which is a directory; see
        `average`. None writes everything in this process.

    Returns
    -------
    MergeReport
        Its ``plan`` has a single member.

    Raises
    ------
    FileNotFoundError
        If the checkpoint does not exist.
    FileExistsError
        If ``out`` exists, or another run creates it meanwhile, unless ``force``.
    TypeError
        If the checkpoint or an option has the wrong type.
    ValueError
        If the checkpoint cannot be read or ``out`` cannot be written; nothing is
        written.

    Warns
    -----
    UserWarning
        If a tensor contains NaN or infinity.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> from ensembles.checkpoints import average, convert
    >>> path = os.path.join(tempfile.mkdtemp(), "model.npz")
    >>> report = convert({"w": np.array([0.1])}, path, dtype="float16")
    >>> average([path])
    {'w': array([0.1], dtype=float16)}
    """
    planned = plan(
        [checkpoint],
        out,
        dtype=dtype,
        key=key,
        shard_size=shard_size,
        only_weights=only_weights,
        memory=memory,
        threads=threads,
        force=force,
        rank=rank,
        world_size=world_size,
    )
    return write(as_conversion(planned), progress=progress, sha256=sha256)


def as_conversion(plan: Plan) -> Plan:
    """Plan that copies the tensors of its single member instead of combining them.

    Parameters
    ----------
    plan : Plan
        Plan of an average of one member.

    Returns
    -------
    Plan
    """
    copies = {target.name: target._replace(action="copy") for target in plan.targets}
    return replace(
        plan,
        targets=[copies[target.name] for target in plan.targets],
        parts={
            part: [copies[target.name] for target in targets]
            for part, targets in plan.parts.items()
        },
        notes=tuple(note for note in plan.notes if note != NEW_CARD),
    )
