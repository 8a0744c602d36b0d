"""Parse numbers in a line of output, and distinguish scores from other numbers."""

from __future__ import annotations

import re
from typing import NamedTuple

VALUE = r"(?:(?:\d++\.?+\d*+|\.\d++)(?:e[-+]?\d++)?+|nan|inf(?:inity)?+)"
# Separators inside a number: decimal or thousands separators of some locales, list
# separators, fractions and powers.
GLUE = r"(?:[,'\u2019\u00a0\u2009\u202f/]|(?:\*\*?|\u00d7|\^)[-+]?)"
RAISED = r"[\u207a\u207b\u2070\u00b9\u00b2\u00b3\u2074-\u2079]"
# Numbers, and tokens with digits that are skipped: paths, addresses, words, times,
# dates and versions. Possessive quantifiers keep the match linear.
NUMBER = re.compile(
    rf"(?<![\w.@+/^-])(?:"
    rf"(?!\d{{1,2}}/\d{{1,2}}(?:/\d{{2,4}})?\s+\d\d?:\d\d)(?P<found>[-+]?{VALUE}(?:{GLUE}{VALUE})*+{RAISED}*+)"
    r"(?:(?:dB|[cm]m|px|pp|pts?)\b)?+"
    rf"(?P<more>(?::\d[\d:.,]*+|[\w+/-]|\.\w)[\w.+/-]*+(?:(?<=T\d\d):[\d:.]++)?+"
    r"(?:[+-]\d\d:\d\d|(?<=[+-]\d\d):\d\d|(?<=\.\d):\d++|(?<=\.\d\d):\d++"
    r"|(?<=\.\d\d\d):\d++)?+)?+"
    rf"|\w++://\S++|localhost:\d++|(?:[\w.+-]*+/)++[\w.+-]*+(?::\d++)*+"
    # A date before a time; a file with a line number, as in warnings and logs.
    r"|\d{1,2}/\d{1,2}(?:/\d{2,4})?(?=\s+\d\d?:\d\d)"
    r"|[a-z_][\w-]*+\.[a-z]\w{0,3}:\d++|[a-z_][\w.]*+:[\w<>]++:\d++(?=\s+-\s))"
    rf"|(?P<quote>[\"'])\w[\w.-]*+:\d++(?P=quote)",
    re.IGNORECASE,
)
# Prefix of a log line: rank, time, step or logger name; or the signature of sacrebleu.
# A number in brackets followed by a space may be a class index, so it is kept.
PREFIX = re.compile(
    r"\s*(?:\[(?![\s\d.,e+-]*\])[^\]\[{]*\]:?|\[\d++\](?=\t)|\[1\](?=\s+[-+.\d]+\s*$)"
    r"|[IWEF]\d{4} [\d:.]++\s++\d++ \S++\]|\[\d++/\d++\]"
    r"|\w+[|+]\S{0,300}version[:.]\S{1,60} = )",
    re.IGNORECASE,
)
# Suffix of a score: n-gram precisions and lengths of BLEU, or error counts of WER.
REST = re.compile(
    r",? \d[\d.]*+(?:/\d[\d.]*+){3} \(BP.*"
    r"|\[ \d++ / \d++, \d++ ins, \d++ del, \d++ sub \]"
)
NEAR = 80  # characters around a number that are examined as its context
WORDS = re.compile(r"[a-z]+", re.IGNORECASE)
# Labels of numbers that are not scores: uncertainties, counts, times, settings and the
# progress of a run.
ASIDE = frozenset(
    WORDS.findall(
        "std stdev stddev stderr se sem deviation variance var ci interval low high"
        " lower upper confidence pvalue n num nrefs count counts total samples sample"
        " examples example rows row columns column lines texts pairs files file tokens"
        " items images batches batch queries docs documents support len length name"
        " dtype size shape params parameters memory mem gpu cpu mb gb mib gib kb bytes"
        " time times runtime seconds second secs sec ms min mins minute minutes hours"
        " hour elapsed duration eta took throughput fps epoch epochs step steps iter"
        " iters iteration iterations round lr learning seed seeds version pid port rank"
        " world workers worker threads warnings warning layer layers fold folds"
        " dataloader beam exit code status speed latency it its sentences words"
    )
)
SPREAD = frozenset(
    WORDS.findall(
        "std stdev stddev stderr se sem deviation var ci low high lower upper"
        " confidence pvalue min"
    )
)
# Names of metrics: they take precedence over the other words of a label, as in "batch
# accuracy" or "time series F1".
METRICS = frozenset(
    WORDS.findall(
        "acc accuracy f precision recall auc auroc auprc ap map ndcg mrr mase r bleu"
        " chrf rouge meteor score psnr ssim iou miou dice elo pearson spearman kappa"
        " mcc exact match em variance correct"
    )
)
LOWER_BETTER = frozenset(
    WORDS.findall(
        "loss losses error errors err perplexity ppl wer cer ter rmse mse mae mape msle"
        " rmsle nll bpb bpc brier ece fid regret logloss crossentropy"
    )
)


