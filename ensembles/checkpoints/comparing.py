"""Members held against each other by their layouts: what becomes of each tensor."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from ensembles.checkpoints.formats.checkpoint import Checkpoint, Tensor
from ensembles.checkpoints.formats.directory import tokenizer_files
from ensembles.floats import is_float

# Output layers whose parameters are the input embedding's where a configuration says
# tie_word_embeddings: GPT, Llama and their kin, BERT, GPT-NeoX.
HEADS = ("lm_head.weight", "cls.predictions.decoder.weight", "embed_out.weight")
# Keys of config.json that say nothing of what the parameters mean.
IDLE_KEYS = {"_name_or_path", "transformers_version", "dtype", "torch_dtype"}
IDLE_KEYS |= {"architectures", "problem_type", "use_cache"}
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight")


class Target(NamedTuple):
    """A tensor of the result and where it comes from.

    ``action`` is ``"combine"`` by the rule, ``"settle"`` integers, or ``"copy"`` from
    the first member.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    members: tuple[Tensor, ...]
    action: Literal["combine", "settle", "copy"]

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.members[0].size

    @property
    def nbytes(self) -> int:
        """Number of bytes in the result."""
        return self.size * self.dtype.itemsize


class Comparison(NamedTuple):
    """What becomes of the members' tensors, and what stands in the way."""

    targets: list[Target]
    aliases: dict[str, str]
    problems: list[str]
    notes: list[str]


def compare(
    members: Sequence[Checkpoint],
    *,
    missing: str,
    include: Sequence[str],
    exclude: Sequence[str],
    dtype: np.dtype[Any] | None,
) -> Comparison:
    """Hold members against each other.

    Parameters
    ----------
    members : sequence of Checkpoint
    missing : {"error", "skip", "first"}
        What becomes of a tensor that a member lacks.
    include, exclude : sequence of str
        Patterns for names of tensors; none to include means all.
    dtype : dtype or None
        Of the result's floats; None keeps each tensor's own, in the first member.

    Returns
    -------
    Comparison
    """
    found = Comparison([], {}, [], [])
    heads = _tied_heads(members)
    if heads:
        found.notes.append(
            f"{', '.join(heads)} left out: config.json ties it to the embedding"
        )
    first = members[0]
    for name in _names(members):
        if name in heads or not _is_wanted(name, include, exclude):
            continue
        kept = first.aliases.get(name, name)
        wanted = kept != name and _is_wanted(kept, include, exclude)
        if wanted and _is_tied(name, kept, members):
            found.aliases[name] = kept
            continue
        held = [_resolve(member, name) for member in members]
        absent = [m.name for m, tensor in zip(members, held, strict=True) if not tensor]
        tensors = tuple(tensor for tensor in held if tensor)
        if absent and missing == "error":
            found.problems.append(_lacking(name, members, held, absent))
        elif absent and (missing == "skip" or held[0] is None):
            found.notes.append(f"{name} left out: {absent[0]} lacks it")
        elif absent:
            found.notes.append(f"{name} copied from the first: {absent[0]} lacks it")
            found.targets.append(_copied(name, tensors[0], dtype))
        else:
            _add(found, name, tensors, members, dtype)
    written = {target.name for target in found.targets}
    for alias in [a for a, name in found.aliases.items() if name not in written]:
        del found.aliases[alias]
    found.notes.extend(_mixed(found.targets))
    found.notes.extend(differences(members))
    return found


def differences(members: Sequence[Checkpoint]) -> Iterator[str]:
    """What the files around the members' weights say differently of them.

    Parameters
    ----------
    members : sequence of Checkpoint

    Yields
    ------
    str
    """
    for member in members[1:]:
        differ = config_differences(members[0].config, member.config)
        if differ:
            yield (
                f"config.json of {member.name} differs from that of {members[0].name}, "
                f"the first, in {', '.join(differ)}"
            )
    first = tokenizer_files(members[0])
    for member in members[1:]:
        other = tokenizer_files(member)
        for name in sorted(first.keys() & other.keys()):
            if first[name] != other[name]:
                yield (
                    f"the tokenizers differ: {name} of {member.name} is not that of "
                    f"{members[0].name}; rows of their embeddings may mean "
                    "different words"
                )


