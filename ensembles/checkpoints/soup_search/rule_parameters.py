"""Rules of a soup of files, with values and ranges of their parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any, NamedTuple

from ensembles.checkpoints.methods.builtin import RULES
from ensembles.checkpoints.planning.foreign_rules import resolve_rule
from ensembles.checkpoints.soup_search.journal import rule_identity
from ensembles.rules.rule import Rule
from ensembles.selection.score import ParameterRange


class ParametrizedRule(NamedTuple):
    """A rule with its parameters.

    Parameters
    ----------
    rule : Rule
        Rule that combines the members.
    params : mapping of str to value
        Its parameters.
    identity : str
        Return value of `rule_identity`, for the journal.
    """

    rule: Rule
    params: Mapping[str, Any]
    identity: str


MEAN = ParametrizedRule(RULES["mean"], {}, "mean")


class RuleSpace(NamedTuple):
    """A rule of a soup, and the ranges of its parameters.

    Parameters
    ----------
    how : ParametrizedRule
        Rule with the parameters that are fixed.
    ranges : dict of str to ParameterRange
        Parameters that a selection chooses.
    """

    how: ParametrizedRule
    ranges: dict[str, ParameterRange]

    @property
    def rule(self) -> Rule:
        """Rule that combines the members."""
        return self.how.rule

    def params_at(self, end: str) -> dict[str, Any]:
        """All parameters, with the field "low", "high" or "first" of each range."""
        ends = {name: getattr(entry, end) for name, entry in self.ranges.items()}
        return {**self.how.params, **ends}


def resolve_rules(
    rule: str | Rule | Sequence[str | Rule],
    params: Mapping[str, Any],
    ranges: Mapping[str, Sequence[float]],
) -> list[RuleSpace]:
    """Rules of a soup, each with the parameters that it has.

    Parameters
    ----------
    rule : str, Rule, or sequence of them
        Rules or their names.
    params : mapping of str to value
        Parameters of the rules; each rule gets the ones that it has.
    ranges : mapping of str to (low, high)
        Parameters that a selection chooses.

    Returns
    -------
    list of RuleSpace

    Raises
    ------
    TypeError
        If a rule or a range has the wrong type.
    ValueError
        If a rule is unknown or occurs twice, no rule has a parameter, or a range is not
        valid.
    """
    is_single = isinstance(rule, str | Rule) or not isinstance(rule, Sequence)
    entries: list[Any] = [rule] if is_single else list(rule)  # type: ignore[arg-type]
    rules = [resolve_rule(entry) for entry in entries]
    names = [entry.name for entry in rules]
    if not rules or len(set(names)) < len(names):
        raise ValueError(
            "the rules of a soup must be at least one, all different, found "
            f"{', '.join(names) or 'none'}"
        )
    both = [name for name in ranges if name in params]
    if both:
        raise ValueError(
            f"parameter {both[0]!r} must have a value or a range, found both"
        )
    for name in [*params, *ranges]:
        if len(rules) > 1 and not any(name in entry.params for entry in rules):
            known = sorted({param for entry in rules for param in entry.params})
            raise ValueError(
                f"no rule of {', '.join(names)} has a parameter {name!r} (known: "
                f"{', '.join(known) or 'none'})"
            )
    return [
        RuleSpace(
            ParametrizedRule(entry, _owned(entry, params, rules), rule_identity(entry)),
            {
                name: _range(name, ends, entry.params.get(name))
                for name, ends in _owned(entry, ranges, rules).items()
            },
        )
        for entry in rules
    ]


def _owned(
    rule: Rule, params: Mapping[str, Any], rules: Sequence[Rule]
) -> dict[str, Any]:
    """Parameters that a rule has; all for a single rule, which refuses unknown ones."""
    return {n: v for n, v in params.items() if len(rules) == 1 or n in rule.params}


def _range(name: str, ends: Any, default: Any) -> ParameterRange:
    """Range from its two ends, which starts at the default if that is inside."""
    numbers = list(ends) if isinstance(ends, Sequence) else []
    is_valid = len(numbers) == 2 and all(
        isinstance(end, Real) and not isinstance(end, bool) and math.isfinite(end)
        for end in numbers
    )
    if isinstance(ends, str) or not is_valid or not numbers[0] < numbers[1]:
        raise ValueError(
            f"range of parameter {name!r} must be two numbers in increasing order, "
            f"such as (0.1, 0.9), found {ends!r}"
        )
    low, high = numbers
    is_integer = isinstance(default, Integral) and not isinstance(default, bool)
    if is_integer and not (float(low).is_integer() and float(high).is_integer()):
        raise ValueError(
            f"range of parameter {name!r} must be two integers, found {ends!r}"
        )
    kind = int if is_integer else float
    is_inside = isinstance(default, Real) and low <= default <= high
    first = default if is_inside else (low + high) / 2
    return ParameterRange(kind(low), kind(high), kind(first), is_integer)
