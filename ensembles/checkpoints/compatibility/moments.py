"""Second moments of a member's data: contents of their files, and their member."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xxhash

from ensembles._typing import Array
from ensembles.atomic_io import atomic_output
from ensembles.checkpoints.formats.checkpoint import Tensor
from ensembles.dtypes import FLOATS, round_to_dtype
from ensembles.kernels.casting import widen

Kind = Literal["fisher", "gram"]
KEY = "ensembles.moments"  # of the description in the metadata of a file
SAMPLE = 256  # elements of each tensor that identify the member
FORMATS = [str(dtype) for dtype in FLOATS]
COLLECTORS = {"fisher": "collect_fisher", "gram": "collect_gram"}


@dataclass(frozen=True)
class Moments:
    """Second moments of the data of a member, for rules with ``needs_moments``.

    Parameters
    ----------
    kind : {"fisher", "gram"}
        "fisher" is the diagonal of the Fisher information of each parameter; "gram" are
        the Gram matrices of the inputs of linear layers.
    tensors : dict of str to ndarray
        Moments by the name of the member's tensor that they belong to. The Fisher
        information has the shape of the tensor. A Gram matrix has the shape (d, d) for
        a weight of shape (n_outputs, d), and (d, d, 1) for a weight of shape
        (d, n_outputs), as in ``Conv1D`` of GPT-2.
    samples : dict of str to [str, str]
        Dtype of each of these tensors in the member, and the digest of a sample of its
        elements. A merge compares them with the member that the moments are passed for.
    settings : dict of str to value
        How the moments were collected, such as the number of examples.
    aliases : dict of str to str
        Additional names of tied tensors: alias to name.
    notes : tuple of str
        Messages about layers that have no moments, one sentence each.
    """

    kind: Kind
    tensors: dict[str, Array] = field(repr=False)
    samples: dict[str, list[str]] = field(repr=False)
    settings: dict[str, Any]
    aliases: dict[str, str] = field(default_factory=dict, repr=False)
    notes: tuple[str, ...] = ()

    @cached_property
    def metadata(self) -> dict[str, str]:
        """Metadata of a file with these moments."""
        description = {
            "kind": self.kind,
            "settings": self.settings,
            "samples": self.samples,
            "notes": self.notes,
        }
        return {**self.aliases, KEY: json.dumps(description, sort_keys=True)}

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Write the moments to a safetensors file, atomically.

        Parameters
        ----------
        path : path
            Path of the file, usually with the suffix ``.safetensors``.
        force : bool, default=False
            Whether an existing file is replaced.

        Raises
        ------
        FileExistsError
            If ``path`` exists, unless ``force``.
        """
        from safetensors.numpy import save_file

        with atomic_output(Path(path), folder=False, force=force) as temporary:
            save_file(self.tensors, temporary, metadata=self.metadata)


def sample_digest(tensor: Tensor, dtype: np.dtype[Any]) -> str:
    """Digest of the shape and of elements in the middle of a stored float tensor.

    Parameters
    ----------
    tensor : Tensor
        Stored tensor; at most `SAMPLE` elements are read.
    dtype : numpy.dtype
        Float format to which the elements are rounded first, so that a checkpoint and
        a model that was loaded from it in lower precision have the same digest.

    Returns
    -------
    str
        16 hexadecimal digits.
    """
    size = min(tensor.size, SAMPLE)
    sample = np.empty(size, tensor.dtype)
    start = tensor.offset + (tensor.size - size) // 2 * tensor.dtype.itemsize
    tensor.source.read_into(sample.view(np.uint8).data, start)
    rounded = round_to_dtype(widen(sample[None])[0], dtype)
    values = widen(rounded[None])[0]
    return xxhash.xxh3_64(f"{tensor.shape}".encode() + values.tobytes()).hexdigest()


def description_of(metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """Description of moments in the metadata of a file.

    Parameters
    ----------
    metadata : mapping of str to str
        Metadata of a safetensors file.

    Returns
    -------
    dict or None
        None if the metadata have no valid description.
    """
    try:
        description = json.loads(metadata[KEY])
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    if not isinstance(description, dict) or description.get("kind") not in [
        *COLLECTORS
    ]:
        return None
    samples = description.get("samples")
    is_valid = isinstance(samples, dict) and all(
        isinstance(sample, list)
        and len(sample) == 2
        and sample[0] in FORMATS
        and isinstance(sample[1], str)
        for sample in samples.values()
    )
    is_valid &= isinstance(description.get("settings"), dict)
    return description if is_valid else None
