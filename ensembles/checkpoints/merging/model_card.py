"""Model card of a result: its members, rule and weights, instead of their cards.

Format: https://huggingface.co/docs/hub/model-cards, YAML between lines of dashes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import ensembles
from ensembles.checkpoints.compatibility.configuration import CARD
from ensembles.checkpoints.formats.checkpoint import Checkpoint
from ensembles.checkpoints.planning.plan import Plan
from ensembles.regular_files import read_regular

LARGEST = 1 << 20
# Metadata that the result takes over if it is equal in the cards of all members.
SHARED = ("license", "license_name", "license_link", "library_name", "pipeline_tag")
ENTRY = re.compile(r"([a-z_]+): +(?:([\"'])(.*)\2|([^\"'\s].*?))(?: +#.*)? *")
# Strings that YAML reads unchanged without quotes.
PLAIN = re.compile(r"(?!(?i:y|n|yes|no|on|off|true|false|null)$)[A-Za-z][\w.+/-]*")
SCALAR = re.compile(r"[^\W_][\w .,+/:;=?&%~()-]*")
GENERIC = re.compile(r"checkpoint-\d+|final|best")
# A snapshot in the Hugging Face Hub cache, whose path contains the repository name.
CACHED = re.compile(r"models--([^/]+)--([^/]+)/snapshots/[^/]+")


def model_card(plan: Plan, digests: Sequence[str]) -> str:
    """Text of the model card; it has no date, so equal results have equal cards.

    Parameters
    ----------
    plan : Plan
        Plan of the result, with its rule, parameters and weights.
    digests : sequence of str
        Digest of each member's tensors, then of the base's.

    Returns
    -------
    str
        Markdown with YAML metadata.
    """
    names = [public_name(checkpoint) for checkpoint in plan.checkpoints]
    parts = [origin for checkpoint in plan.checkpoints for origin in checkpoint.origins]
    lines = ["---", "base_model:"]
    lines += [
        f"- {json.dumps(name, ensure_ascii=False)}"
        for name in _once([public_name(part) for part in parts])
    ]
    lines += ["tags:", "- merge"]
    lines += [f"{k}: {_scalar(v)}" for k, v in _agreed(plan.members).items()]
    lines += [
        "---",
        "",
        "# Average of checkpoints",
        "",
        f"The parameters are combined by the rule `{plan.rule_text}` from:",
        "",
        "| member | weight | digest of its tensors |",
        "| --- | --- | --- |",
    ]
    weights = [*plan.weight_texts, "base"]
    rows = zip(names, weights, digests, strict=False)
    lines += [f"| {_cell(n)} | {w} | `xxh3-128:{digest}` |" for n, w, digest in rows]
    lines += [
        "",
        "It has not been evaluated: scores of its members are not its own. "
        "Configuration and tokenizer are those of the first member.",
        "",
        f"Written by ensembles {ensembles.__version__} (`ensemble avg`); the recipe is "
        "in the metadata of the weights.",
        "",
    ]
    return "\n".join(lines)


def public_name(member: Checkpoint) -> str:
    """Name of a member for publication, without most of its local path.

    Parameters
    ----------
    member : Checkpoint
        Member on disk or in memory.

    Returns
    -------
    str
        Repository name if the path is in the Hugging Face Hub cache, else the last part
        of the path, with its parent for a file or a generic name (``checkpoint-500``).
    """
    if member.adapters:
        parts = replace(member, adapters=()), *member.adapters
        return " + ".join(map(public_name, parts))
    if member.made_from:
        return "layers of " + ", ".join(_once([*map(public_name, member.made_from)]))
    if member.path is None:
        return member.name
    path = member.path.absolute()
    cached = CACHED.search(path.as_posix())
    if cached:
        return f"{cached[1]}/{cached[2]}"
    generic = not member.is_directory or GENERIC.fullmatch(path.name)
    return f"{path.parent.name}/{path.name}" if generic else path.name


def _agreed(members: Sequence[Checkpoint]) -> dict[str, str]:
    """Metadata entries with the same value in the cards of all members."""
    cards = [_metadata(member) for member in members]
    return {
        key: cards[0][key]
        for key in SHARED
        if key in cards[0] and all(card.get(key) == cards[0][key] for card in cards)
    }


def _metadata(member: Checkpoint) -> Mapping[str, str]:
    """Single-line string entries in the front matter of a member's card."""
    names = [n for n in member.files if n.casefold() == CARD.casefold()]
    name = next(iter(names), None)
    if member.path is None or name is None:
        return {}
    try:
        text = read_regular(member.path / name, largest=LARGEST).decode("utf-8")
    except ValueError:
        return {}
    first, *lines = text.splitlines() or [""]
    if first.strip() != "---":
        return {}
    end = next((i for i, line in enumerate(lines) if line.strip() == "---"), 0)
    entries = [match for line in lines[:end] if (match := ENTRY.fullmatch(line))]
    values = {match[1]: match[3] or match[4] or "" for match in entries}
    return {key: text for key, text in values.items() if SCALAR.fullmatch(text)}


def _scalar(text: str) -> str:
    """String as a YAML scalar, quoted if YAML would read it differently."""
    return text if PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def _once(names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
