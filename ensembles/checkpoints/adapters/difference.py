"""Tensors in which a fine-tuned model differs from its base, and how each is stored."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ensembles._typing import Float64
from ensembles.checkpoints.compatibility.layout import TensorPlan
from ensembles.checkpoints.formats.checkpoint import Tensor
from ensembles.checkpoints.methods.matrices.task_matrices import is_matrix
from ensembles.dtypes import is_float
from ensembles.kernels.casting import widen
from ensembles.parallel import chunks

PIECE = 1 << 20  # elements
# Models whose linear layers are Conv1D, with inputs first, and the names of these.
INPUTS_FIRST = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")
CONV1D = re.compile(r"(.*\.)?(c_attn|c_proj|c_fc|q_attn)\.weight")


@dataclass(frozen=True)
class ChangedTensors:
    """Tensors that differ from the base, by the way in which an adapter stores them.

    Parameters
    ----------
    matrices : list of TensorPlan
        Weights of linear layers, which get low-rank updates.
    biases : list of TensorPlan
        Biases of these layers, which are stored as they are.
    saved : dict of str to list of TensorPlan
        Modules that are stored whole (``modules_to_save``), with all their tensors.
    left_out : list of str
        Tensors that an adapter cannot represent.
    n_unchanged : int
        Number of tensors that do not differ.
    """

    matrices: list[TensorPlan] = field(default_factory=list)
    biases: list[TensorPlan] = field(default_factory=list)
    saved: dict[str, list[TensorPlan]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    n_unchanged: int = 0


def changed_tensors(targets: Sequence[TensorPlan]) -> ChangedTensors:
    """Sort the tensors of a fine-tuned model by how an adapter stores their change.

    Reads tensors in blocks until the first difference.

    Parameters
    ----------
    targets : sequence of TensorPlan
        Tensors of the model and its base.

    Returns
    -------
    ChangedTensors
    """
    changed = [target for target in targets if differs(target)]
    found = ChangedTensors(n_unchanged=len(targets) - len(changed))
    modules: dict[str, list[TensorPlan]] = {}
    for target in targets:
        modules.setdefault(target.name.rpartition(".")[0], []).append(target)
    found.matrices.extend(target for target in changed if is_linear(target))
    linear = {module_of(target) for target in found.matrices}
    for target in changed:
        module = module_of(target)
        if is_linear(target):
            continue
        if module in linear and target.name.endswith(".bias"):
            found.biases.append(target)
        elif _is_leaf(module, modules) and is_float(target.dtype):
            found.saved[module] = modules[module]
        else:
            found.left_out.append(target.name)
    return found


def module_of(target: TensorPlan) -> str:
    """Name of the module that has a tensor."""
    return target.name.rpartition(".")[0]


def is_linear(target: TensorPlan) -> bool:
    """Whether a tensor is the weight of a linear layer, by its name and shape."""
    is_weight = target.name.endswith(".weight") and len(target.shape) == 2
    return is_weight and is_float(target.dtype) and is_matrix(target.position)


def has_inputs_first(target: TensorPlan, config: Mapping[str, Any]) -> bool:
    """Whether a model stores the weight of a linear layer with inputs first."""
    is_conv1d = config.get("model_type") in INPUTS_FIRST
    return is_conv1d and CONV1D.fullmatch(target.name) is not None


def _is_leaf(module: str, modules: Mapping[str, object]) -> bool:
    """Whether a module has no modules inside."""
    return bool(module) and not any(m.startswith(f"{module}.") for m in modules)


def differs(target: TensorPlan) -> bool:
    """Whether a tensor has other values than in the base."""
    base = target.members[1] if target.base is None else target.base
    for start, stop in chunks(target.size, PIECE):
        pair = [read_elements(t, start, stop) for t in (target.members[0], base)]
        if not np.array_equal(*pair, equal_nan=is_float(target.dtype)):
            return True
    return False


def difference(target: TensorPlan) -> Float64:
    """Difference of a tensor from the base, in float64."""
    assert target.base is not None
    values = np.empty(target.size)
    for start, stop in _pieces(target):
        values[start:stop] = read_elements(target.members[0], start, stop)
        values[start:stop] -= read_elements(target.base, start, stop)
    return values.reshape(target.shape)


def _pieces(target: TensorPlan) -> Iterator[tuple[int, int]]:
    yield from chunks(target.size, PIECE)


def read_elements(tensor: Tensor, start: int, stop: int) -> Any:
    """Elements of a stored tensor, floats in float64."""
    stored = np.empty(stop - start, tensor.dtype)
    position = tensor.offset + start * tensor.dtype.itemsize
    tensor.source.read_into(stored.view(np.uint8).data, position)
    return widen(stored[None])[0] if is_float(tensor.dtype) else stored
