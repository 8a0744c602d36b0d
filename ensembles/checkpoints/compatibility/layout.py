"""Compare the layouts of members, and choose the action for each tensor."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from ensembles.checkpoints.compatibility.configuration import differences
from ensembles.checkpoints.compatibility.grouping import MEMBER, grouped
from ensembles.checkpoints.compatibility.tied_weights import (
    EMBEDDING,
    HEAD,
    Ties,
    find_ties,
    may_untie,
    resolve,
    same_bytes,
    untied_config,
)
from ensembles.checkpoints.formats.checkpoint import Checkpoint, Tensor
from ensembles.dtypes import is_float

SHOWN = 3
FEW = 5  # missing tensors that are reported one by one; more are summarized


class Target(NamedTuple):
    """A tensor of the average, with its sources.

    Parameters
    ----------
    name : str
        Tensor name in the average.
    dtype : numpy.dtype
        Dtype of the average.
    shape : tuple of int
        Shape, the same in all members.
    members : tuple of Tensor
        Tensor of each member, or of the first member alone for ``"copy"``.
    action : {"combine", "settle", "copy"}
        ``"combine"`` applies the rule (floats), ``"settle"`` the policy for integers,
        which are not averaged, and ``"copy"`` copies from the first member.
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
        """Number of bytes in the average."""
        return self.size * self.dtype.itemsize


class Comparison(NamedTuple):
    """Tensors of the average, and the differences between the members.

    Parameters
    ----------
    targets : list of Target
        Tensors to write.
    aliases : dict of str to str
        Additional names of targets (tied tensors): alias to name.
    untied : list of str
        Output layers with separate parameters, for which the configuration of the
        average must set ``tie_word_embeddings`` to false.
    problems : list of str
        Error messages; empty if the members can be averaged.
    notes : list of str
        Messages about tensors and files that are left out, copied or different.
    """

    targets: list[Target]
    aliases: dict[str, str]
    untied: list[str]
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
    """Compare the tensors of members by name, dtype and shape.

    Parameters
    ----------
    members : sequence of Checkpoint
        Members with matching tensor names, see `match_first_names`.
    missing : {"error", "skip", "first"}
        Treatment of tensors missing from some members: report them as problems, leave
        them out, or copy them from the first member, if it has them.
    include, exclude : sequence of str
        Glob patterns for tensor names. An empty ``include`` means all tensors.
    dtype : dtype or None
        Dtype of the average's floats; None keeps the dtype of the first member for each
        tensor.

    Returns
    -------
    Comparison
    """
    found = Comparison([], {}, [], [], [])
    first, ties = members[0], find_ties(members)
    lacking: dict[tuple[str, ...], list[str]] = {}
    passed: dict[tuple[str, str], list[str]] = {}
    for name in _names(members):
        if not is_wanted(name, include, exclude):
            continue
        kept = first.aliases.get(name, name)
        wanted = kept != name and is_wanted(kept, include, exclude)
        if wanted and _is_tied(name, kept, members):
            found.aliases[name] = kept
            continue
        tied = ties.left_out.get(name)
        if tied is not None and is_wanted(tied, include, exclude):
            found.notes.append(f"{name} left out: it is tied to {tied}, byte for byte")
            continue
        held = [
            resolve(member, own.get(name, name))
            for member, own in zip(members, ties.counted, strict=True)
        ]
        absent = [m.name for m, tensor in zip(members, held, strict=True) if not tensor]
        tensors = tuple(tensor for tensor in held if tensor)
        if absent and missing == "error":
            owner = next(m.name for m, h in zip(members, held, strict=True) if h)
            lacking.setdefault((owner, *absent), []).append(name)
        elif absent and (missing == "skip" or held[0] is None):
            passed.setdefault(("left out", absent[0]), []).append(name)
        elif absent:
            passed.setdefault(("copied from the first", absent[0]), []).append(name)
            found.targets.append(_copied(name, tensors[0], dtype))
        else:
            _add(found, name, tensors, members, dtype)
    found.problems.extend(_lacking(lacking))
    found.notes.extend(_passed(passed))
    written = {target.name: target.shape for target in found.targets}
    for alias in [a for a, name in found.aliases.items() if name not in written]:
        del found.aliases[alias]
    _note_ties(found, ties, members, written)
    found.notes.extend(_mixed(found.targets))
    found.notes.extend(differences(members))
    return found


