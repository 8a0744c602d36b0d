"""Files of torch beside the main weights of a directory, such as heads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ensembles._typing import Array
from ensembles.checkpoints.formats.nesting import is_tensor, state_dict_in
from ensembles.checkpoints.formats.state_dict import as_torch, import_torch
from ensembles.checkpoints.planning import shards
from ensembles.checkpoints.planning.plan import Plan


def is_torch(plan: Plan, part: str) -> bool:
    """Whether a file of the result is torch's, beside main files of safetensors.

    Parameters
    ----------
    plan : Plan
    part : str

    Returns
    -------
    bool
    """
    return plan.kind == "directory" and not part.endswith(".safetensors")


def write(plan: Plan, part: str, path: Path, arrays: Mapping[str, Array]) -> None:
    """Write a head or the like as the first member has it, with the mean's tensors.

    Plain values around the tensors, and the keys under which they lie, are the first
    member's.

    Parameters
    ----------
    plan : Plan
    part : str
        Name of the file in the result.
    path : Path
        Where it is written.
    arrays : mapping of str to ndarray
        Its tensors, by their names in the plan.
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
