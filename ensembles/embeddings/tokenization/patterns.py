"""Patterns by which tokenizers split texts, as tables for `find_matches`."""

from __future__ import annotations

import json
import string
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ensembles.embeddings.tokenization.byte_pairs import splits_at_spaces
from ensembles.embeddings.tokenization.cached_tokenizer import (
    Found,
    WordTable,
    special_table,
)
from ensembles.embeddings.tokenization.pattern_loops import (
    AT_SPACE,
    AT_SPACES,
    BEGINS,
    BLANK,
    COLLAPSE,
    GAP,
    GPT_2,
    LETTER,
    NEWLINE,
    NORMALIZED,
    NUMBER,
    SCAN,
    SINGLE_DIGITS,
    STRIP_LEFT,
    STRIP_RIGHT,
    TRIPLE_DIGITS,
    UNSAFE,
    WHITESPACE,
    find_matches,
    prepend_spaces,
)
from ensembles.embeddings.tokenization.texts import Bytes, Int64, Utf8Texts

Steps = Sequence[Mapping[str, Any]]

N_CODES = 0x20000  # characters beyond, mostly rare Han, are left to the tokenizer
META = "\u2581"  # the mark of SentencePiece for a space
# Regular expressions of byte-level tokenizers. The first is that of `ByteLevel`.
GPT_2_EXPRESSION = (
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
)
GPT_4_EXPRESSION = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
EXPRESSIONS = {
    GPT_2_EXPRESSION: GPT_2,
    GPT_4_EXPRESSION: TRIPLE_DIGITS,  # GPT-4 and Llama 3
    GPT_4_EXPRESSION.replace("{1,3}", ""): SINGLE_DIGITS,  # Qwen
}
LONG_S = "\u017f"  # equals s without case
# Normalizers of single characters and of characters with their combining marks.
CHARACTERWISE = {
    *("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Nmt", "Precompiled")
}
# Unicode categories of characters that may combine with a neighbor, or whose
# normalization may depend on the version of Unicode.
COMBINING = {"Mn", "Mc", "Me", "Cc", "Cf", "Cs", "Co", "Cn"}
# The same for single characters: conjoining Hangul, spacing vowels and voice marks,
# letters that precede a cluster, skin tones and regional indicators.
COMBINING_RANGES = (
    *((0x1100, 0x1200), (0xA960, 0xA980), (0xD7B0, 0xD800), (0x0E33, 0x0E34)),
    *((0x0EB3, 0x0EB4), (0xFF9E, 0xFFA0), (0x0D4E, 0x0D4F), (0x110BD, 0x110BE)),
    *((0x111C2, 0x111C4), (0x1193F, 0x11942), (0x11A3A, 0x11A3B), (0x11A84, 0x11A8A)),
    *((0x11D46, 0x11D47), (0x11F02, 0x11F03), (0x1F3FB, 0x1F400), (0x1F1E6, 0x1F200)),
)
# Characters that form a cluster with the character after them.
PREPENDED = "\u0600\u0605\u06dd\u070f\u0890\u08e2\u0d4e\U000110bd\U000111c2\U0001193f"
EMPTY: Bytes = np.empty(0, np.uint8)


class PatternTable(NamedTuple):
    """Splits of texts into words by a pattern.

    Attributes
    ----------
    classes : ndarray of shape (n_codes,), uint8
        Class of each character, see `pattern_loops`.
    pattern : int
        Pattern of `pattern_loops`.
    options : int
        Options of `pattern_loops`.
    prefix : {"", "missing", "always"}
        When a space is put before a text: if it does not begin with one, or always.
    folded : ndarray of shape (256,), uint8
        Case folding of bytes: words that are equal after it have the same tokens.
    begins, special, special_ends : ndarray
        Special tokens, as in `BoundaryTable`.
    """

    classes: Bytes
    pattern: int
    options: int
    prefix: str
    folded: Bytes
    begins: NDArray[np.bool_]
    special: Bytes
    special_ends: Int64

    def find(self, texts: Utf8Texts, table: WordTable) -> Found:
        """Split texts and look their words up; see `BoundaryTable.find`."""
        buffer, offsets, n_added = *texts, EMPTY
        if self.prefix:
            always = self.prefix == "always"
            buffer, offsets, n_added = prepend_spaces(buffer, offsets, always)
        found = find_matches(
            *(buffer, offsets, n_added, self.classes, self.pattern, self.options),
            *(*self[4:], *table[:5]),
        )
        return Found(buffer, *found)


