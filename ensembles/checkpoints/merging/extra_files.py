"""Additional PyTorch files of a directory, such as heads (``value_head.bin``)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ensembles._typing import Array
from ensembles.checkpoints.formats.nesting import is_tensor, state_dict_in
from ensembles.checkpoints.formats.state_dict import as_torch, import_torch
from ensembles.checkpoints.planning import shards
from ensembles.checkpoints.planning.plan import Plan


def is_torch(plan: Plan, part: str) -> bool:
    """Whether a file of the result is an additional PyTorch file of a directory.

    Parameters
    ----------
    plan : Plan
        Plan of the result.
    part : str
        Path of the file, relative to the directory; main files are safetensors.

    Returns
    -------
    bool
    """
    return plan.kind == "directory" and not part.endswith(".safetensors")


def write(plan: Plan, part: str, path: Path, arrays: Mapping[str, Array]) -> None:
    """Write a copy of the first member's file with the tensors of the result.

    Keys and values other than tensors are the first member's. Tensors that the result
    does not have are removed.

    Parameters
    ----------
    plan : Plan
        Plan of the result, a directory.
    part : str
        Path of the file, relative to the directory.
    path : Path
        Path to write to.
    arrays : mapping of str to ndarray
        Tensors of the file, by their names in the plan.
    """
    torch = import_torch(f"writing {part}")
    first = plan.members[0]
    prefix = shards.prefix_of(part, first)
    names = {target.name: target.name for target in plan.parts[part]}
    names |= {a: name for a, name in plan.aliases.items() if name in names}
    tensors = {name: as_torch(arrays[name]) for name in set(names.values())}
    own = Path(str(first.path)) / part
    frame = torch.load(own, map_location="cpu", weights_only=True)
    chosen = state_dict_in(frame, None, own)
    held = [name for name, value in chosen.state.items() if is_tensor(value)]
    for name, bare in zip(held, chosen.tensors, strict=True):
        if prefix + bare in names:
            chosen.state[name] = tensors[names[prefix + bare]]
        else:
            del chosen.state[name]
    with path.open("wb") as file:
        torch.save(frame, file)
