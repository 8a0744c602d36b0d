"""Verification of the files beside the weights: indexes, model card and copies."""

from __future__ import annotations

import filecmp
import json
import re
from pathlib import Path
from typing import Any

from ensembles.checkpoints.compatibility.configuration import CARD, CONFIG, is_card
from ensembles.checkpoints.compatibility.grouping import listed
from ensembles.checkpoints.formats.checkpoint import Checkpoint
from ensembles.checkpoints.formats.detection import read_metadata
from ensembles.checkpoints.inspection.findings import Verification
from ensembles.checkpoints.merging.provenance import KEY, provenance
from ensembles.checkpoints.planning.plan import Plan
from ensembles.regular_files import read_json, read_regular

DIGEST = re.compile(r"xxh3-128:[0-9a-f]{32}")
# Keys of config.json that an average changes for tensors with another dtype or layout.
REWRITTEN = {"dtype", "torch_dtype", "tie_word_embeddings"}
# Keys of the provenance that a recipe determines.
SETTINGS = {
    "rule": "rule",
    "params": "parameters",
    "weights": "weights",
    "settings": "weights and parameters by tensor",
}
LONGEST_SHOWN = 200  # characters


def verify_recipes(found: Verification, result: Checkpoint) -> None:
    """Compare the provenance in all weight files and indexes.

    Parameters
    ----------
    found : Verification
        Outcome to extend.
    result : Checkpoint
        Directory with provenance; its reader has compared indexes and shards.
    """
    for part in sorted(result.parts):
        metadata = read_metadata(found.path / part)
        if metadata.get(KEY, result.metadata[KEY]) != result.metadata[KEY]:
            found.problems.append(f"{part} has the provenance of another result")
    folders = sorted({(found.path / part).parent for part in result.parts})
    for folder in folders:
        for index in sorted(folder.glob("*.safetensors.index.json")):
            name = str(index.relative_to(found.path))
            content = read_json(index)
            stored = content.get("metadata") if isinstance(content, dict) else None
            recipe = stored.get(KEY) if isinstance(stored, dict) else None
            if recipe == result.metadata[KEY]:
                found.verified.append(f"{name}: files of the tensors, and provenance")
            else:
                found.problems.append(f"{name} has the provenance of another result")


def verify_card(found: Verification) -> None:
    """Compare the digests in the model card with the provenance.

    Parameters
    ----------
    found : Verification
        Outcome to extend.
    """
    card = found.path / CARD
    recipe = found.recipe or {}
    if not card.is_file() or "conversion" in recipe:  # which keeps its member's card
        return
    digests = DIGEST.findall(read_regular(card).decode("utf-8", "replace"))
    recorded = [*recipe["members"], *([recipe["base"]] if "base" in recipe else [])]
    if not digests:
        found.unverified.append(f"{CARD}: it has no digests of the members")
    elif digests == recorded:
        found.verified.append(f"{CARD}: digests of the members")
    else:
        found.problems.append(f"{CARD} has digests of other members than the metadata")


def verify_copies(found: Verification, result: Checkpoint, first: Checkpoint) -> None:
    """Compare the files that were copied from the first member.

    Parameters
    ----------
    found : Verification
        Outcome to extend.
    result : Checkpoint
        Directory with the copies.
    first : Checkpoint
        First member, a directory.
    """
    copied = [name for name in first.files if not is_card(name)]
    absent = [name for name in copied if not (found.path / name).is_file()]
    differing = [
        name
        for name in copied
        if name not in absent and not _is_copy(found.path / name, first, name)
    ]
    for names, how in ((absent, "absent from"), (differing, "different in")):
        if names:
            found.problems.append(
                f"files of {first.name} are {how} {result.name}: {listed(names)}"
            )
    n_equal = len(copied) - len(absent) - len(differing)
    if n_equal:
        found.verified.append(f"{n_equal} files copied from {first.name}")


def _is_copy(copy: Path, first: Checkpoint, name: str) -> bool:
    """Whether a file equals the original, but for entries that an average changes."""
    if name in first.contents:
        content = first.contents[name]
        if copy.read_bytes() == content:
            return True
    else:
        original = Path(str(first.path)) / name
        if filecmp.cmp(copy, original, shallow=False):
            return True
    return copy.name == CONFIG and _entries(read_json(copy)) == _entries(
        json.loads(first.read_file(name))
    )


def _entries(config: Any) -> Any:
    if not isinstance(config, dict):
        return config
    return {key: value for key, value in config.items() if key not in REWRITTEN}


def verify_settings(found: Verification, planned: Plan) -> None:
    """Compare the rule, weights and parameters of a plan with the recorded ones.

    Parameters
    ----------
    found : Verification
        Verification of the result, to which the outcome is added.
    planned : Plan
        Plan of the merge that the result should be of.
    """
    if found.recipe is None:
        return
    digests = [""] * len(planned.sources)
    expected = json.loads(provenance(planned, digests, ""))
    differing = [
        f"{what} of the recipe: {_shown(expected.get(name))}, recorded is "
        f"{_shown(found.recipe.get(name))}"
        for name, what in SETTINGS.items()
        if expected.get(name) != found.recipe.get(name)
    ]
    found.problems.extend(differing)
    if not differing:
        found.verified.append("rule, weights and parameters: those of the recipe")


def _shown(value: Any) -> str:
    """Value of a setting as JSON, not too long for a line."""
    text = json.dumps(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"
