"""The model card of a result: what it was made of, in the place of its members' cards.

Format: https://huggingface.co/docs/hub/model-cards, metadata between lines of dashes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

import ensembles
from ensembles.checkpoints.compatibility.configuration import CARD
from ensembles.checkpoints.formats.checkpoint import Checkpoint
from ensembles.checkpoints.planning.plan import Plan
from ensembles.regular_files import read_regular

LARGEST = 1 << 20
# What a result may say of itself if all its members' cards say so.
SHARED = ("license", "license_name", "license_link", "library_name", "pipeline_tag")
ENTRY = re.compile(r"([a-z_]+): +(?:([\"'])(.*)\2|([^\"'\s].*?))(?: +#.*)? *")
# Values that YAML reads as the text that they are.
PLAIN = re.compile(r"(?!(?i:y|n|yes|no|on|off|true|false|null)$)[A-Za-z][\w.+/-]*")
SCALAR = re.compile(r"[^\W_][\w .,+/:;=?&%~()-]*")
# A snapshot in the cache of the Hugging Face Hub: its folder tells the repository.
GENERIC = re.compile(r"checkpoint-\d+|final|best|model|\d+")
CACHED = re.compile(r"models--([^/]+)--([^/]+)/snapshots/[^/]+")


def model_card(plan: Plan, digests: Sequence[str]) -> str:
    """Text of the card: the same for the same members, by the same names.

    Parameters
    ----------
    plan : Plan
    digests : sequence of str
        One a member.

    Returns
    -------
    str
    """
    names = [public_name(member) for member in plan.members]
    lines = ["---", "base_model:"]
    lines += [f"- {json.dumps(name, ensure_ascii=False)}" for name in _once(names)]
    lines += ["tags:", "- merge"]
    lines += [f"{k}: {_scalar(v)}" for k, v in _agreed(plan.members).items()]
    params = ", ".join(f"{key}={value!r}" for key, value in plan.params.items())
    rule = plan.rule.name + f" ({params})" * bool(params)
    lines += [
        "---",
        "",
        "# Average of checkpoints",
        "",
        f"The parameters are combined by the rule `{rule}` from:",
        "",
        "| member | weight | digest of its tensors |",
        "| --- | --- | --- |",
    ]
    rows = zip(names, plan.weights.tolist(), digests, strict=True)
    lines += [f"| {_cell(n)} | {w:g} | `xxh3-128:{digest}` |" for n, w, digest in rows]
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
    """Name of a member without the folders of the machine: a repository of the Hub's.

    Parameters
    ----------
    member : Checkpoint

    Returns
    -------
    str
    """
    if member.path is None:
        return member.name
    path = member.path.absolute()
    cached = CACHED.search(path.as_posix())
    if cached:
        return f"{cached[1]}/{cached[2]}"
    generic = member.kind == "file" or re.fullmatch(
        r"checkpoint-\d+|final|best", path.name
    )
    return f"{path.parent.name}/{path.name}" if generic else path.name


def _agreed(members: Sequence[Checkpoint]) -> dict[str, str]:
    """Entries that all members' cards have, with one value."""
    cards = [_metadata(member) for member in members]
    return {
        key: cards[0][key]
        for key in SHARED
        if key in cards[0] and all(card.get(key) == cards[0][key] for card in cards)
    }


def _metadata(member: Checkpoint) -> Mapping[str, str]:
    """Entries of a card's front matter that are texts of one line."""
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
    entries = [found for line in lines[:end] if (found := ENTRY.fullmatch(line))]
    values = {found[1]: found[3] or found[4] or "" for found in entries}
    return {key: text for key, text in values.items() if SCALAR.fullmatch(text)}


def _scalar(text: str) -> str:
    """A text in YAML, quoted where it would be read as something else."""
    return text if PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def _once(names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
