"""Parse the score in the output of a command."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

PLAIN = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.ASCII | re.IGNORECASE)
NOT_FINITE = re.compile(r"[-+]?(nan|inf(inity)?)", re.IGNORECASE)
# Typographic hyphens, dashes and minus signs: a number after one is refused.
DASHES = "\u2010-\u2015\u2212\ufe58\ufe63\uff0d"
# Commas and quotes separate too: 0,95 and 1'234 are two numbers, so they are refused.
SEPARATORS = re.compile(r"[\s,;:=|()\[\]{}<>\"'\u2500-\u257f]+")
WORDS = re.compile(r"[a-z]+", re.IGNORECASE)
LOWER_BETTER = frozenset(
    WORDS.findall(
        "loss losses error errors err perplexity ppl wer cer ter rmse mse mae mape msle"
        " rmsle nll bpb bpc brier ece fid regret logloss crossentropy"
    )
)
METRICS = (LOWER_BETTER - {"error", "errors", "err"}) | frozenset(
    "accuracy acc f1 auc auroc auprc map mrr ndcg bleu rouge chrf comet precision"  # noqa: SIM905
    " recall spearman pearson r2 mcc kappa iou miou dice psnr ssim".split()
)
# "eval_f1: 0.5" at the end of a line; the number must follow the name of a metric.
NAMED_METRIC = re.compile(
    r"(?:^|[\s,;:|>])(?P<name>[^\s,;:|=]+)\s*[:=]?\s*[-+]?[.\d]\S*$"
)
# "score: 0.5" at the end of a line; "brier score 0.5" and "score@5" are other names.
NAMED_SCORE = re.compile(
    r"(?:^|[,;:|])\s*score\s*[:=]?\s*(?P<token>[-+.]*(?:\d|nan|inf)\S*)$",
    re.IGNORECASE,
)
MAX_STARTS = 50  # lines at which a JSON document may start
ADVICE = "print the score alone in the last line, or name it with --score-key"


class Reading(NamedTuple):
    """Score and its position in the output.

    Parameters
    ----------
    value : float
        The score.
    line : str
        Line of the output, or key and value in JSON.
    label : str
        Words around the number; ``""`` if there are none.
    """

    value: float
    line: str
    label: str

    def is_lower_better(self, command: str) -> bool:
        """Whether a positive score has the name of a loss or error.

        The name is the label, or ``command`` if there is no label.
        """
        text = self.label or command
        parts = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", " ", text)  # valLoss is a loss too
        words = WORDS.findall(f"{text} {parts}".lower())
        return self.value > 0 and not LOWER_BETTER.isdisjoint(words)


class Unclear(ValueError):
    """No clear score in the output; the message follows the command as its subject."""


def read_score(text: str, key: str | None = None) -> Reading:
    """Parse the score in the output of a command.

    Without a key, the score is the only number in the output or in the JSON that ends
    it, the number alone in the last line, or the one named ``score`` at its end or in
    that JSON. The only number of the last line is also the score if it follows the name
    of a metric, as in ``accuracy: 0.5``, and no other line ends like that. Everything
    else is an error.

    Parameters
    ----------
    text : str
        Output of the command.
    key : str or None, default=None
        Name of the score: a dotted path into JSON, in which ``*`` matches anything, or
        the name before the number in a line; the last occurrence counts.

    Returns
    -------
    Reading

    Raises
    ------
    Unclear
        If no number, or more than one, can be the score, or it is not finite.

    Examples
    --------
    >>> read_score("100 pairs\\naccuracy: 0.5, loss: 2", "accuracy").value
    0.5
    """
    lines = [line for line in text.splitlines() if line.strip()]
    if key is None:
        reading = _read_unnamed(text, lines)
    else:
        documents = [_last_document(text), *map(_parsed, reversed(lines))]
        named = _in_documents(documents, key) or _in_lines(lines, key)
        if named is None:
            raise Unclear(
                f"printed no number for --score-key {key}: it must be a path into "
                f"JSON, or the name before the number, as in '{key}: 0.5'"
            )
        reading = named
    if not math.isfinite(reading.value):
        raise Unclear(
            f"printed {reading.value}, which is not finite, in {reading.line!r:.200}"
        )
    return reading


def _read_unnamed(text: str, lines: list[str]) -> Reading:
    numbers = dict(_numbers_in(_last_document(text)))
    if numbers:
        path = next(iter(numbers)) if len(numbers) == 1 else "score"
        if path not in numbers:
            raise Unclear(
                f"printed {len(numbers)} numbers in JSON; name the score with "
                f"--score-key, such as one of {', '.join([*numbers][:6])}"
            )
        return Reading(numbers[path], f"{path}: {numbers[path]!r}", path)
    candidates = [(token, line) for line in lines for token in _candidates(line)]
    if not candidates:
        raise Unclear("printed no number")
    token, line = candidates[-1]
    is_last, n_in_line = line == lines[-1], len(_candidates(line))
    others = line.replace(token, "", 1)
    is_alone = is_last and not any(map(str.isalnum, others))
    is_named = is_last and NAMED_SCORE.search(line.strip()) is not None
    if is_last and n_in_line == 1 and _follows_metric(line):
        is_named |= sum(map(_follows_metric, lines)) == 1
    if len(candidates) > 1 and not (is_alone or is_named):
        raise Unclear(
            f"printed {len(candidates)} numbers, {n_in_line} of them in the line "
            f"{shortened(line.strip())!r}: {ADVICE}"
        )
    words = "" if is_alone else " ".join(WORDS.findall(line))
    return Reading(_as_float(token, line), line.strip(), words)


def _follows_metric(line: str) -> bool:
    """Whether a line ends with the name of a metric and a number."""
    named = NAMED_METRIC.search(line.strip())
    words = re.split(r"[-_/.@]", named["name"].lower()) if named else []
    return not METRICS.isdisjoint(words)


def _candidates(line: str) -> list[str]:
    """Tokens of a line that may be numbers: with digits, unless they look like words.

    Examples
    --------
    >>> _candidates("f1 of /runs/3: 93.1% in 12s")
    ['93.1', '12s']
    """
    tokens = [token.rstrip(".%") for token in SEPARATORS.split(line)]
    return [
        token
        for token in tokens
        if NOT_FINITE.fullmatch(token)
        or (any(map(str.isdigit, token)) and not re.match(r"[^\W\d]|/", token))
    ]


def _in_documents(documents: list[Any], key: str) -> Reading | None:
    """Number for a key in the first JSON document that has one."""
    pattern = _pattern(key, ".*")
    for document in documents:
        numbers = [(p, v) for p, v in _numbers_in(document) if re.fullmatch(pattern, p)]
        if len({value for _, value in numbers}) > 1:
            keys = ", ".join(path for path, _ in numbers[:6])
            raise Unclear(f"printed several numbers for --score-key {key}: {keys}")
        if numbers:
            path, value = numbers[0]
            return Reading(value, f"{path}: {value!r}", path)
    return None


def _in_lines(lines: list[str], key: str) -> Reading | None:
    """Number after a key in the last line that has one."""
    named = re.compile(
        rf"(?<![\w./-]){_pattern(key, '[^ ]*')}(?![\w./-])[^\w\u00b1\n.+{DASHES}-]*"
        rf"(?P<token>[-+.{DASHES}]*(?:\d|nan|inf)[^ \t]*)",
        re.IGNORECASE,
    )
    for line in reversed(lines):
        tokens = [match["token"] for match in named.finditer(line)]
        if len(tokens) > 1:
            raise Unclear(
                f"printed several numbers for the key {key} in the line "
                f"{shortened(line.strip())!r}: {ADVICE}"
            )
        if tokens:
            token = re.split(r",(?!\d)|[;|)\]}\u2500-\u257f]", tokens[0])[0]
            value = _as_float(token.rstrip(".%'\""), line)
            return Reading(value, line.strip(), key)
    return None


def _pattern(key: str, anything: str) -> str:
    return anything.join(map(re.escape, key.split("*")))


def _as_float(token: str, line: str) -> float:
    if PLAIN.fullmatch(token) or NOT_FINITE.fullmatch(token):
        return float(token)
    raise Unclear(
        f"printed {shortened(token)!r}, which is not a plain number such as 1234.5, in "
        f"the line {shortened(line.strip())!r}: {ADVICE}"
    )


def _last_document(text: str) -> Any:
    """JSON object or list that starts on a line and ends the text; None without one."""
    text = text.strip()
    if not text.endswith(("}", "]")):
        return None
    starts = [match.start() for match in re.finditer(r"^[{\[]", text, re.MULTILINE)]
    # The first start that parses: a nested list or object starts on a later line.
    documents = (_parsed(text[start:]) for start in starts[-MAX_STARTS:])
    return next((document for document in documents if document is not None), None)


def _parsed(text: str) -> Any:
    """JSON object or list; None if the text is not one."""
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        # An integer beyond the range of float64 becomes infinite, which is refused.
        return json.loads(text, parse_int=float)
    except (ValueError, RecursionError):
        return None


def _numbers_in(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Yield the numbers in a JSON value with their dotted paths."""
    pairs: Any = ()
    if isinstance(value, dict):
        pairs = value.items()
    elif isinstance(value, list):
        pairs = enumerate(value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, float(value)
    for name, inner in pairs:
        yield from _numbers_in(inner, f"{path}.{name}" if path else str(name))


def shortened(text: str, longest: int = 200) -> str:
    """Text, truncated if it is longer than ``longest`` characters."""
    return text if len(text) <= longest else f"{text[:longest]}\u2026"