def steps_of(step: Mapping[str, Any] | None, name: str) -> list[Mapping[str, Any]]:
    """List the steps of a normalizer or pre-tokenizer, with sequences expanded.

    Parameters
    ----------
    step : mapping or None
        Its object in ``tokenizer.json``.
    name : {"normalizers", "pretokenizers"}
        Key of the steps of a sequence.

    Returns
    -------
    list of mappings
    """
    if step is None:
        return []
    if step["type"] != "Sequence":
        return [step]
    return [part for inner in step[name] for part in steps_of(inner, name)]


def find_pattern(config: Mapping[str, Any]) -> PatternTable | None:
    """Determine the pattern by which a Unigram or BPE tokenizer splits texts.

    Parameters
    ----------
    config : mapping
        Contents of ``tokenizer.json``.

    Returns
    -------
    PatternTable or None
        None if words may depend on their neighbors.
    """
    normalizers = steps_of(config["normalizer"], "normalizers")
    splitters = steps_of(config["pre_tokenizer"], "pretokenizers")
    kind = config["model"]["type"]
    if kind == "BPE" and splitters and splitters[-1]["type"] == "ByteLevel":
        form = _byte_level(splitters)
    elif kind == "Unigram":
        form = _metaspace(splitters)
    elif kind == "BPE" and splits_at_spaces(config["model"]):
        form = _sentence_piece(normalizers, splitters)
        is_plain = all(not token["normalized"] for token in config["added_tokens"])
        normalizers = normalizers if form is None or not is_plain else []
    else:
        form = None
    if form is None:
        return None
    pattern, prefix = form
    options = _options(normalizers, pattern, splitters)
    added = config["added_tokens"]
    if options is None or (normalizers and any(token["normalized"] for token in added)):
        return None
    charwise = [step for step in normalizers if step["type"] in CHARACTERWISE]
    classes = _classes(pattern, charwise, options)
    if classes is None:
        return None
    for step in normalizers:
        if "String" in step.get("pattern", ""):  # the word is left to the tokenizer
            classes[ord(step["pattern"]["String"][0])] |= NORMALIZED
    if pattern == AT_SPACES or kind == "Unigram":
        # A word alone has no space before it that a normalizer could remove.
        is_unsafe = pattern == AT_SPACES or options & STRIP_LEFT
        classes[ord(META)] |= UNSAFE if is_unsafe else NORMALIZED
    folded = np.arange(256, dtype=np.uint8)
    if _folds_case(charwise) and not _replaces_letters(normalizers):
        folded[65:91] += 32
        classes[65:91] &= ~np.uint8(NORMALIZED | UNSAFE)
    contents = [token["content"] for token in added]
    if all(map(_begins_rarely, contents)):
        firsts = np.array([ord(content[0]) for content in contents], np.int64)
        classes[firsts] |= BEGINS
    else:
        options |= SCAN
    special = special_table(contents)
    return PatternTable(classes, pattern, options, prefix, folded, *special)


def _begins_rarely(content: str) -> bool:
    """Whether a special token begins with a character whose class is always read.

    Loops skip spaces and letters of contractions, and letters would cost time.
    """
    first = content[:1]
    is_mark = first in string.punctuation and first != "'"
    is_other = not first.isascii() and not first.isspace() and ord(first) < N_CODES
    return first != "" and (is_mark or is_other)


def _byte_level(splitters: Steps) -> tuple[int, str] | None:
    """Pattern and prefix of a byte-level tokenizer."""
    last = splitters[-1]
    if len(splitters) == 1 and last["use_regex"]:
        return GPT_2, "missing" if last["add_prefix_space"] else ""
    if len(splitters) != 2 or last["use_regex"] or splitters[0]["type"] != "Split":
        return None
    first = splitters[0]
    pattern = EXPRESSIONS.get(first["pattern"].get("Regex", ""))
    how = (first["behavior"], first["invert"])
    if pattern is None or how not in (("Isolated", False), ("Removed", True)):
        return None
    return pattern, ""


