"""Training steps, parsed from checkpoint names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import NamedTuple

from ensembles.checkpoints.formats.detection import known_suffixes
from ensembles.checkpoints.runs.run import Role
from ensembles.checkpoints.runs.windows import parse_number


def _words(pattern: str) -> str:
    """Pattern of words that no letters surround."""
    return rf"(?<![a-z])(?:{pattern})(?![a-z])"


# Words beside a step number, from the most to the least specific.
WORDS = {
    "step": (
        r"(?:global_?|train_?)?steps?|iter(?:ation)?s?|updates?|kimg|batch(?:es)?|ba"
    ),
    "checkpoint": r"checkpoint|ckpt",
    "tokens": r"tokens?",
    "epoch": r"epochs?|ep",
}
# Such as 500, 1.5B, 1e5 or 10,000.
VALUE = (
    r"(\d{1,3}(?:,\d{3})+(?!\d)|\d+(?:\.\d+)?(?:e\d{1,2}(?![a-z\d]))?)"
    r"([kmbt](?![a-z]))?"
)
AFTER = {
    kind: re.compile(rf"(?<![a-z])(?:{words})[-_=]?{VALUE}", re.IGNORECASE)
    for kind, words in WORDS.items()
}
BEFORE = {
    kind: re.compile(rf"(?<![\d.]){VALUE}[-_]?(?:{words})(?![a-z])", re.IGNORECASE)
    for kind, words in WORDS.items()
}
# Names of fairseq: checkpoint_EPOCH_UPDATES.
EPOCH_UPDATES = re.compile(r"checkpoint_(\d+)_(\d+)$")
# An integer, not part of a decimal or a size such as 7b.
NUMBER = re.compile(r"(?<!\d)(?<!\d\.)(\d+)(?!\.?\d)(?![a-z])", re.IGNORECASE)
DATE = re.compile(
    r"(?<!\d)(?:19|20)\d\d[-_.]?(?:0[1-9]|1[0-2])[-_.]?(?:0[1-9]|[12]\d|3[01])"
    r"(?:[-_T ]+\d{1,2}[-_:.h]?\d\d(?:[-_:.m]?\d\d)?)?(?!\d)"
    r"|(?<!\d)\d\d[-_:]\d\d[-_:]\d\d(?!\d)"
    r"|(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)\d{1,2}(?!\d)",
    re.IGNORECASE,
)
# Numbers other than steps: scores, versions, seeds, shards.
OTHER = re.compile(
    r"(?<![a-z])(?:loss|acc(?:uracy)?|wer|cer|bleu|ppl|f1|auc|auroc|miou|map|psnr|ssim"
    r"|fid|mse|mae|rmse|score|metric|lr|bs|seed|rank|fold|gpu|version|ver|v|world_?size"
    r"|part|shard|split|top)[-_=@]*\d+(?:\.\d+)?"
    r"|\d+-of-\d+",
    re.IGNORECASE,
)
# Words in names without a step, by the role of the checkpoint.
ROLES: dict[Role, str] = {
    "average": _words(r"avg|ave|average[ds]?|soup|swa|merged|(?:mean|median)[-_]of"),
    "best": _words("best"),
    "unfinished": _words(r"tmp|temp(?!\d)|unfinished|incomplete|partial"),
    "other": _words(
        r"latest|final|init|initial|backup|bak|copy(?![-_][a-z]{3})",
    ),
}
NO_STEP = re.compile("|".join(ROLES.values()))
LAST = re.compile(r"(?<![a-z])last(?![a-z])")


class Step(NamedTuple):
    """Number of a step, and its kind: "step", "epoch", …, or "" if not named.

    Parameters
    ----------
    number : Decimal
        The number.
    kind : str
        Kind of the word beside it.
    epoch, tokens : Decimal or None, default=None
        Numbers beside these words in the same name.
    """

    number: Decimal
    kind: str
    epoch: Decimal | None = None
    tokens: Decimal | None = None


def step_of(parts: Sequence[str], *, bare: bool = True) -> Step | None:
    """Training step in a path, from the last part that has one.

    Parameters
    ----------
    parts : sequence of str
        Components of the path. Steps named by a word such as ``epoch`` in any part
        take precedence over bare numbers.
    bare : bool, default=True
        Whether an integer without such a word counts as a step.

    Returns
    -------
    Step or None
        None if no part has a step. Parts that name averages, best or unfinished
        checkpoints are ignored.
    """
    for find in (_worded, _plain) if bare else (_worded,):
        for part in reversed(parts):
            name = _without_suffix(part)
            if not NO_STEP.search(split_words(name)):
                step = find(name)
                if step is not None:
                    return step
    return None


def _without_suffix(name: str) -> str:
    """Name without the suffix of a weight file, such as ``.pth.tar``."""
    name = re.sub(r"\.tar$", "", name, flags=re.IGNORECASE)
    for suffix in sorted(known_suffixes(), key=len, reverse=True):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def is_last(name: str) -> bool:
    """Whether a name contains the word ``last``: often a copy of another step."""
    return LAST.search(split_words(name)) is not None


def _worded(name: str) -> Step | None:
    """Step beside a word such as ``epoch``."""
    both = EPOCH_UPDATES.search(name)
    if both:
        return Step(Decimal(both[2]), "checkpoint_E_U")
    numbers = dict(_matches(DATE.sub("~", name)))
    # A checkpoint number with decimals is a score, if another word has a number.
    kind = min(
        numbers, key=lambda k: k == "checkpoint" and numbers[k] % 1 > 0, default=None
    )
    if kind is None:
        return None
    return Step(numbers[kind], kind, numbers.get("epoch"), numbers.get("tokens"))


def _matches(name: str) -> Iterator[tuple[str, Decimal]]:
    """Number beside a word of each kind, from the most to the least specific."""
    for kind in WORDS:
        for patterns in (BEFORE, AFTER):  # the latter replaces the former
            for number, unit in patterns[kind].findall(name)[-1:]:
                value = parse_number(number.replace(",", "") + unit)
                if value is not None:
                    yield kind, value


def _plain(name: str) -> Step | None:
    """Step from the last integer in a name."""
    if is_last(name):
        return None
    numbers = NUMBER.findall(OTHER.sub("~", DATE.sub("~", name)))
    return Step(Decimal(numbers[-1]), "") if numbers else None


def split_words(name: str) -> str:
    """Convert a name from camel case to lowercase words."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
