"""Auxiliary files of a result directory, copied from the first member or rewritten."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ensembles.checkpoints.compatibility.configuration import (
    CARD,
    CONFIG,
    has_card,
    is_card,
)
from ensembles.checkpoints.compatibility.tied_weights import untied_config
from ensembles.checkpoints.merging.model_card import model_card
from ensembles.checkpoints.planning import shards
from ensembles.checkpoints.planning.plan import Plan
from ensembles.regular_files import read_json


def write_auxiliary_files(
    plan: Plan, path: Path, digests: Sequence[str], recipe: str
) -> None:
    """Copy auxiliary files of the first member, and rewrite the ones that change.

    The files with its training state are copied too if ``only_weights`` is False.

    Writes a new index of shards and a new model card, and changes ``config.json`` if
    weights are untied, or the dtype of the model or a module changes.

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
    folder = Path(str(first.path))
    changed: dict[str, dict[str, Any]] = shards.index(plan.parts, first, recipe)
    changed |= _changed_configs(plan)
    copied = [n for n in first.files if plan.is_conversion or not is_card(n)]
    if plan.options.only_weights is False:
        copied += first.training_files
    for name in copied:
        if name not in changed:
            copy = path / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            if name in first.contents:
                copy.write_bytes(first.contents[name])
            else:
                shutil.copyfile(folder / name, copy)
    for name, contents in changed.items():
        text = json.dumps(contents, indent=2) + "\n"
        (path / name).write_text(text, encoding="utf-8")
    if has_card(plan.members) and not plan.is_conversion:
        (path / CARD).write_text(model_card(plan, digests), encoding="utf-8")


def _changed_configs(plan: Plan) -> dict[str, dict[str, Any]]:
    """Configurations of the model and its modules with new ties or dtypes, by path."""
    first = plan.members[0]
    changed = {}
    for name in first.files:
        if Path(name).name != CONFIG:
            continue
        stored = first.config
        if name in first.contents:
            stored = json.loads(first.contents[name])
        elif name != CONFIG:
            stored = read_json(Path(str(first.path)) / name)
        config = untied_config(stored) if plan.untied and name == CONFIG else stored
        if plan.options.dtype is not None and isinstance(config, dict):
            keys = {"dtype", "torch_dtype"} & config.keys()
            config = config | dict.fromkeys(keys, plan.options.dtype)
        if config != stored:
            changed[name] = config
    return changed
