"""Notes of a plan: repeated members, options without effect, and the output."""

from __future__ import annotations

import fnmatch
import os
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ensembles._typing import Float64
from ensembles.checkpoints.compatibility.configuration import CARD, has_card, is_card
from ensembles.checkpoints.compatibility.grouping import MEMBER, grouped, listed
from ensembles.checkpoints.compatibility.layout import LayoutMatch, TensorPlan
from ensembles.checkpoints.formats.builtin import FORMATS
from ensembles.checkpoints.formats.checkpoint import Checkpoint
from ensembles.checkpoints.formats.pytorch_files.nesting import AVERAGES
from ensembles.checkpoints.planning.buffers import unit_of
from ensembles.checkpoints.planning.options import MergeOptions
from ensembles.rules.rule import Rule

# BatchNorm: the mean of variances is not the variance of the averaged network.
STATISTICS = ("running_mean", "running_var")
NEW_CARD = (
    f"{CARD} is a new model card that names the members; their cards are left out, "
    "because the scores in them are not those of the result"
)
UNITS = {"row": "rows", "matrix": "matrices", "tensor": "tensors"}
TOLERANCE = 0.02  # on the sum of weights: thirds may be passed as .33


def notices(
    members: Sequence[Checkpoint],
    base: Checkpoint | None,
    options: MergeOptions,
    match: LayoutMatch,
    rule: Rule,
    weights: Float64,
) -> Iterator[str]:
    """Notes on repeated members, unusual weights and options without effect.

    Parameters
    ----------
    members : sequence of Checkpoint
        Members of the plan.
    base : Checkpoint or None
        Base of the plan.
    options : MergeOptions
        Options of the plan.
    match : LayoutMatch
        Layout of the result, see `ensembles.checkpoints.compatibility.layout`.
    rule : Rule
        Rule of the plan.
    weights : ndarray of shape (n_members,)
        Weight of each member.

    Yields
    ------
    str
        One sentence each.
    """
    yield from _repeated(members)
    zero_weight = [m.name for m, w in zip(members, weights, strict=True) if w == 0]
    if zero_weight:
        verb = "has" if len(zero_weight) == 1 else "have"
        yield f"{listed(zero_weight)} {verb} weight 0, and {verb} no effect"
    if not rule.weight_sum_matters and _are_divided(weights):
        yield (
            f"weights sum to {weights.sum():.6g}, not to 1: a mean is divided by this "
            "sum"
        )
    statistics = [t.name for t in match.targets if t.name.endswith(STATISTICS)]
    if statistics and len(members) > 1:
        yield (
            f"running statistics, such as {statistics[0]}, are combined like "
            "parameters and do not fit the averaged network: recompute them on "
            "training data (torch.optim.swa_utils.update_bn)"
        )
    yield from _without_effect(members, base, options, match)


def member_notes(members: Sequence[Checkpoint]) -> Iterator[str]:
    """Notes on contents that were skipped or chosen when members were opened.

    Parameters
    ----------
    members : sequence of Checkpoint
        Members with their ``notes``.

    Yields
    ------
    str
        One sentence per note, with the names of all members that share it.
    """
    notes = [(m.name, f"{MEMBER}: {note}") for m in members for note in m.notes]
    if notes:
        yield from grouped(notes)
    kinds = {any(map(AVERAGES.search, m.keys)): m for m in members if m.keys}
    if len(kinds) == 2:
        yield (
            f"key {kinds[True].keys[0]!r} of {kinds[True].name} is an average that was "
            f"kept during training, key {kinds[False].keys[0]!r} of "
            f"{kinds[False].name} is not; pass key=NAME (--key NAME) to take the same "
            "key of each"
        )


def output_notes(
    out: Path | None,
    format_: str,
    n_written: int,
    options: MergeOptions,
    members: Sequence[Checkpoint],
) -> Iterator[str]:
    """Notes on the output: overwriting, and files that it does not include.

    Parameters
    ----------
    out : Path or None
        Path of the output; None for a state dict in memory.
    format_ : str
        Name of the output's format in `FORMATS`; "directory" or "memory".
    n_written : int
        Size of the output's tensors in bytes.
    options : MergeOptions
        Options of the plan, which say whether an existing output is replaced.
    members : sequence of Checkpoint
        Members, for their model cards and auxiliary files.

    Yields
    ------
    str
        One sentence each.
    """
    # Another process may have completed an output that several write together.
    may_exist = options.force or options.world_size is not None
    if out is not None and os.path.lexists(out) and not may_exist:
        yield f"{out} exists; pass force=True (--force) to replace it"
    written = FORMATS.get(format_)
    if written is not None and not written.streams:
        yield (
            f"format {format_!r} holds the result in memory until it is written: "
            f"{out} needs {n_written} bytes"
        )
    if written is not None and not written.keeps_metadata:
        yield (
            f"format {format_!r} does not store the provenance of the result; a "
            "safetensors file does"
        )
    if (
        format_ == "directory"
        and members[0].is_distributed
        and "config.json" not in members[0].files
    ):
        yield (
            f"{members[0].name} has no config.json: the result has tensors alone, with "
            "the names of the trainer"
        )
    if format_ == "directory" and has_card(members):
        yield NEW_CARD
    if written is not None and members[0].is_directory:
        files = [name for name in members[0].files if not is_card(name)]
        if files:
            yield (
                f"{out} contains only tensors, without {listed(files, 3)} of "
                f"{members[0].name}; to keep these files, choose an output without "
                "suffix, which is a directory"
            )


