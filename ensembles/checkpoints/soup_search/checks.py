"""Validate the arguments of a soup before the first score, which may take minutes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ensembles.atomic_io import check_absent
from ensembles.checkpoints.planning.plan import Plan
from ensembles.checkpoints.soup_search.journal import Journal
from ensembles.checkpoints.soup_selection import needing_base, resolve_selection
from ensembles.selection import Selection


def check_members(members: Any, base: Any) -> None:
    """Raise unless members and base are at least two different paths.

    Parameters
    ----------
    members : sequence of paths
        Paths of the members.
    base : path or None
        Path of the base; None without a base.

    Raises
    ------
    TypeError
        If ``members`` is not a sequence, or a member is not a path.
    ValueError
        If there are fewer than two paths, or two are the same.
    """
    if isinstance(members, str | os.PathLike | Mapping):
        raise TypeError(f"members must be a sequence of paths, found {members!r:.80}")
    paths = [*members] if base is None else [base, *members]
    by_real_path: dict[str, Any] = {}
    for path in paths:
        if not isinstance(path, str | os.PathLike):
            raise TypeError(
                f"members of a soup must be paths, found {type(path).__name__}"
            )
        real_path = os.path.realpath(path)
        if real_path in by_real_path:
            raise ValueError(
                f"members must be different, found {by_real_path[real_path]} and "
                f"{path}, which are the same; pass it once"
            )
        by_real_path[real_path] = path
    if len(paths) < 2:
        names = ", ".join(map(str, paths)) or "none"
        is_folder = any(map(os.path.isdir, paths))
        hint = "; for a run, pass choose_checkpoints(run, last=N).paths (--last N)"
        raise ValueError(
            f"a soup needs at least two members, found {names}{hint * is_folder}"
        )


def check_selection(
    select: str, params: Mapping[str, Any], base: Any, n_members: int
) -> Selection:
    """Look up a selection, and validate its base and parameters.

    Parameters
    ----------
    select : str
        Name of a selection in `ensembles.selection.SELECTIONS`.
    params : mapping of str to value
        Parameters of the selection.
    base : path or None
        Base, which must be given if and only if the selection needs one.
    n_members : int
        Number of members that weights are chosen for.

    Returns
    -------
    Selection

    Raises
    ------
    ValueError
        If the selection is unknown, ``base`` does not fit it, or a parameter is unknown
        or invalid.
    ImportError
        If the selection needs a package that is not installed.
    """
    selection = resolve_selection(select)
    if selection is None:
        raise TypeError(f"select must be the name of a selection, found {select!r}")
    if base is None and selection.needs_base:
        raise ValueError(
            f"selection {select!r} needs the checkpoint that the members were "
            "fine-tuned from; pass base=PATH (--base PATH)"
        )
    if base is not None and not selection.needs_base:
        raise ValueError(
            "base=PATH (--base PATH) can be used with selection "
            f"{needing_base()} only, found the base {base} and selection {select!r}; "
            "leave the base out, or choose that selection"
        )
    try:
        selection.check_params(n_members, params)
    except TypeError as error:
        raise ValueError(
            f"parameters of selection {select!r} must have the right types: {error}"
        ) from None
    return selection


def check_output(planned: Plan, journal: Journal | None) -> None:
    """Check that the soup and its journal can be written, and candidates beside them.

    Parameters
    ----------
    planned : Plan
        Plan of the average of all members, the base included, written to the output.
    journal : Journal or None
        Journal of the scores; None keeps none.

    Raises
    ------
    FileExistsError
        If the output exists and the plan's option ``force`` is False.
    ValueError
        If the disk has too little space, or the journal is inside the directory of a
        member; `plan` has checked this for the output.
    """
    assert planned.out is not None
    check_absent(planned.out, force=planned.options.force)
    floats = [t for t in planned.targets if t.action == "combine"]
    n_bytes = planned.write_bytes
    if len(planned.members) > 2:
        # Running sums, in float64, are on disk while a candidate is written.
        n_bytes += 8 * sum(target.size for target in floats)
    if n_bytes > planned.free_bytes:
        raise ValueError(
            f"{planned.out} needs {n_bytes} bytes beside it for candidates and running "
            f"sums, but its disk has {planned.free_bytes} left; choose another output"
        )
    if journal is None:
        return
    for member in planned.members:
        path = Path(str(member.path)).resolve()
        if member.is_directory and path in journal.path.resolve().parents:
            raise ValueError(
                f"{journal.path} must not be inside a member, found the member "
                f"{member.name}; choose a path outside of it"
            )
