"""The table of rules by name."""

from __future__ import annotations

from ensembles.registry import Table
from ensembles.rules.rule import Rule

RULES: Table[Rule] = Table("rule", Rule)
