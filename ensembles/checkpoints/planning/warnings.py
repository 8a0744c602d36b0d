"""Warnings about members whose average may be useless or unexpected."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from ensembles._sklearn import warn_caller
from ensembles.checkpoints.compatibility.shared_init import UNRELATED, relations
from ensembles.checkpoints.compatibility.tied_weights import same_bytes
from ensembles.checkpoints.formats.checkpoint import Checkpoint
from ensembles.checkpoints.planning.kept_contents import kept_contents
from ensembles.checkpoints.planning.notices import STATISTICS
from ensembles.checkpoints.planning.plan import Plan


def check_related(
    members: Sequence[Checkpoint], names: Collection[str], shared_init: str
) -> None:
    """Check that networks were fine-tuned from the same initialization.

    Parameters
    ----------
    members : sequence of Checkpoint
        Members, each compared with the first.
    names : collection of str
        Names of the network's parameters.
    shared_init : {"error", "warn"}
        Whether to raise an error or to warn if initializations differ.

    Raises
    ------
    ValueError
        If initializations differ and ``shared_init`` is "error".

    Warns
    -----
    UserWarning
        If initializations differ and ``shared_init`` is "warn", or if the cosine
        similarity of a member with the first is below 0.5.
    """
    first = members[0].name
    for index, cosine, what, is_related in relations(members, names):
        name = members[index].name
        if not is_related:
            message = (
                "members must be fine-tuned from the same initialization, "
                f"{name} and {first} are not: the cosine similarity of {what} is "
                f"{cosine:.3f}, and their average is usually useless"
            )
            if shared_init == "error":
                raise ValueError(
                    f"{message}; combine their predictions, with EnsembleClassifier "
                    "or EnsembleRegressor, fine-tune them from one checkpoint, or "
                    "pass shared_init='warn' to average them nevertheless"
                )
            warn_caller(message)
        elif cosine < UNRELATED:
            warn_caller(
                f"{name} is far from {first}, the cosine similarity of {what} is "
                f"{cosine:.3f}: their average may be worse than both; score it"
            )


def warn_of_statistics(members: Sequence[Checkpoint]) -> None:
    """Warn if members differ in the running statistics of BatchNorm.

    Parameters
    ----------
    members : sequence of Checkpoint
        Members, whose statistics are read and compared byte for byte.

    Warns
    -----
    UserWarning
        Once, with the first tensor that differs.
    """
    first = members[0].layout
    for name, tensor in first.items():
        if name.rpartition(".")[2] not in STATISTICS:
            continue
        others = [m.layout[name] for m in members[1:] if name in m.layout]
        if not all(same_bytes(tensor, other) for other in others):
            warn_caller(
                f"running statistics of BatchNorm, such as {name}, are averaged like "
                "parameters and do not fit the averaged network: recompute them before "
                "it is scored and used, e.g. with torch.optim.swa_utils.update_bn; "
                "ModelSoup(finish=...) can call it"
            )
            return


def warn_of_candidates(planned: Plan, name: str) -> None:
    """Warn if candidates of a soup differ from the members in format or statistics.

    Parameters
    ----------
    planned : Plan
        Plan of all members on disk; candidates are written in the format of the first.
    name : str
        File name of the candidates, with the suffix of the first member.

    Warns
    -----
    UserWarning
        If members have different formats or different running statistics of BatchNorm,
        or if candidates lack other contents of the first member.
    """
    members = planned.members
    first = members[0]
    kept = kept_contents(
        {name: planned.targets},
        planned.aliases,
        first,
        Path(name),
        only_weights=planned.options.only_weights,
    )
    if first.keys and not kept.templates:
        keys = " and ".join(map(repr, first.keys))
        warn_caller(
            f"{first.name} has its tensors under the key {keys}, but combinations are "
            "written as plain state dicts: the score must read both"
        )
    other = next((m for m in members if _form(m) != _form(first)), None)
    if other is not None:
        warn_caller(
            f"{first.name} and {other.name} have different formats: combinations "
            "are written in the format of the first"
        )
    warn_of_statistics(members)


def _form(member: Checkpoint) -> tuple[bool, str, bool]:
    is_file = member.path is not None and not member.is_directory
    suffix = member.path.suffix if member.path and is_file else ""
    return member.is_directory, suffix, not member.keys
