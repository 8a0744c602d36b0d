"""Models from a base and an adapter."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ensembles.checkpoints.directories.adapter_files import (
    AdapterSource,
    has_adapter,
    open_adapter,
)
from ensembles.checkpoints.directories.open import Member
from ensembles.checkpoints.merging.average import MergeReport, silent, write
from ensembles.checkpoints.merging.conversion import as_conversion
from ensembles.checkpoints.planning.plan import Plan, plan
from ensembles.checkpoints.views.adapted import adapted, open_adapted


def apply_adapter(
    base: Member,
    adapter: AdapterSource,
    out: str | os.PathLike[str],
    *,
    scale: float = 1.0,
    progress: Callable[[int], None] = silent,
    sha256: bool = False,
    **options: Any,
) -> MergeReport:
    """Add a LoRA adapter to its base, and write the model.

    Each weight is base + scale * alpha / rank * b @ a, computed in float64 and rounded
    once to the dtype of the base; DoRA rescales it by norms of the whole weight. The
    model is streamed: no tensor is held in memory whole.

    Parameters
    ----------
    base : path, state dict or Checkpoint
        Model that the adapter was trained on, which must not be quantized.
    adapter : path, state dict or Checkpoint
        Directory of PEFT, or file of kohya or diffusers.
    out : path
        Path of the output, as in `average`.
    scale : float, default=1.0
        Factor of the updates, of any sign. Biases and modules that the adapter replaces
        are not scaled.
    progress : callable, optional
        Called with the number of bytes read since the last call, from any thread.
    sha256 : bool, default=False
        Whether to compute the SHA-256 of all weight files for the report.
    **options
        Options of `plan`, such as ``dtype``, ``shard_size``, ``memory``, ``threads``
        and ``force``.

    Returns
    -------
    MergeReport

    Raises
    ------
    FileNotFoundError
        If the base or the adapter does not exist.
    FileExistsError
        If ``out`` exists, unless ``force``.
    ValueError
        If the adapter is one of another base, the base is quantized, or ``out`` cannot
        be written; nothing is written.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> from ensembles.checkpoints import apply_adapter, average
    >>> adapter = {
    ...     "lora_unet_fc.lora_down.weight": np.array([[1.0, 2.0]]),
    ...     "lora_unet_fc.lora_up.weight": np.array([[0.5], [0.25]]),
    ... }
    >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
    >>> report = apply_adapter({"fc.weight": np.ones((2, 2))}, adapter, path)
    >>> average([path])["fc.weight"]
    array([[1.5 , 2.  ],
           [1.25, 1.5 ]])
    """
    planned = plan_application(base, adapter, out, scale=scale, **options)
    return write(planned, progress=progress, sha256=sha256)


def plan_application(
    base: Member,
    adapter: AdapterSource,
    out: str | os.PathLike[str] | None = None,
    *,
    scale: float = 1.0,
    **options: Any,
) -> Plan:
    """Plan to add an adapter to its base.

    Parameters
    ----------
    base, adapter, out, scale, **options
        As in `apply_adapter`.

    Returns
    -------
    Plan
        Whose single member is the base with the adapter.

    Raises
    ------
    FileNotFoundError, ValueError
        As in `apply_adapter`.
    """
    if isinstance(base, str | os.PathLike) and has_adapter(Path(base)):
        raise ValueError(f"{base} is an adapter: pass the base first, then the adapter")
    opened = open_adapted(base, 0, key=options.get("key"))
    member = adapted(opened, open_adapter(adapter), scale=scale)
    planned = plan([member], out, **options)
    return replace(as_conversion(planned), notes=planned.notes)