def _are_divided(weights: Float64) -> bool:
    """Whether weights are fractions or signed, but do not sum to 1."""
    is_part = bool((np.abs(weights) <= 1).all() and (weights % 1 != 0).any())
    is_meant = is_part or bool((weights < 0).any())
    return len(weights) > 1 and is_meant and bool(abs(weights.sum() - 1) > TOLERANCE)


def _repeated(members: Sequence[Checkpoint]) -> Iterator[str]:
    """Notes on members that are the same file, under one name or several."""
    by_identity: dict[Hashable, Checkpoint] = {}
    names = Counter(member.name for member in members if member.path is not None)
    for name, n_times in names.items():
        if n_times > 1:
            yield f"{name} is passed {n_times} times, and counts {n_times} times"
    for member in members:
        if member.path is None:
            continue
        first = by_identity.setdefault(_identity(member), member)
        if first.name != member.name and first is not member:
            yield (
                f"{first.name} and {member.name} are the same "
                f"{'directory' if member.is_directory else 'file'}, which counts twice"
            )


def base_problems(
    members: Sequence[Checkpoint], base: Checkpoint | None
) -> Iterator[str]:
    """Problems of a base that is also a member, whose differences are all zero.

    Parameters
    ----------
    members : sequence of Checkpoint
        Members of the plan.
    base : Checkpoint or None
        Base of the plan; None without a base.

    Yields
    ------
    str
        One message for each member that is the base.
    """
    if base is None:
        return
    for member in members:
        if _identity(member) == _identity(base):
            yield (
                f"{member.name} is the base, from which it does not differ; leave it "
                "out of the members"
            )


def _identity(member: Checkpoint) -> Hashable:
    """Key of a checkpoint, equal for all links to it and state dicts in its memory."""
    if member.made_from:
        stored = member.layout.items()
        return frozenset((name, id(t.source), t.offset) for name, t in stored)
    if member.path is None:
        return frozenset(
            (name, getattr(tensor.source, "place", None) or object())
            for name, tensor in member.layout.items()
        )
    path = os.path.realpath(str(member.path))
    if member.adapters:
        return path, *map(_identity, member.adapters)
    if member.is_directory:
        return path
    status = os.stat(path)
    return f"{status.st_dev}:{status.st_ino}"


def _without_effect(
    members: Sequence[Checkpoint],
    base: Checkpoint | None,
    options: MergeOptions,
    match: LayoutMatch,
) -> Iterator[str]:
    if options.key:
        without_key = [
            member.name
            for member in members
            if member.path is not None and not FORMATS[member.format].takes_key
        ]
        if without_key:
            yield (
                f"the key {' and '.join(options.key)} has no effect on "
                f"{listed(without_key)}: files of this format hold a single state dict"
            )
    names = dict.fromkeys(name for member in members for name in member.names)
    patterns = {"include": options.include, "exclude": options.exclude}
    for option, option_patterns in patterns.items():
        for pattern in option_patterns:
            if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
                yield f"{option} pattern {pattern!r} matches no tensor"
    integers = [
        target for target in match.targets if target.action == "resolve_integers"
    ]
    if options.integers != "error" and not integers:
        yield (
            f"integers={options.integers!r} (--integers {options.integers}) has no "
            "effect: all tensors are floats"
        )
    first = members[0].layout.keys()
    is_complete = all(member.layout.keys() == first for member in members)
    is_complete &= base is None or first <= base.layout.keys()
    if options.missing != "error" and is_complete:
        yield (
            f"missing={options.missing!r} (--missing {options.missing}) has no effect: "
            "all members have the same tensors"
        )


def unit_notes(
    targets: Sequence[TensorPlan], rule: Rule, params: Mapping[str, Any]
) -> Iterator[str]:
    """Note on the tensors that a rule for matrices combines element by element.

    Parameters
    ----------
    targets : sequence of TensorPlan
        Tensors of the result.
    rule : Rule
        Rule of the plan.
    params : mapping of str to value
        Parameters of the rule.

    Yields
    ------
    str
        One sentence, if the rule has units of some tensors only.
    """
    if rule.has_units is None or rule.unit != "matrix":
        return
    combined = [target for target in targets if target.action == "combine"]
    others = [t.name for t in combined if unit_of(t, rule, params) == "element"]
    n_whole = len(combined) - len(others)
    noun = "tensor" if n_whole == 1 else "tensors"
    note = f"rule {rule.name!r} combines whole {UNITS[rule.unit]} of {n_whole} {noun}"
    if others:
        noun = "other" if len(others) == 1 else "others"
        note += f", and {len(others)} {noun}, such as {others[0]}, element by element"
    yield note
