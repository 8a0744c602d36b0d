"""Tensors in which a fine-tuned model differs from its base, and how each is stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ensembles._typing import Float64
from ensembles.checkpoints.formats.checkpoint import Tensor
from ensembles.checkpoints.methods.matrices.task_matrices import is_matrix
from ensembles.checkpoints.views.inputs_first import is_conv1d
from ensembles.dtypes import is_float
from ensembles.kernels.casting import widen
from ensembles.parallel import chunks
from ensembles.rules.passes import Position

PIECE = 1 << 20  # elements


class Pair(NamedTuple):
    """A tensor of a fine-tuned model and of its base.

    Parameters
    ----------
    name : str
        Name of the tensor in the base.
    tuned, base : Tensor
        Tensors of the same shape.
    """

    name: str
    tuned: Tensor
    base: Tensor

    @property
    def module(self) -> str:
        """Name of the module that has the tensor."""
        return self.name.rpartition(".")[0]

    @property
    def is_linear(self) -> bool:
        """Whether it is the weight of a linear layer, by its name and shape."""
        is_weight = self.name.endswith(".weight") and len(self.base.shape) == 2
        position = Position(self.name, self.base.shape)
        return is_weight and is_float(self.base.dtype) and is_matrix(position)

    def has_inputs_first(self, config: Mapping[str, Any]) -> bool:
        """Whether a model stores the weight of a linear layer with inputs first."""
        return is_conv1d(config, self.name)

    def differs(self) -> bool:
        """Whether the tensor has other values than in the base."""
        is_number = is_float(self.base.dtype)
        for start, stop in chunks(self.base.size, PIECE):
            tuned, base = (_read(t, start, stop) for t in (self.tuned, self.base))
            if not np.array_equal(tuned, base, equal_nan=is_number):
                return True
        return False

    def difference(self) -> Float64:
        """Difference from the base, in float64."""
        values = np.empty(self.base.size)
        for start, stop in chunks(self.base.size, PIECE):
            values[start:stop] = _read(self.tuned, start, stop)
            values[start:stop] -= _read(self.base, start, stop)
        return values.reshape(self.base.shape)


def _read(tensor: Tensor, start: int, stop: int) -> Any:
    """Elements of a stored tensor, floats in float64."""
    stored = np.empty(stop - start, tensor.dtype)
    position = tensor.offset + start * tensor.dtype.itemsize
    tensor.source.read_into(stored.view(np.uint8).data, position)
    return widen(stored[None])[0] if is_float(tensor.dtype) else stored


@dataclass(frozen=True)
class Changes:
    """Tensors that differ from the base, by the way in which an adapter stores them.

    Parameters
    ----------
    matrices : list of Pair
        Weights of linear layers, which get low-rank updates.
    biases : list of Pair
        Biases of these layers, and of layers without other changes, which are stored as
        they are.
    saved : dict of str to list of Pair
        Modules that are stored whole (``modules_to_save``), with all their tensors.
    left_out : list of str
        Tensors that an adapter does not represent.
    n_unchanged : int, default=0
        Number of tensors that do not differ.
    """

    matrices: list[Pair] = field(default_factory=list)
    biases: list[Pair] = field(default_factory=list)
    saved: dict[str, list[Pair]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    n_unchanged: int = 0


def find_changes(pairs: Sequence[Pair]) -> Changes:
    """Sort the changed tensors of a model by how an adapter stores them.

    Tensors are read in blocks until the first difference.

    Parameters
    ----------
    pairs : sequence of Pair
        Tensors of the model and its base.

    Returns
    -------
    Changes
    """
    changed = [pair for pair in pairs if pair.differs()]
    changes = Changes(n_unchanged=len(pairs) - len(changed))
    modules: dict[str, list[Pair]] = {}
    for pair in pairs:
        modules.setdefault(pair.module, []).append(pair)
    changes.matrices.extend(pair for pair in changed if pair.is_linear)
    linear = {pair.module for pair in changes.matrices}
    others = {p.module for p in changed if not p.name.endswith(".bias")} - linear
    for pair in changed:
        if pair.is_linear:
            continue
        if pair.name.endswith(".bias") and pair.module not in others:
            changes.biases.append(pair)
        elif _is_leaf(pair.module, modules) and is_float(pair.base.dtype):
            changes.saved[pair.module] = modules[pair.module]
        else:
            changes.left_out.append(pair.name)
    return changes


def _is_leaf(module: str, modules: Mapping[str, object]) -> bool:
    """Whether a module has no modules inside."""
    return bool(module) and not any(m.startswith(f"{module}.") for m in modules)