class Number(NamedTuple):
    """Number in a line, with its context."""

    text: str
    label: str  # words between the previous number and this one
    is_deviation: bool
    is_aside: bool


def numbers_of(line: str) -> list[Number]:
    """Numbers in a line, without log prefixes and details after a score.

    Parameters
    ----------
    line : str
        Line of output.

    Returns
    -------
    list of Number
    """
    while (prefix := PREFIX.match(line)) and NUMBER.search(line, prefix.end()):
        line = line[prefix.end() :]
    if prefix and line[prefix.end() :].strip():
        line = line[prefix.end() :]
    line = REST.sub("", line)
    found, end, is_counting = [], 0, False
    for match in NUMBER.finditer(line):
        if not match["found"] or match["more"]:
            continue
        before = line[end : match.start()]
        after = line[match.end() : match.end() + NEAR]
        words = words_of(_nearest(before))
        # In "on the 10000 test images: 55 %" the words belong to the previous number.
        is_aside = not is_counting and _names_aside(words)
        is_whole = re.fullmatch(r"[-+]?\d+", match["found"]) is not None
        is_named = bool(words) and words[-1] in METRICS | LOWER_BETTER
        is_named &= re.search(r"[,;]\s+$", before) is None
        unit = re.match(r"\s*([^\W\d_]+)(/s)?", after)
        is_counting = unit is not None and is_whole and not is_named
        is_aside |= is_counting or _is_remark(line, match)
        if unit is not None and (unit[2] or not is_named):
            is_aside |= unit[1].lower() in {*ASIDE, "s"} or unit[2] is not None
        label = " ".join(WORDS.findall(before))
        is_deviation = "\u00b1" in before
        found.append(Number(match["found"], label, is_deviation, is_aside))
        end = match.end()
    return found


def words_of(text: str) -> list[str]:
    """Lowercase words of a text, with the parts of camelCase words added.

    Examples
    --------
    >>> words_of("val_logLoss: ")
    ['val', 'logloss', 'val', 'log', 'loss']
    """
    parted = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", " ", text)
    whole = [text] if parted != text else []
    return [w.lower() for part in (*whole, parted) for w in WORDS.findall(part)]


def _names_aside(words: list[str]) -> bool:
    """Whether a label is that of a number that is not a score."""
    if not words or not SPREAD.isdisjoint(words):
        return bool(words)
    is_metric = words[-1] in METRICS | LOWER_BETTER
    return not is_metric and not ASIDE.isdisjoint(words)


def _is_remark(line: str, match: re.Match[str]) -> bool:
    """Whether a number is a total, as in "of 100", or a detail in parentheses."""
    start, end = match.span()
    before, after = line[max(0, start - NEAR) : start], line[end : end + NEAR]
    if re.search(r"\d\s+(?:out )?of\s+$", before):
        return True
    if re.fullmatch(r"\d+", match["found"]):
        return re.match(r"[^()]*\)\s*[:=]", after) is not None
    is_share = re.fullmatch(r"\d+/\d+", match["found"]) is not None
    return is_share and re.search(r"\d %?\($|\d%? \($", before) is not None


def _nearest(before: str) -> str:
    """Last phrase before a number, split at separators and brackets."""
    return re.split(r"[,;]\s|[(\[{|]|\s-\s", before.rstrip(" |([{\u2502"))[-1]
