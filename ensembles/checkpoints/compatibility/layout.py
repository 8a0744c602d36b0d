"""Match the layouts of members and base, and choose the action for each tensor."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from ensembles.checkpoints.compatibility.configuration import differences
from ensembles.checkpoints.compatibility.grouping import MEMBER, grouped
from ensembles.checkpoints.compatibility.settings import TensorSettings
from ensembles.checkpoints.compatibility.tied_weights import (
    EMBEDDING,
    HEAD,
    Ties,
    find_ties,
    may_untie,
    same_bytes,
    untied_config,
)
from ensembles.checkpoints.formats.checkpoint import (
    Checkpoint,
    Tensor,
    UnsupportedSource,
)
from ensembles.dtypes import is_float
from ensembles.rules.passes import Position

SHOWN = 3
FEW = 5  # missing tensors that are reported one by one; more are summarized


class TensorPlan(NamedTuple):
    """A tensor of the result, with the tensors that it is computed from.

    Parameters
    ----------
    name : str
        Tensor name in the result.
    dtype : numpy.dtype
        Dtype of the result.
    shape : tuple of int
        Shape, the same in all members and the base.
    members : tuple of Tensor
        Tensor of each member, or of the first member alone for ``"copy"``.
    action : {"combine", "average", "resolve_integers", "copy"}
        ``"combine"`` applies the rule to floats, ``"average"`` the mean to floats
        without the moments that the rule needs, ``"resolve_integers"`` the option
        ``integers`` to integers and booleans, and ``"copy"`` copies from the first
        member.
    base : Tensor or None, default=None
        Tensor of the base for ``"combine"``; None without a base.
    moments : tuple of Tensor, default=()
        Moments of each member for ``"combine"``; empty for rules without moments.
    tied_to : str or None, default=None
        Name of the tensor that this one repeats under another name; None for others.
    settings : TensorSettings or None, default=None
        Weights and parameters of the rule for this tensor; None means those of the
        plan.
    holders : tuple of int or None, default=None
        Indices of the members that have the tensor, and that ``members`` are from; None
        means all.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    members: tuple[Tensor, ...]
    action: Literal["combine", "average", "resolve_integers", "copy"]
    base: Tensor | None = None
    moments: tuple[Tensor, ...] = ()
    tied_to: str | None = None
    settings: TensorSettings | None = None
    holders: tuple[int, ...] | None = None

    @property
    def position(self) -> Position:
        """Position of the first element; tied tensors have the name of the first."""
        return Position(self.tied_to or self.name, self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.members[0].size

    @property
    def by_member(self) -> dict[int, Tensor]:
        """Tensor of each member that has it, by the index of the member."""
        holders = range(len(self.members)) if self.holders is None else self.holders
        return dict(zip(holders, self.members, strict=True))

    def params(self, common: Mapping[str, Any]) -> Mapping[str, Any]:
        """Parameters of the rule for this tensor; ``common`` are those of the plan."""
        return common if self.settings is None else self.settings.rule_params

    @property
    def nbytes(self) -> int:
        """Number of bytes in the result."""
        return self.size * self.dtype.itemsize

    @property
    def sources(self) -> tuple[Tensor, ...]:
        """Tensors to read: of the members, then of the base, then the moments."""
        base = () if self.base is None else (self.base,)
        return (*self.members, *base, *self.moments)


class LayoutMatch(NamedTuple):
    """Tensors of the result, and the differences between the members.

    Parameters
    ----------
    targets : list of TensorPlan
        Tensors to write.
    aliases : dict of str to str
        Additional names of tied tensors in the result: alias to name.
    untied : list of str
        Output layers with separate parameters, for which the configuration of the
        result must set ``tie_word_embeddings`` to false.
    problems : list of str
        Error messages; empty if the members can be averaged.
    notes : list of str
        Messages about tensors and files that are left out, copied or different.
    """

    targets: list[TensorPlan]
    aliases: dict[str, str]
    untied: list[str]
    problems: list[str]
    notes: list[str]


def match_layouts(
    members: Sequence[Checkpoint],
    base: Checkpoint | None = None,
    *,
    missing: str,
    include: Sequence[str],
    exclude: Sequence[str],
    dtype: np.dtype[Any] | None,
) -> LayoutMatch:
    """Match the tensors of members and base by name, dtype and shape.

    Parameters
    ----------
    members : sequence of Checkpoint
        Members with matching tensor names, see `match_first_names`.
    base : Checkpoint or None, default=None
        Base with matching tensor names; it must have every tensor of the members.
    missing : {"error", "skip", "first", "present"}
        Treatment of tensors missing from some members or the base: report them as
        problems, leave them out, copy them from the first member, if it has them, or
        combine them from the members that have them, which the base must have too.
    include, exclude : sequence of str
        Glob patterns for tensor names. An empty ``include`` means all tensors.
    dtype : dtype or None
        Dtype of the result's floats; None keeps the dtype of the first member for each
        tensor.

    Returns
    -------
    LayoutMatch
    """
    match = LayoutMatch([], {}, [], [], [])
    checkpoints = [*members] if base is None else [*members, base]
    first, ties = members[0], Ties({}, [{} for _ in checkpoints], {})
    if any(c.config or {*c.names} != {*first.names} for c in checkpoints):
        ties = find_ties(checkpoints)
    lacking: dict[tuple[str, ...], list[str]] = {}
    skipped: dict[tuple[str, str], list[str]] = {}
    unsupported: dict[str, str] = {}
    names = dict.fromkeys(name for member in members for name in member.names)
    for name in names:
        if not is_wanted(name, include, exclude):
            continue
        target = first.aliases.get(name, name)
        if (
            target != name
            and is_wanted(target, include, exclude)
            and _is_tied(name, target, checkpoints)
        ):
            match.aliases[name] = target
            continue
        partner = ties.left_out.get(name)
        if partner is not None and is_wanted(partner, include, exclude):
            match.notes.append(
                f"{name} left out: it is tied to {partner}, byte for byte"
            )
            continue
        tensors = [
            checkpoint.tensor(tied.get(name, name))
            for checkpoint, tied in zip(checkpoints, ties.counted, strict=True)
        ]
        stored = next(tensor for tensor in tensors if tensor)
        message = _unsupported(tensors)
        if message:
            unsupported[name] = message
            continue
        if base is not None and not is_float(stored.dtype):
            tensors.pop()  # integers are not combined with a base
        without = [c.name for c, t in zip(checkpoints, tensors, strict=False) if not t]
        is_error = missing == "error"
        if missing == "present":  # without its base a tensor has no task vectors
            is_error = tensors[-1] is None and len(tensors) > len(members)
        if without and is_error:
            holder = next(
                c.name for c, t in zip(checkpoints, tensors, strict=False) if t
            )
            lacking.setdefault((holder, *without), []).append(name)
        elif without and (
            missing == "skip" or (missing == "first" and tensors[0] is None)
        ):
            skipped.setdefault(("left out", without[0]), []).append(name)
        elif without and missing == "present":
            treatment = "combined from the members that have it"
            skipped.setdefault((treatment, without[0]), []).append(name)
            _add_combined(match, name, tensors, checkpoints, len(members), dtype)
        elif without:
            skipped.setdefault(("copied from the first", without[0]), []).append(name)
            _add_copy(match, name, tensors[0], dtype)
        else:
            _add_combined(match, name, tensors, checkpoints, len(members), dtype)
    match.problems.extend(_missing_problems(lacking))
    match.problems.extend(_unsupported_problem(unsupported))
    match.notes.extend(_skipped_notes(skipped))
    written = {target.name: target.shape for target in match.targets}
    for alias in [a for a, name in match.aliases.items() if name not in written]:
        del match.aliases[alias]
    _note_ties(match, ties, checkpoints, written)
    if base is not None and (extra := [n for n in base.names if n not in names]):
        match.notes.append(
            f"{len(extra)} tensors of {base.name}, such as {extra[0]}, are in no "
            "member, and have no effect"
        )
    match.notes.extend(_precision_notes(match.targets))
    if any(checkpoint.files or checkpoint.config for checkpoint in checkpoints):
        match.notes.extend(differences(checkpoints))
    return match


def _note_ties(
    match: LayoutMatch,
    ties: Ties,
    checkpoints: Sequence[Checkpoint],
    written: Mapping[str, tuple[int, ...]],
) -> None:
    """Add notes on tied tensors used for missing ones, and on untied output layers."""
    tied_notes = [
        (checkpoint.name, f"{name} of {MEMBER} is tied to {partner}, which is used")
        for checkpoint, tied in zip(checkpoints, ties.counted, strict=True)
        for name, partner in tied.items()
        if name in written
    ]
    if tied_notes:
        match.notes.extend(grouped(tied_notes))
    config = checkpoints[0].config
    for name in [name for name in ties.untied if name in written]:
        note = f"{name} and {ties.untied[name]} differ, and are not tied"
        if may_untie(config, name, written) and untied_config(config) != config:
            match.untied.append(name)
            note += "; tie_word_embeddings of the result is false"
        match.notes.append(note)


def is_wanted(name: str, include: Sequence[str], exclude: Sequence[str]) -> bool:
    """Whether a tensor name matches the included patterns and no excluded one."""
    is_included = not include or any(fnmatch.fnmatchcase(name, p) for p in include)
    return is_included and not any(fnmatch.fnmatchcase(name, p) for p in exclude)


def _unsupported(tensors: Sequence[Tensor | None]) -> str:
    """Error message for a tensor that cannot be averaged; empty if it can."""
    for tensor in tensors:
        if tensor is not None and isinstance(tensor.source, UnsupportedSource):
            return tensor.source.message
    return ""


def _unsupported_problem(messages: Mapping[str, str]) -> Iterator[str]:
    """One error message for all tensors that cannot be averaged, by name."""
    names = [*messages]
    if names:
        more = ""
        if len(names) > 1:
            more = f"; {len(names) - 1} more cannot be averaged, such as {names[1]!r}"
        yield (
            f"{messages[names[0]]}, or pass exclude=[{names[0]!r}] (--exclude "
            f"{names[0]}) to leave it out{more}"
        )


def _is_tied(alias: str, name: str, checkpoints: Sequence[Checkpoint]) -> bool:
    """Whether alias and name are the same tensor in every checkpoint with the alias."""
    for checkpoint in checkpoints:
        other, tensor = checkpoint.tensor(alias), checkpoint.tensor(name)
        if other is not None and (tensor is None or not same_bytes(other, tensor)):
            return False
    return True


def _missing_problems(lacking: Mapping[tuple[str, ...], list[str]]) -> Iterator[str]:
    """Error messages for missing tensors: one each, or a summary for many."""
    hint = (
        "pass missing='skip' (--missing skip) to leave such tensors out, or "
        "missing='first' (--missing first) to copy them"
    )
    for (has, *has_not), names in lacking.items():
        others = ", ".join(has_not)
        if len(names) <= FEW:
            for name in names:
                yield (
                    f"checkpoints differ at tensor {name!r}: {has} has it, {others} "
                    f"lacks it; {hint}"
                )
        else:
            shown = ", ".join(map(repr, names[:SHOWN]))
            yield (
                f"{len(names)} tensors of {has} are not in {others}, such as {shown}; "
                f"are they checkpoints of one model? {hint}"
            )


def _skipped_notes(skipped: Mapping[tuple[str, str], list[str]]) -> Iterator[str]:
    """Notes on tensors left out or copied: one each, or a summary for many."""
    for (treatment, has_not), names in skipped.items():
        if len(names) <= FEW:
            for name in names:
                yield f"{name} {treatment}: {has_not} lacks it"
        else:
            shown = ", ".join(names[:SHOWN])
            yield (
                f"{len(names)} tensors {treatment}, such as {shown}: {has_not} lacks "
                "them"
            )


def _add_copy(
    match: LayoutMatch, name: str, tensor: Tensor | None, dtype: np.dtype[Any] | None
) -> None:
    assert tensor is not None  # the first member has it
    is_cast = dtype is not None and is_float(tensor.dtype)
    stored = dtype if dtype is not None and is_cast else tensor.result_dtype
    match.targets.append(TensorPlan(name, stored, tensor.shape, (tensor,), "copy"))


def _add_combined(
    match: LayoutMatch,
    name: str,
    tensors: Sequence[Tensor | None],
    checkpoints: Sequence[Checkpoint],
    n_members: int,
    dtype: np.dtype[Any] | None,
) -> None:
    """Add a tensor of the checkpoints that have it, or the problem that they differ."""
    present = {i: tensor for i, tensor in enumerate(tensors) if tensor}
    start, first = next(iter(present.items()))
    floats = is_float(first.dtype)
    for index, tensor in present.items():
        one_kind = is_float(tensor.dtype) if floats else tensor.dtype == first.dtype
        if tensor.shape == first.shape and one_kind:
            continue
        hint = _vocabulary_hint(name) if _is_vocabulary(name, first, tensor) else ""
        match.problems.append(
            f"checkpoints differ at tensor {name!r}: {checkpoints[start].name} has "
            f"({first.dtype}, {first.shape}), {checkpoints[index].name} has "
            f"({tensor.dtype}, {tensor.shape}){hint}"
        )
        return
    holders = tuple(index for index in present if index < n_members)
    members = tuple(present[index] for index in holders)
    target = TensorPlan(
        name,
        first.result_dtype,
        first.shape,
        members,
        "combine",
        present.get(n_members),
        holders=None if len(holders) == n_members else holders,
    )
    if not floats:
        target = target._replace(action="resolve_integers", base=None)
    elif dtype is not None:
        target = target._replace(dtype=dtype)
    match.targets.append(target)


def _is_vocabulary(name: str, first: Tensor, other: Tensor) -> bool:
    a, b = first.shape, other.shape
    is_matrix = len(a) == len(b) == 2 and a[1:] == b[1:]
    has_usual_name = EMBEDDING.fullmatch(name) or HEAD.fullmatch(name)
    return is_matrix and (bool(has_usual_name) or min(a[0], b[0]) > 1000)


def _vocabulary_hint(name: str) -> str:
    """Advice for different vocabularies: patterns that exclude the tensor."""
    usual_patterns = [
        p for p in ("*embed*", "*lm_head*") if fnmatch.fnmatchcase(name, p)
    ]
    patterns = ["*embed*", "*lm_head*"] if usual_patterns else [name]
    options = " ".join(f"--exclude {pattern!r}" for pattern in patterns)
    return (
        "; the vocabularies differ in size: match their rows by token, in a recipe "
        "with 'tokenizer_source: union' (ensemble merge), or "
        f"pass exclude={patterns} ({options}) to leave such tensors out"
    )


def _precision_notes(targets: Sequence[TensorPlan]) -> Iterator[str]:
    """Note on tensors whose precision differs between members."""
    mixed = [t for t in targets if len({s.result_dtype for s in t.sources}) > 1]
    if mixed:
        every = {tensor.result_dtype for target in mixed for tensor in target.sources}
        dtypes = sorted(map(str, every))
        yield (
            f"{len(mixed)} tensors have different precisions in the members "
            f"({', '.join(dtypes)}), such as {mixed[0].name}, written as "
            f"{mixed[0].dtype}"
        )
