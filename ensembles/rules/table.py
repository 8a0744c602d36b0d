"""The table of rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ensembles.registry import Table
from ensembles.rules.rule import Rule


def _make(function: Callable[..., Any], facts: dict[str, Any]) -> Rule:
    return Rule(function, **facts)


RULES: Table[Rule] = Table("rule", _make)
