"""Compare members with their averages and their ensembles on the same data."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ensembles._sklearn import check_bool, check_mapping
from ensembles.embeddings.similarity.evaluation import Pairs
from ensembles.predictions.metrics.table import resolve_scoring
from ensembles.reports.comparison import Comparison
from ensembles.reports.contest import Contest
from ensembles.reports.encoders import TextPairs, encoder_members
from ensembles.reports.estimators import estimator_members
from ensembles.reports.members import Data, Members, name_members, sample_hashes
from ensembles.reports.modules import Batches, module_members

SAME_DATA = (
    "X_select must be other samples than X: scores on data that chose a model are too "
    "optimistic; split the held-out data in two"
)
# Parameters of ModelSoup that affect how parameters are averaged.
SOUP_PARAMS = ("finish", "integers", "shared_init", "device")


def compare(
    members: Sequence[Any],
    X: Any,
    y: Any = None,
    *,
    X_select: Any = None,
    y_select: Any = None,
    scoring: Any = None,
    estimator: Any = None,
    names: Sequence[str] | None = None,
    is_run: bool = False,
    output: str | None = None,
    soup_params: Mapping[str, Any] | None = None,
    batch_size: int = 256,
    n_repeats: int = 5,
    n_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Table of members, their averages and their ensembles: scores, intervals, costs.

    Parameters
    ----------
    members : sequence of fitted estimators, PyTorch modules, encoders or paths
        Members, at least two. Paths and state dicts need ``estimator``, except for
        directories of sentence encoders. They are loaded one at a time.
    X : array-like of shape (n_samples, ...), DataLoader or Pairs
        Samples that the scores are reported on; no member was trained on them. A
        DataLoader brings its targets and must not shuffle. For sentence encoders:
        pairs of texts with ratings, as from `read_similarity_pairs`.
    y : array-like of shape (n_samples, ...) or None, default=None
        Targets; None if ``X`` brings them.
    X_select : like ``X``, or None, default=None
        Other samples, on which the best single member, the greedy soup and the fitted
        ensemble are chosen. None leaves out what must be chosen.
    y_select : like ``y``, or None, default=None
        Targets of ``X_select``.
    scoring : str, callable or None, default=None
        Scorer, as in `EnsembleClassifier`; greater is better. None is accuracy for
        classifiers, R² for regressors and Spearman's correlation for encoders.
    estimator : estimator, PyTorch module or None, default=None
        Model that receives the parameters of members that are paths or state dicts;
        None for other members.
    names : sequence of str or None, default=None
        Names of the members; None uses their paths, or numbers them.
    is_run : bool, default=False
        Whether the members are checkpoints of one training run, in order. Then
        averages over windows and exponential averages are compared too.
    output : {"logits", "probabilities", "values"} or None, default=None
        Meaning of the outputs of PyTorch modules. None recognizes it: values for
        targets that are not integers, probabilities if rows are not negative and sum
        to 1, otherwise logits.
    soup_params : mapping of str to value or None, default=None
        How parameters are averaged: ``finish``, ``integers``, ``shared_init`` and
        ``device`` of `ModelSoup`; None means its defaults.
    batch_size : int, default=256
        Number of samples in a batch of a module; also the largest batch that time and
        operations are measured on.
    n_repeats : int, default=5
        Number of measured predictions of that batch, after one for warming up.
    n_resamples : int, default=1000
        Number of bootstrap resamples of the samples, the same for all rows.
    level : float, between 0 and 1, default=0.95
        Level of the intervals.
    seed : int, default=0
        Seed of the resampling.

    Returns
    -------
    Comparison
        A row for each member, the uniform and the greedy soup, averages along a run,
        and the prediction ensemble with equal and with fitted weights. Differences are
        to the best member on the selection data; without these, to the median member
        on the reported data.

    Raises
    ------
    TypeError, ValueError
        If members or data do not match, a score is undefined, or the selection data
        are incomplete.

    Notes
    -----
    Intervals are percentile bootstrap intervals over the samples, paired: all rows are
    scored on the same resamples. They describe the choice of the test samples, not that
    of the training data or the seeds. Soups are left out, with a note, if the
    parameters of the members cannot be averaged.

    References
    ----------
    Efron & Tibshirani (1993), "An introduction to the bootstrap", chapter 13; Wortsman
    et al. (2022), "Model soups: averaging weights of multiple fine-tuned models
    improves accuracy without increasing inference time", ICML.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> members = [LogisticRegression(C=c).fit(X[::3], y[::3]) for c in (0.1, 1)]
    >>> table = compare(members, X[1::3], y[1::3], X_select=X[2::3], y_select=y[2::3])
    >>> [row.model for row in table.rows]  # doctest: +NORMALIZE_WHITESPACE
    ['member 0', 'member 1', 'uniform soup', 'greedy soup', 'prediction ensemble',
     'fitted ensemble']
    """
    _check_numbers(batch_size=batch_size, n_repeats=n_repeats, n_resamples=n_resamples)
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, found {level!r}")
    soup_params = check_mapping("soup_params", soup_params)
    if not soup_params.keys() <= set(SOUP_PARAMS):
        raise ValueError(
            f"soup_params must be among {', '.join(SOUP_PARAMS)}, found "
            f"{', '.join(soup_params)}"
        )
    check_bool("is_run", is_run)
    overlap = _check_selection_data(X, y, X_select, y_select)
    scoring = resolve_scoring(scoring)
    opened, data, select = _open(
        members,
        (X, y),
        None if X_select is None else (X_select, y_select),
        estimator=estimator,
        names=name_members(members, names),
        output=output,
        soup_params=soup_params,
        batch_size=batch_size,
    )
    opened.notes.extend(overlap)
    contest = Contest(
        opened,
        data,
        select,
        scoring=opened.scoring if scoring is None else scoring,
        batch_size=batch_size,
        n_repeats=n_repeats,
    )
    contest.add_members()
    contest.add_averages(is_run=is_run)
    contest.add_ensembles()
    return contest.result(n_resamples=n_resamples, level=level, seed=seed)