def _metaspace(splitters: Steps) -> tuple[int, str] | None:
    """Pattern and prefix of a Unigram tokenizer; its loop adds the prefix itself."""
    names = [step["type"] for step in splitters]
    last = splitters[-1] if splitters else {}
    if names[-1:] != ["Metaspace"] or last["replacement"] != META or not last["split"]:
        return None
    if names == ["Metaspace"]:
        return AT_SPACE, ""
    if names != ["WhitespaceSplit", "Metaspace"] or last["prepend_scheme"] != "always":
        return None
    return WHITESPACE, ""


def _sentence_piece(normalizers: Steps, splitters: Steps) -> tuple[int, str] | None:
    """Pattern and prefix of a SentencePiece BPE tokenizer, as those of Llama."""
    prepend = {"type": "Prepend", "prepend": META}
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": META}
    if not splitters and list(normalizers) in ([replace], [prepend, replace]):
        return AT_SPACES, "always" if len(normalizers) == 2 else ""
    if normalizers or [step["type"] for step in splitters] != ["Metaspace"]:
        return None
    if splitters[0]["replacement"] != META or splitters[0]["split"]:
        return None
    scheme = splitters[0]["prepend_scheme"]
    return AT_SPACES, "" if scheme == "never" else "missing"


def _options(normalizers: Steps, pattern: int, splitters: Steps) -> int | None:
    """Options of the pattern; None if a normalizer is not supported."""
    options = 0
    for step in normalizers:
        name, is_spaced = step["type"], pattern in (WHITESPACE, AT_SPACE)
        if name in CHARACTERWISE:
            continue
        if name == "Strip" and pattern == AT_SPACE:
            if step["strip_left"] and splitters[-1]["prepend_scheme"] != "always":
                return None
            options |= STRIP_LEFT if step["strip_left"] else 0
            options |= STRIP_RIGHT if step["strip_right"] else 0
        elif name == "Replace" and is_spaced and _is_collapse(step):
            options |= COLLAPSE
        elif name == "Replace" and is_spaced and _is_plain(step):
            continue
        elif name != "Strip" or pattern != WHITESPACE:
            return None
    return options


def _is_collapse(step: Mapping[str, Any]) -> bool:
    """Whether a step replaces runs of spaces by one."""
    return step["pattern"] in ({"Regex": " {2,}"}, {"Regex": " +"}) and (
        step["content"] in (" ", META)
    )


def _is_plain(step: Mapping[str, Any]) -> bool:
    """Whether a step replaces a string without whitespace by another."""
    both = (step["pattern"].get("String", " "), step["content"])
    return all(len(part.split()) == 1 == len((part + "x").split()) for part in both)


def _folds_case(charwise: Steps) -> bool:
    """Whether the normalizers only lowercase ASCII letters."""
    if not any(step["type"] == "Lowercase" for step in charwise):
        return False
    normalize = _normalizer(charwise)
    both = string.ascii_lowercase, string.ascii_uppercase
    return all(normalize(letters) == string.ascii_lowercase for letters in both)


def _replaces_letters(normalizers: Steps) -> bool:
    """Whether a string that is replaced begins with an ASCII letter."""
    strings = [step.get("pattern", {}).get("String", " ") for step in normalizers]
    return any(string_[0] in string.ascii_letters for string_ in strings)


def _classes(pattern: int, charwise: Steps, options: int) -> Bytes | None:
    """Classes of characters; None if the spaces themselves are normalized."""
    if pattern in (WHITESPACE, AT_SPACE, AT_SPACES):
        classes = np.zeros(N_CODES, np.uint8)
    else:
        classes = kinds_of_characters().copy()
        classes[ord(LONG_S)] |= UNSAFE
    if pattern == WHITESPACE:
        is_space = [chr(code).isspace() for code in range(N_CODES)]
        classes[is_space] |= NORMALIZED
    if not charwise:
        return classes
    normalize = _normalizer(charwise)
    if not _keeps_spaces(normalize, pattern):
        return None
    is_changed, is_blank = _changed(normalize)
    if pattern not in (WHITESPACE, AT_SPACE):
        classes[is_changed] |= UNSAFE
        return classes
    classes[is_changed] |= NORMALIZED
    if options:
        classes[is_blank] |= UNSAFE
    return classes


