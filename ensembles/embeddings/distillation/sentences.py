"""Division of texts into sentences, which resemble queries more than documents do."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ensembles.embeddings.base import check_texts
from ensembles.embeddings.tokenization.texts import as_batches, decode_utf8
from ensembles.parallel import chunks

# Marks of Chinese and Japanese end a sentence without a space after them. A colon or
# semicolon ends what could be a query of its own.
END = re.compile(
    r"(?:(?<=[.!?…:;])|(?<=[.!?…:;][\"'\u2019\u201d»)\]]))\s+"
    r"|(?<=[\u3002\uff01\uff1f])|\n"
)
MARKERS = " \t*-\u2013•="  # of lists and headings, around a sentence


def split_sentences(texts: Iterable[str], *, max_words: int = 32) -> list[str]:
    r"""Divide texts into sentences.

    Parameters
    ----------
    texts : iterable of str
        Texts. None and NaN count as empty texts.
    max_words : int, default=32
        Longer sentences are divided into parts of as many words, separated by
        whitespace.

    Returns
    -------
    list of str
        Distinct sentences in the order of their first occurrence. Lines, and the parts
        of a sentence before and after a colon or semicolon, are sentences too; marks of
        lists around them are removed.

    Raises
    ------
    ValueError
        If ``max_words`` is not a positive int, or ``texts`` is a single str.

    Notes
    -----
    The rule is the same for all languages: abbreviations end a sentence, and a text
    without punctuation and spaces, e.g. in Thai, is one sentence.

    Examples
    --------
    >>> split_sentences(["Sorts a list. The list\nmay be empty.", "Sorts a list."])
    ['Sorts a list.', 'The list', 'may be empty.']
    """
    if not isinstance(max_words, int) or max_words < 1:
        raise ValueError(f"max_words must be a positive int, found {max_words!r}")
    found: dict[str, None] = {}
    for batch in as_batches(check_texts(texts)):
        for text in decode_utf8(batch):
            for sentence in END.split(text):
                words = sentence.strip(MARKERS).split()
                for start, stop in chunks(len(words), max_words):
                    found[" ".join(words[start:stop])] = None
    return list(found)