def _check_numbers(**numbers: Any) -> None:
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise TypeError(f"{name} must be an integer, found {value!r}")
        if value < 1:
            raise ValueError(f"{name} must be at least 1, found {value}")


def _check_selection_data(X: Any, y: Any, X_select: Any, y_select: Any) -> list[str]:
    """Raise for incomplete selection data, and for the reported data as such.

    Returns
    -------
    list of str
        A note, if samples are in both.
    """
    if X_select is None:
        if y_select is not None:
            raise ValueError("X_select must be given with y_select, found None")
        return []
    if (y is None) != (y_select is None):
        raise ValueError(
            "y and y_select must both be given, or both come with the samples, found "
            f"{type(y).__name__} and {type(y_select).__name__}"
        )
    reported, selected = sample_hashes(X), sample_hashes(X_select)
    if X is X_select or (reported and reported == selected):
        raise ValueError(SAME_DATA)
    in_both = {*reported} & {*selected}
    n_shared = sum(sample in in_both for sample in selected)
    if not n_shared:
        return []
    return [
        f"{n_shared} of the {len(selected)} selection samples equal reported samples: "
        "the scores of what is chosen on them are too optimistic"
    ]


def _open(
    members: Sequence[Any],
    reported: tuple[Any, Any],
    chosen_on: tuple[Any, Any] | None,
    *,
    estimator: Any,
    names: list[str],
    output: str | None,
    soup_params: Mapping[str, Any],
    batch_size: int,
) -> tuple[Members, Data, Data | None]:
    """Members of one kind, and their data in the format of that kind."""
    arguments = (members, estimator, names, soup_params)
    if isinstance(reported[0], Pairs):
        if reported[1] is not None:
            raise ValueError("y must be None for pairs of texts, which have ratings")
        if chosen_on is not None and not isinstance(chosen_on[0], Pairs):
            raise TypeError(
                "X_select must be pairs of texts, as X is, found "
                f"{type(chosen_on[0]).__name__}"
            )
        data, select = (
            None if part is None else Data(TextPairs(part[0]), part[0].scores)
            for part in (reported, chosen_on)
        )
        assert data is not None
        return encoder_members(members, names, soup_params), data, select
    if _is_module(members[0] if estimator is None else estimator):
        batches, select_batches = (
            None if part is None else Batches(*part, batch_size)
            for part in (reported, chosen_on)
        )
        assert batches is not None
        if select_batches is not None and batches.has_samples_of(select_batches):
            raise ValueError(SAME_DATA)
        opened = module_members(*arguments, batches=batches, output=output)
        select = None if select_batches is None else select_batches.data()
        return opened, batches.data(), select
    if output is not None:
        raise ValueError(
            f"output={output!r} is for PyTorch modules only, found "
            f"{type(members[0]).__name__}; leave it out"
        )
    if reported[1] is None:
        raise ValueError("y must have the targets of X, found None")
    opened = estimator_members(*arguments)
    return opened, Data(*reported), None if chosen_on is None else Data(*chosen_on)


def _is_module(model: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(model, torch.nn.Module)
