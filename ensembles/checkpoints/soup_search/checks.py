"""Validate the arguments of a soup before the first score, which may take minutes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ensembles.atomic_io import check_absent
from ensembles.checkpoints.planning.plan import Plan, plan
from ensembles.checkpoints.soup_search.journal import Journal
from ensembles.checkpoints.soup_search.rule_parameters import RuleSpace
from ensembles.checkpoints.soup_selection import check_rules, resolve_selection
from ensembles.selection import SELECTIONS, Selection


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
            if by_real_path[real_path] is base:
                raise ValueError(f"{path} is the base; leave it out of the members")
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
    select: str | None,
    params: Mapping[str, Any],
    base: Any,
    spaces: Sequence[RuleSpace],
    n_members: int,
) -> Selection | None:
    """Look up a selection, and validate its base, parameters and ranges.

    Parameters
    ----------
    select : str or None
        Name of a selection in `ensembles.selection.SELECTIONS`. None is
        ``"greedy_soup"`` for a single rule that needs no base and takes weights, else
        no selection.
    params : mapping of str to value
        Parameters of the selection.
    base : path or None
        Base, which must be given if and only if the selection or a rule needs one.
    spaces : sequence of RuleSpace
        Rules of the soup, with the ranges of their parameters.
    n_members : int
        Number of members that weights are chosen for.

    Returns
    -------
    Selection or None
        None if all members are combined with equal weights.

    Raises
    ------
    ValueError
        If the selection is unknown, ``base`` does not fit it, a parameter is unknown or
        invalid, or the selection does not choose parameters that have a range.
    ImportError
        If the selection needs a package that is not installed.
    """
    rules = [space.rule for space in spaces]
    is_plain = len(rules) == 1 and rules[0].weighted and not rules[0].needs_base
    if select is None and is_plain:
        select = "greedy_soup"
    selection = None if select is None else resolve_selection(select)
    if selection is None and select is not None:
        raise TypeError(f"select must be the name of a selection, found {select!r}")
    is_equal = params.get("equal_weights") is True
    check_rules(selection, rules, base, select, equal_weights=is_equal)
    _check_ranges(selection, spaces, is_equal=is_equal)
    if selection is None:
        if params:
            raise ValueError(
                f"parameters {', '.join(params)} need a selection; pass select=NAME "
                "(--select NAME)"
            )
        return None
    try:
        selection.check_params(n_members, params)
    except TypeError as error:
        raise ValueError(
            f"parameters of selection {select!r} must have the right types: {error}"
        ) from None
    return selection


def _check_ranges(
    selection: Selection | None, spaces: Sequence[RuleSpace], *, is_equal: bool
) -> None:
    """Raise for ranges that the selection does not use, or that it lacks."""
    names = [name for space in spaces for name in space.ranges]
    if is_equal and not names:
        raise ValueError(
            "equal_weights=True needs a range of a parameter of the rule; pass "
            "rule_ranges={'density': (0.1, 0.9)} (--param density=.1:.9)"
        )
    if names and not (selection is not None and selection.samples_params):
        samplers = [n for n, s in SELECTIONS.items() if s.samples_params]
        raise ValueError(
            f"the range of {names[0]!r} needs a selection that chooses parameters of "
            f"the rule; pass select={' or '.join(map(repr, samplers))} (--select "
            f"{' or '.join(samplers)}), or a single value"
        )


def plan_rules(
    members: Sequence[Any],
    base: Any,
    out: Any,
    spaces: Sequence[RuleSpace],
    options: Mapping[str, Any],
) -> Plan:
    """Plan the average of all members by each rule, before the first score.

    Parameters
    ----------
    members : sequence of paths
        Paths of the members.
    base : path or None
        Path of the base; a member if no rule needs it. None without a base.
    out : path
        Output.
    spaces : sequence of RuleSpace
        Rules, which are planned with both ends of the ranges.
    options : mapping of str to value
        Options of `plan`, without weights and rule.

    Returns
    -------
    Plan
        With the base, if there is one.

    Raises
    ------
    ValueError
        If the members do not match, or a rule does not accept them or a parameter.
    """
    with_base = [space for space in spaces if space.rule.needs_base]
    sources = [*members] if base is None or with_base else [base, *members]
    first: Plan | None = None
    for space in [*with_base, *(s for s in spaces if not s.rule.needs_base)]:
        for end in ("low", "high") if space.ranges else ("first",):
            planned = plan(
                sources,
                out,
                base=base if space.rule.needs_base else None,
                rule=space.rule,
                rule_params=space.params_at(end),
                **options,
            )
            if first is None:
                first, sources, base = planned, list(planned.members), planned.base
    assert first is not None
    return first


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