def _normalizer(charwise: Steps) -> Any:
    """Function that normalizes a str."""
    from tokenizers import Tokenizer

    steps = {"type": "Sequence", "normalizers": list(charwise)}
    config = dict.fromkeys(["truncation", "padding", "pre_tokenizer", "decoder"])
    model = {"type": "Unigram", "unk_id": 0, "vocab": [["?", 0.0]]}
    config |= {"version": "1.0", "added_tokens": [], "post_processor": None}
    config |= {"normalizer": steps, "model": model}
    return Tokenizer.from_str(json.dumps(config)).normalizer.normalize_str


def _keeps_spaces(normalize: Any, pattern: int) -> bool:
    """Whether texts may be normalized word by word."""
    separators = [" ", "\t", "\n", "\r", "\r\n"] if pattern == WHITESPACE else [" "]
    for separator in separators:
        for before in ("a", *PREPENDED):
            left, right = normalize(before), normalize("a")
            whole = normalize(f"{before}{separator}a")
            middle = whole[len(left) : len(whole) - len(right)]
            is_kept = middle == " " if separator == " " else middle.isspace()
            if whole != left + middle + right or not is_kept:
                return False
    return True


def _changed(normalize: Any) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Characters that are normalized or may be, and the ones that become whitespace."""
    is_changed = combining_characters().copy()
    is_blank = np.zeros(N_CODES, np.bool_)
    for code, normal in enumerate(_normalized(normalize)):
        if normal != chr(code):
            is_changed[code] = True
        if not normal or META in normal or "".join(normal.split()) != normal:
            is_blank[code] = code != ord(" ")
    return is_changed, is_blank


def _normalized(normalize: Any) -> Iterator[str | None]:
    """Normalized form of each character alone; None if it is not known."""
    between = normalize("\n0\n")
    for start in range(0, N_CODES, 256):
        if start == 0 or 0xD800 <= start < 0xE000:
            for code in range(start, start + 256):
                yield None if 0xD800 <= code < 0xE000 else normalize(chr(code))
            continue
        characters = map(chr, range(start, start + 256))
        parts = normalize("\n0\n" + "\n0\n".join(characters) + "\n0\n").split(between)
        yield from parts[1:-1] if len(parts) == 258 else [None] * 256


@cache
def combining_characters() -> NDArray[np.bool_]:
    """Characters whose normalization may depend on their neighbors or the version.

    Returns
    -------
    ndarray of shape (n_codes,), bool
        Read-only; other characters keep their normalization anywhere in a text.
    """
    category = unicodedata.category
    mask = np.array([category(chr(code)) in COMBINING for code in range(N_CODES)])
    mask[:128] = False
    for start, stop in COMBINING_RANGES:
        mask[start:stop] = True
    mask.flags.writeable = False
    return mask


@cache
def kinds_of_characters() -> Bytes:
    r"""Kinds of characters by the regular expressions of the package tokenizers.

    Returns
    -------
    ndarray of shape (n_codes,), uint8
        Read-only; the kinds of `pattern_loops`.
    """
    from tokenizers import Regex, pre_tokenizers

    codes = [code if not 0xD800 <= code < 0xE000 else 0xE000 for code in range(N_CODES)]
    characters = "".join(map(chr, codes))
    kinds = np.zeros(N_CODES, np.uint8)
    for kind, expression in ((LETTER, r"\p{L}+"), (NUMBER, r"\p{N}+"), (BLANK, r"\s+")):
        split = pre_tokenizers.Split(Regex(expression), "removed", invert=True)
        for _, (start, stop) in split.pre_tokenize_str(characters):
            kinds[start:stop] = kind
    kinds[[10, 13]] = NEWLINE
    kinds[32] = GAP
    kinds.flags.writeable = False
    return kinds
