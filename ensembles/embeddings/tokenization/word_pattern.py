r"""The default word pattern: letters, digits and ``_``, with combining marks.

Python's ``\w`` excludes combining marks, so it would split Hindi, Thai or Hebrew words
at each of them. Zero-width joiners belong to a word before a letter or a mark, as in
Persian, and after a mark, where they select its form, as in Malayalam.

Source: Unicode Standard Annex #29, "Unicode text segmentation", rules WB4 and WB5.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from itertools import chain, groupby

JOINERS = "\u200c\u200d"
# Ranges that contain marks; the rest of Unicode is Han, private or unassigned.
PLANES_OF_MARKS = (range(0x20000), range(0xE0000, 0xE1000))
PATTERN = (
    "{start}{inside}*"
    "(?:(?:[{joiners}]+(?={inside})|(?<={marks})[{joiners}]+){inside}*)*"
)
# The same pattern for tokenizers (Oniguruma), whose \w differs from Python's.
PORTABLE = PATTERN.format(
    start=r"[\p{L}\p{N}_]",
    inside=r"[\p{L}\p{N}_\p{M}]",
    marks=r"\p{M}",
    joiners=JOINERS,
)


@cache
def word_pattern() -> re.Pattern[str]:
    """The pattern for Python's ``re``."""
    marks = _class_of_marks()
    pattern = PATTERN.format(
        start=r"\w", inside=rf"[\w{marks}]", marks=f"[{marks}]", joiners=JOINERS
    )
    return re.compile(pattern)


def _class_of_marks() -> str:
    """Character-class ranges of the Unicode categories Mn, Mc and Me."""
    codes = chain.from_iterable(PLANES_OF_MARKS)
    marks = [code for code in codes if unicodedata.category(chr(code))[0] == "M"]
    ranges = []
    for _, run in groupby(enumerate(marks), key=lambda pair: pair[1] - pair[0]):
        together = [code for _, code in run]
        ranges.append(f"{chr(together[0])}-{chr(together[-1])}")
    return "".join(ranges)
