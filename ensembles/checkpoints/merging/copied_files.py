"""Auxiliary files of a result directory, copied from the first member or rewritten."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ensembles.checkpoints.compatibility.configuration import CARD, has_card, is_card
from ensembles.checkpoints.compatibility.tied_weights import untied_config
from ensembles.checkpoints.merging.model_card import model_card
from ensembles.checkpoints.planning import shards
from ensembles.checkpoints.planning.plan import Plan


def write_auxiliary_files(
    plan: Plan, path: Path, digests: Sequence[str], recipe: str
) -> None:
    """Copy the auxiliary files of the first member, and rewrite the ones that change.

    Writes a new index of shards and a new model card, and changes ``config.json`` if
    weights are untied or the dtype changes.

    Parameters
    ----------
    plan : Plan
        Plan whose output is a directory.
    path : Path
        Directory to write to.
    digests : sequence of str
        Digest of each member's tensors, then of the base's.
    recipe : str
        Provenance in JSON, for the index.
    """
    first = plan.members[0]
    changed: dict[str, dict[str, Any]] = shards.index(plan.parts, first, recipe)
    config = untied_config(first.config) if plan.untied else dict(first.config)
    if plan.options.dtype is not None:
        keys = [key for key in ("dtype", "torch_dtype") if key in config]
        config |= dict.fromkeys(keys, plan.options.dtype)
    if config != first.config and "config.json" in first.files:
        changed["config.json"] = config
    for name in first.files:
        if name not in changed and not is_card(name):
            copy = path / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(Path(str(first.path)) / name, copy)
    for name, contents in changed.items():
        text = json.dumps(contents, indent=2) + "\n"
        (path / name).write_text(text, encoding="utf-8")
    if has_card(plan.members):
        (path / CARD).write_text(model_card(plan, digests), encoding="utf-8")