def _names(members: Sequence[Checkpoint]) -> list[str]:
    """Names in any member, those of the first one first."""
    return list(dict.fromkeys(name for member in members for name in member.names))


def _resolve(member: Checkpoint, name: str) -> Tensor | None:
    return member.layout.get(member.aliases.get(name, name))


def _is_wanted(name: str, include: Sequence[str], exclude: Sequence[str]) -> bool:
    wanted = not include or any(fnmatch.fnmatchcase(name, p) for p in include)
    return wanted and not any(fnmatch.fnmatchcase(name, p) for p in exclude)


def _is_tied(alias: str, name: str, members: Sequence[Checkpoint]) -> bool:
    """Whether every member that has the alias shares it with the same tensor."""
    found = [(_resolve(m, alias), _resolve(m, name)) for m in members]
    return all(other is None or other is tensor for other, tensor in found)


def _tied_heads(members: Sequence[Checkpoint]) -> list[str]:
    first = members[0]
    configs = [first.config, first.config.get("text_config", {})]
    if not any(isinstance(c, dict) and c.get("tie_word_embeddings") for c in configs):
        return []
    shapes = {
        tensor.shape
        for name, tensor in first.layout.items()
        if name.endswith(EMBEDDINGS)
    }
    return [
        name
        for name in _names(members)
        if name.endswith(HEADS)
        and any(held.shape in shapes for m in members if (held := _resolve(m, name)))
    ]


def _lacking(
    name: str,
    members: Sequence[Checkpoint],
    held: Sequence[Tensor | None],
    absent: list[str],
) -> str:
    owner = next(m.name for m, tensor in zip(members, held, strict=True) if tensor)
    return (
        f"checkpoints differ at tensor {name!r}: {owner} has it, {', '.join(absent)} "
        "lacks it; missing='skip' leaves such tensors out, missing='first' copies them"
    )


def _copied(name: str, tensor: Tensor, dtype: np.dtype[Any] | None) -> Target:
    own = dtype if dtype is not None and is_float(tensor.dtype) else tensor.dtype
    return Target(name, own, tensor.shape, (tensor,), "copy")


def _add(
    found: Comparison,
    name: str,
    tensors: tuple[Tensor, ...],
    members: Sequence[Checkpoint],
    dtype: np.dtype[Any] | None,
) -> None:
    first = tensors[0]
    floats = is_float(first.dtype)
    for member, tensor in zip(members, tensors, strict=True):
        alike = is_float(tensor.dtype) if floats else tensor.dtype == first.dtype
        if tensor.shape == first.shape and alike:
            continue
        what = "; their vocabularies differ" if _is_vocabulary(first, tensor) else ""
        found.problems.append(
            f"checkpoints differ at tensor {name!r}: {members[0].name} has "
            f"({first.dtype}, {first.shape}), {member.name} has "
            f"({tensor.dtype}, {tensor.shape}){what}"
        )
        return
    own = dtype if floats and dtype is not None else first.dtype
    action: Literal["combine", "settle"] = "combine" if floats else "settle"
    found.targets.append(Target(name, own, first.shape, tensors, action))


def _is_vocabulary(a: Tensor, b: Tensor) -> bool:
    return (
        len(a.shape) == len(b.shape) == 2
        and a.shape[1:] == b.shape[1:]
        and min(a.shape[0], b.shape[0]) > 1000
    )


def _mixed(targets: Sequence[Target]) -> Iterator[str]:
    mixed = [
        target
        for target in targets
        if len({tensor.dtype for tensor in target.members}) > 1
    ]
    if mixed:
        kinds = sorted({str(t.dtype) for target in mixed for t in target.members})
        yield (
            f"{len(mixed)} tensors are of different precision in the members "
            f"({', '.join(kinds)}), such as {mixed[0].name}, written as "
            f"{mixed[0].dtype}"
        )


def config_differences(first: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Keys of two configurations that say different things of the model.

    Parameters
    ----------
    first, other : mapping of str to value

    Returns
    -------
    list of str
    """
    keys = sorted((first.keys() & other.keys()) - IDLE_KEYS)
    return [
        key for key in keys if "drop" not in key and _differ(first[key], other[key])
    ]


def _differ(one: Any, other: Any) -> bool:
    try:
        return bool(one != other)
    except (ValueError, RuntimeError):  # arrays, of which it is seldom known
        return False
