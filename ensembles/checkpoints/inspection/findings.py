"""The outcome of a verification: contents that match, and contents that differ."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Verification:
    """Parts of a result that match the recorded digests, and parts that differ.

    Parameters
    ----------
    path : Path
        Path of the result.
    recipe : dict or None
        Provenance in the metadata of the result; None if it has none.
    verified : list of str
        Contents that match, such as "README.md: digests of the members".
    unverified : list of str
        Contents that cannot be verified, each with the reason.
    problems : list of str
        One message for each content that differs; empty if the result is intact.
    differing_tensors : list of str
        Names of tensors that differ from their digest, in the order of the names.
    """

    path: Path
    recipe: dict[str, Any] | None
    verified: list[str] = field(default_factory=list)
    unverified: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    differing_tensors: list[str] = field(default_factory=list)

    @property
    def is_intact(self) -> bool:
        """Whether nothing differs from the recorded digests and checksums."""
        return not self.problems
