"""All merge methods; importing this module adds them to the table `RULES`."""

from __future__ import annotations

from ensembles.checkpoints.methods.fisher import fisher
from ensembles.checkpoints.methods.regmean import regmean
from ensembles.rules.builtin import RULES

__all__ = ["RULES", "fisher", "regmean"]
