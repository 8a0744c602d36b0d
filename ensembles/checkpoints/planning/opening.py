"""Open the members, the base and the moments of a plan."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ensembles.checkpoints.compatibility.member_moments import (
    MemberMoments,
    MomentsSource,
    open_moments,
)
from ensembles.checkpoints.compatibility.prefixes import match_first_names
from ensembles.checkpoints.directories.adapter_files import has_adapter, open_adapter
from ensembles.checkpoints.directories.open import Member
from ensembles.checkpoints.formats.checkpoint import Checkpoint, Keys
from ensembles.checkpoints.methods.builtin import RULES
from ensembles.checkpoints.views.adapted import adapted, open_adapted
from ensembles.checkpoints.views.experts import match_expert_layouts, router_note
from ensembles.rules.rule import Rule

SHOWN = 20  # problems in one error


class OpenedCheckpoints(NamedTuple):
    """Checkpoints and moments of a plan.

    Parameters
    ----------
    members : tuple of Checkpoint
        Opened members, with the tensor names of the first.
    base : Checkpoint or None
        Opened base, with the tensor names of the first member.
    moments : tuple of MemberMoments
        Moments of each member; empty without moments.
    notes : list of str
        Notes on renamed tensors.
    """

    members: tuple[Checkpoint, ...]
    base: Checkpoint | None
    moments: tuple[MemberMoments, ...]
    notes: list[str]


def open_all(
    members: Sequence[Member],
    base: Member | None,
    moments: Sequence[MomentsSource] | None,
    key: Keys,
    rule: str | Rule,
) -> OpenedCheckpoints:
    """Open members, base and moments, with one error that lists all problems.

    Parameters
    ----------
    members : sequence of paths or state dicts
        Members, at least one.
    base : path, state dict or None
        Base; None without a base.
    moments : sequence of paths or Moments, or None
        Second moments of the data of each member; None without moments.
    key : str, sequence of str or None
        Key of the state dict in PyTorch checkpoints; None finds it.
    rule : str or Rule
        Rule of the plan. The base is left out of the result if only adapters among the
        members need it.

    Returns
    -------
    OpenedCheckpoints

    Raises
    ------
    FileNotFoundError, ValueError, TypeError
        If members, base or moments cannot be opened, or moments belong to another
        member.
    """
    if isinstance(members, str | os.PathLike | Mapping):
        raise TypeError(
            "members must be a sequence of checkpoints, found a single one: "
            f"{members!r:.80}"
        )
    members = list(members)  # it may be an array of paths
    if not members:
        raise ValueError("there must be at least one member, found none")
    opened: list[Checkpoint] = []
    errors: list[Exception] = []
    opened_base = base_error = None
    if base is not None:
        try:
            opened_base = _open_base(base, key)
        except (OSError, ValueError) as error:
            base_error = error
    for index, member in enumerate(members):
        if base_error is not None and _is_adapter(member):
            continue  # it needs the base
        try:
            opened.append(_open_member(member, index, key, opened_base))
        except (OSError, ValueError) as error:
            errors.append(error)
    if opened_base is not None:
        opened.append(opened_base)
    if base_error is not None:
        errors.append(base_error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        is_absent = all(isinstance(error, FileNotFoundError) for error in errors)
        kind = FileNotFoundError if is_absent else ValueError
        raise kind(all_problems([str(error) for error in errors]))
    # Moments have the names of their member, before tensors are renamed.
    of_members = opened if base is None else opened[:-1]
    opened_moments = open_moments(moments or (), of_members)
    notes: list[str] = []
    if any(
        checkpoint.layout.keys() != opened[0].layout.keys() for checkpoint in opened
    ):
        renamed, notes = match_first_names(opened)
        matched, expert_notes = match_expert_layouts(renamed)
        opened, notes = list(matched), [*notes, *expert_notes]
    notes += router_note(opened if base is None else opened[:-1])
    if base is None:
        return OpenedCheckpoints(tuple(opened), None, opened_moments, notes)
    *opened, last = opened
    kept = last if _uses_base(rule, opened) else None
    return OpenedCheckpoints(tuple(opened), kept, opened_moments, notes)


def _open_member(
    member: Member, index: int, key: Keys, base: Checkpoint | None
) -> Checkpoint:
    """Open a member; an adapter is added to the base."""
    if base is None or not _is_adapter(member):
        return open_adapted(member, index, key=key)
    return adapted(replace(base, name=str(base.path or "base")), open_adapter(member))


def _is_adapter(member: Member) -> bool:
    """Whether a member is the path of an adapter."""
    return isinstance(member, str | os.PathLike) and has_adapter(Path(member))


def _uses_base(rule: str | Rule, members: Sequence[Checkpoint]) -> bool:
    """Whether the base is more than that of adapters among the members."""
    found = RULES.get(rule) if isinstance(rule, str) else rule
    has_adapters = any(member.adapters for member in members)
    return not has_adapters or found is None or found.needs_base


def _open_base(base: Member, key: Keys) -> Checkpoint:
    """Open the base, with "base" in its name for messages."""
    if not isinstance(base, str | os.PathLike | Mapping | Checkpoint):
        raise TypeError(
            f"base must be a path or a state dict, found {type(base).__name__}"
        )
    opened = open_adapted(base, 0, key=key)
    if opened is base:  # streams recognize the object
        return opened
    return replace(opened, name=f"base {opened.path}" if opened.path else "base")


def all_problems(problems: Sequence[str]) -> str:
    """Join problems, one a line, at most `SHOWN`.

    Parameters
    ----------
    problems : sequence of str
        Messages; repetitions are left out.

    Returns
    -------
    str
    """
    lines = list(dict.fromkeys(problems))
    n_more = len(lines) - SHOWN
    return "\n".join(lines[:SHOWN] + [f"and {n_more} more problems"] * (n_more > 0))