def _note_ties(
    found: Comparison,
    ties: Ties,
    members: Sequence[Checkpoint],
    written: Mapping[str, tuple[int, ...]],
) -> None:
    """Add notes on tied tensors used for missing ones, and on untied output layers."""
    counted = (
        (member.name, f"{name} of {MEMBER} is its {partner}, to which it is tied")
        for member, own in zip(members, ties.counted, strict=True)
        for name, partner in own.items()
        if name in written
    )
    found.notes.extend(grouped(counted))
    for name in [name for name in ties.untied if name in written]:
        differs = f"{name} has parameters of its own, not those of {ties.untied[name]}"
        config = members[0].config
        if may_untie(config, name, written) and untied_config(config) != config:
            found.untied.append(name)
            differs += "; tie_word_embeddings of the result is false"
        found.notes.append(differs)


def _names(members: Sequence[Checkpoint]) -> list[str]:
    """Union of tensor names, in the order of the first member."""
    return list(dict.fromkeys(name for member in members for name in member.names))


def is_wanted(name: str, include: Sequence[str], exclude: Sequence[str]) -> bool:
    """Whether a tensor name matches the included patterns and no excluded one."""
    wanted = not include or any(fnmatch.fnmatchcase(name, p) for p in include)
    return wanted and not any(fnmatch.fnmatchcase(name, p) for p in exclude)


def _is_tied(alias: str, name: str, members: Sequence[Checkpoint]) -> bool:
    """Whether alias and name are the same tensor in every member with the alias."""
    found = [(resolve(m, alias), resolve(m, name)) for m in members]
    return all(
        other is None or (tensor is not None and same_bytes(other, tensor))
        for other, tensor in found
    )


def _lacking(lacking: Mapping[tuple[str, ...], list[str]]) -> Iterator[str]:
    """Error messages for missing tensors: one each, or a summary for many."""
    way = "missing='skip' leaves such tensors out, missing='first' copies them"
    for (owner, *absent), names in lacking.items():
        who = ", ".join(absent)
        if len(names) <= FEW:
            for name in names:
                yield (
                    f"checkpoints differ at tensor {name!r}: {owner} has it, {who} "
                    f"lacks it; {way}"
                )
        else:
            shown = ", ".join(map(repr, names[:SHOWN]))
            yield (
                f"{len(names)} tensors of {owner} are not in {who}, such as {shown}; "
                f"are they checkpoints of one model? {way}"
            )


def _passed(passed: Mapping[tuple[str, str], list[str]]) -> Iterator[str]:
    """Notes on tensors left out or copied: one each, or a summary for many."""
    for (what, absent), names in passed.items():
        if len(names) <= FEW:
            for name in names:
                yield f"{name} {what}: {absent} lacks it"
        else:
            shown = ", ".join(names[:SHOWN])
            yield f"{len(names)} tensors {what}, such as {shown}: {absent} lacks them"


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
        what = _vocabulary(name) if _is_vocabulary(name, first, tensor) else ""
        found.problems.append(
            f"checkpoints differ at tensor {name!r}: {members[0].name} has "
            f"({first.dtype}, {first.shape}), {member.name} has "
            f"({tensor.dtype}, {tensor.shape}){what}"
        )
        return
    own = dtype if floats and dtype is not None else first.dtype
    action: Literal["combine", "settle"] = "combine" if floats else "settle"
    found.targets.append(Target(name, own, first.shape, tensors, action))


def _is_vocabulary(name: str, a: Tensor, b: Tensor) -> bool:
    one, other = a.shape, b.shape
    rows = len(one) == len(other) == 2 and one[1:] == other[1:]
    named = EMBEDDING.fullmatch(name) or HEAD.fullmatch(name)
    return rows and (bool(named) or min(one[0], other[0]) > 1000)


def _vocabulary(name: str) -> str:
    """Advice for different vocabularies: patterns that exclude the tensor."""
    usual = [p for p in ("*embed*", "*lm_head*") if fnmatch.fnmatchcase(name, p)]
    patterns = ["*embed*", "*lm_head*"] if usual else [name]
    options = " ".join(f"--exclude {pattern!r}" for pattern in patterns)
    return (
        "; their vocabularies differ: resize one to the other's rows, or average all "
        f"else by exclude={patterns} ({options})"
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
