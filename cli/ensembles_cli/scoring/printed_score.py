"""Parse the score in the output of a command, by its key or as the last number."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from ensembles_cli.scoring.printed_json import documents, last_document, numbers_in
from ensembles_cli.scoring.printed_numbers import (
    LOWER_BETTER,
    NUMBER,
    WORDS,
    Number,
    numbers_of,
    words_of,
)

# Thousands separators; 1,234 alone is ambiguous, because it may mean 1.234.
THOUSANDS = re.compile(r"[-+]?[1-9]\d{0,2},\d{3}(?:(?:,\d{3})*\.\d*|(?:,\d{3})+)")
SIGNS = dict.fromkeys("\u2010\u2011\u2012\u2013\u2212\ufe63\uff0d", "-")
SIGNS |= {"+/-": "\u00b1", "+-": "\u00b1"}
TIMED = re.compile(
    r"(?<!\s)\s++real\s+[\dhms.]+\s+user\s+[\dhms.]+\s+sys\s+[\dhms.]+\s*\Z"
    r"|(?<!\s)\s++[\d.]+user [\d.]+system [\d:.]+elapsed .*\n?.*swaps\s*\Z"
)
CELLS = re.compile(r"\t|  +|[|\u2502\u2503\u2506\u250a&]")


class Reading(NamedTuple):
    """Score and its position in the output.

    Parameters
    ----------
    value : float
        The score.
    line : str
        Line of the output, or key and value in JSON.
    label : str
        Words that name the number; ``""`` if there are none.
    """

    value: float
    line: str
    label: str

    def is_lower_better(self, command: str) -> bool:
        """Whether a positive score has the name of a loss or error.

        The name is the label, or ``command`` if there is no label.
        """
        words = words_of(self.label or command)
        return self.value > 0 and not LOWER_BETTER.isdisjoint(words)


class Unclear(ValueError):
    """No clear score in the output; the message follows the command as its subject."""


def read_score(text: str, key: str | None = None) -> Reading:
    """Parse the score in the output of a command.

    Parameters
    ----------
    text : str
        Output of the command.
    key : str or None, default=None
        Name of the score: a dotted path into JSON, in which ``*`` matches anything, or
        the name before the number in a line. None takes the only number in JSON at the
        end of the output, or else in the last line with a number.

    Returns
    -------
    Reading

    Raises
    ------
    Unclear
        If no number, or more than one, can be the score, or it is not finite.
    """
    for sign, plain in SIGNS.items():
        text = text.replace(sign, plain)
    text = TIMED.sub("", text)
    return _last(text) if key is None else _keyed(text, key)


def _last(text: str) -> Reading:
    lines = text.splitlines()
    document = last_document(text)
    if document is not None:
        values = list(numbers_in(document))
        if len(values) == 1:
            (path, value), *_ = values
            return _checked(Reading(value, f"{path}: {value!r}", path))
        if values:
            known = ", ".join(path for path, _ in values[:6])
            raise Unclear(
                f"printed {len(values)} numbers in JSON; name one with --score-key, "
                f"such as one of {known}"
            )
    for place in reversed(range(len(lines))):
        numbers = numbers_of(lines[place])
        if numbers:
            return _read(lines, place, numbers)
    raise Unclear("printed no number")


def _read(lines: list[str], place: int, numbers: list[Number]) -> Reading:
    """Parse a line whose only number with the role of a score is the score."""
    line = lines[place].strip()
    scores = [n for n in numbers if not n.is_deviation and not n.is_aside]
    if numbers[-1].is_deviation:
        raise _unreadable(f"\u00b1 {numbers[-1].text}", line)
    if not scores:
        raise _unclear(line, "which does not look like a score")
    if len(scores) > 1:
        raise _unclear(line, f"in which {len(scores)} numbers could be the score")
    if _is_table(lines, place):
        raise _unclear(line, "the last row of a table")
    value = _as_float(scores[-1].text, line)
    return _checked(Reading(value, line, scores[-1].label))


def _is_table(lines: list[str], place: int) -> bool:
    """Whether the previous line is a row of as many cells with another name."""
    own = _cells(lines[place])
    before = next((line for line in reversed(lines[:place]) if WORDS.search(line)), "")
    other = _cells(before)
    numbers = [n for n in numbers_of(before) if not n.is_aside]
    return bool(len(own) == len(other) > 1 and numbers and own[0] != other[0])


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in CELLS.split(line.strip()) if cell.strip()]


def _keyed(text: str, key: str) -> Reading:
    for document in documents(text):
        values = [(p, v) for p, v in numbers_in(document) if _matches(key, p)]
        if len({value for _, value in values}) > 1:
            known = ", ".join(path for path, _ in values[:6])
            raise Unclear(f"printed several numbers for --score-key {key}: {known}")
        if values:
            path, value = values[0]
            return _checked(Reading(value, f"{path}: {value!r}", path))
    named = re.compile(
        rf"(?<![\w./-]){_pattern(key, '[^ ]*')}(?![\w./-])[^\w\u00b1\n.+-]*"
        rf"(?=[-+.\d]|nan|inf)(?P<rest>.*)",
        re.IGNORECASE,
    )
    for line in reversed(text.splitlines()):
        match = named.search(line)
        number = match and NUMBER.match(match["rest"])
        if number and number["found"] and not number["more"]:
            value = _as_float(number["found"], line.strip())
            return _checked(Reading(value, line.strip(), key))
    raise Unclear(
        f"printed no number for --score-key {key}: it must be a path into JSON, or "
        f"stand before the number, as in '{key}: 0.5'"
    )


def _pattern(key: str, anything: str) -> str:
    return anything.join(map(re.escape, key.split("*")))


def _matches(key: str, path: str) -> bool:
    return re.fullmatch(_pattern(key, ".*"), path) is not None


def _as_float(text: str, line: str) -> float:
    plain = text.replace(",", "") if THOUSANDS.fullmatch(text) else text
    try:
        return float(plain)
    except ValueError:
        raise _unreadable(text, line) from None


def _checked(reading: Reading) -> Reading:
    if not math.isfinite(reading.value):
        raise Unclear(
            f"printed {reading.value}, which is not finite, in {reading.line!r:.200}"
        )
    return reading


def _unreadable(text: str, line: str) -> Unclear:
    return Unclear(
        f"printed last {shortened(text)!r}, no number that can be read, in the line "
        f"{shortened(line)!r}: print a plain number last, such as 1234.5, or name the "
        "score with --score-key"
    )


def _unclear(line: str, why: str) -> Unclear:
    return Unclear(
        f"printed its last number in the line {shortened(line)!r}, {why}: print the "
        "score alone in the last line, or name it with --score-key"
    )


def shortened(text: str, longest: int = 200) -> str:
    """Text, truncated if it is longer than ``longest`` characters."""
    return text if len(text) <= longest else f"{text[:longest]}\u2026"
