"""Metrics of a run: which one chooses the best checkpoint, and in which direction."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Sequence

from ensembles.checkpoints.runs.run import Run, RunCheckpoint

# Words of metric names, for runs that do not say whether lower values are better.
LOWER = {
    *("loss", "ppl", "perplexity", "nll", "bpb", "bpc", "err", "error", "wer", "cer"),
    *("ter", "mer", "der", "eer", "bits", "mse", "mae", "rmse", "mape", "fid"),
}
HIGHER = {
    *("acc", "accuracy", "top", "f", "auc", "auroc", "auprc", "ap", "map", "precision"),
    *("recall", "mcc", "kappa", "iou", "miou", "dice", "psnr", "ssim", "bleu", "chrf"),
    *(
        "rouge",
        "meteor",
        "em",
        "dcg",
        "ndcg",
        "mrr",
        "hits",
        "r",
        "spearman",
        "pearson",
    ),
    "reward",
}
NEGATED = {"neg", "negative"}  # of scikit-learn, such as neg_mean_squared_error


def metric_names(checkpoints: Sequence[RunCheckpoint]) -> list[str]:
    """Names of all metrics, in the order of their first occurrence.

    Parameters
    ----------
    checkpoints : sequence of RunCheckpoint
        Checkpoints of one run.

    Returns
    -------
    list of str
    """
    return list(dict.fromkeys(name for c in checkpoints for name in c.metrics))


def metric_of(run: Run, name: str | None) -> str:
    """Metric that chooses the best checkpoints.

    Parameters
    ----------
    run : Run
        The run.
    name : str or None
        Name of the metric; None takes that of the trainer, or the only one.

    Returns
    -------
    str

    Raises
    ------
    ValueError
        If the run does not have the metric, or has several and none is chosen.
    """
    names = metric_names(run.checkpoints)
    if not names:
        raise ValueError(
            f"best=N (--best N) needs metrics of the checkpoints, and {run.folder} "
            f"(layout {run.layout!r}) has none; score the checkpoints with ensemble "
            "soup, or name those to average"
        )
    if name is None and run.monitor in names:
        return str(run.monitor)
    if name is None and len(names) == 1:
        return names[0]
    known = f"metrics of {run.folder}: {', '.join(names)}"
    if name is None:
        raise ValueError(
            f"best=N (--best N) needs metric=NAME (--metric NAME), because the run has "
            f"several; {known}"
        )
    if name not in names:
        nearest = difflib.get_close_matches(name, names, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise ValueError(f"unknown metric {name!r}{hint} ({known})")
    return name


def is_lower_better(run: Run, metric: str) -> bool:
    """Whether lower values of a metric are better.

    Parameters
    ----------
    run : Run
        The run, which may say so.
    metric : str
        Name of the metric; words in it such as "loss" decide if the run does not.

    Returns
    -------
    bool

    Raises
    ------
    ValueError
        If neither the run nor the name decides.
    """
    if metric in run.lower_is_better:
        return run.lower_is_better[metric]
    words = {
        word.rstrip("0123456789") for word in re.split(r"[^a-z\d]+", _lower(metric))
    }
    lower, higher = bool(words & LOWER), bool(words & HIGHER)
    if lower == higher:
        raise ValueError(
            f"it is unknown whether lower values of the metric {metric!r} are better; "
            "pass lower_is_better=True or False (ensemble avg and runs: "
            "--lower-is-better or --higher-is-better)"
        )
    return lower != bool(words & NEGATED)


def _lower(name: str) -> str:
    """Name in lowercase, with words of camel case apart."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def has_value(checkpoint: RunCheckpoint, metric: str) -> bool:
    """Whether a checkpoint has a finite value of a metric.

    Parameters
    ----------
    checkpoint : RunCheckpoint
        Checkpoint of a run.
    metric : str
        Name of the metric.

    Returns
    -------
    bool
    """
    return math.isfinite(checkpoint.metrics.get(metric, math.nan))
