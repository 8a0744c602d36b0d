"""Choose the member weights of a model soup, and validate its parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ensembles._sklearn import (
    check_choice,
    check_mapping,
    check_n_jobs,
    unwrap_frozen,
)
from ensembles.checkpoints.merging.combinations import is_mean
from ensembles.checkpoints.model_soup.learned import LearnedSoup, check_convex
from ensembles.checkpoints.model_soup.merged_estimator import MergedEstimator
from ensembles.checkpoints.model_soup.soup_score import (
    Part,
    SoupScore,
    resolve_scorer,
)
from ensembles.checkpoints.model_soup.training import check_counts, to_seed
from ensembles.checkpoints.parameters.access import parameter_access
from ensembles.checkpoints.soup_selection import (
    check_rules,
    resolve_selection,
    with_patience,
)
from ensembles.rules.rule import Rule
from ensembles.selection import Selection
from ensembles.selection.choose import (
    SelectionResult,
    resolve_weights,
    run_selection,
    warn_if_no_gain,
)

CHOICES = {
    "integers": ("error", "first", "max"),
    "shared_init": (None, "error", "warn"),
    "on_error": ("raise", "drop"),
}


def check_parameters(soup: Any, rule: Rule) -> Selection | None:
    """Validate the parameters of a soup, before any member is trained or read.

    Parameters
    ----------
    soup : ModelSoup
        Soup with its parameters.
    rule : Rule
        Rule that combines the members.

    Returns
    -------
    Selection or None
        Selection that ``weights`` names; None if it is not a name.

    Raises
    ------
    TypeError
        If a parameter has the wrong type, or ``estimator`` cannot be averaged.
    ValueError
        If a parameter of the rule or the selection is unknown, or another value is not
        allowed.
    ImportError
        If the selection needs a package that is not installed.
    """
    _check_checkpoints(soup.estimator, soup.checkpoints)
    check_n_jobs(soup.n_jobs)
    selection = resolve_selection(soup.weights)
    learned = _is_learned(selection, soup.estimator)
    if learned and not is_mean(rule):
        raise ValueError(
            f"rule must be 'mean' for weights={soup.weights!r} of a PyTorch module, "
            f"found {rule.name!r}"
        )
    _check_names(soup, rule, selection, learned=learned)
    for name, choices in CHOICES.items():
        check_choice(name, getattr(soup, name), choices)
    if not (soup.finish is None or callable(soup.finish)):
        raise TypeError(f"finish must be callable or None, found {soup.finish!r}")
    if soup.checkpoints is None and (
        soup.base is not None
        or rule.needs_base
        or (selection is not None and selection.needs_base)
    ):
        raise ValueError(
            f"rule={rule.name!r} with weights={soup.weights!r:.80} and "
            f"base={soup.base!r:.80} needs checkpoints and their base, found "
            "checkpoints=None"
        )
    check_rules(selection, [rule], soup.base, soup.weights)
    if selection is not None or soup.scoring is not None:
        resolve_scorer(soup.estimator, soup.scoring)  # raises for a wrong one
    _check_device(soup.estimator, soup.device)
    _check_values(soup, rule, selection, learned=learned)
    return selection


def _check_device(estimator: Any, device: Any) -> None:
    inner = unwrap_frozen(estimator)
    if device is not None and parameter_access(inner).module is None:
        raise ValueError(
            f"device must be None for {type(inner).__name__}, which is not a PyTorch "
            f"module; found {device!r}"
        )


def _check_values(
    soup: Any, rule: Rule, selection: Selection | None, *, learned: bool
) -> None:
    """Raise for values of weights and parameters that the members would not fit."""
    if soup.checkpoints is None:
        check_counts(n_members=soup.n_members)
        n_members = soup.n_members
    else:
        n_members = len(soup.checkpoints)
    has_base = soup.base is not None
    rule.check(
        n_members + (has_base and not rule.needs_base),
        soup.rule_params or {},
        has_base=has_base and rule.needs_base,
    )
    params = soup.weights_params or {}
    if selection is None:
        rule.check_weights(soup.weights, n_members)
    elif learned:
        check_convex(**params)
    else:
        selection.check_params(n_members, with_patience(selection, params, n_members))
        if selection.samples_params and params.get("equal_weights", False):
            raise ValueError(
                "equal_weights=True leaves nothing to choose in a ModelSoup; to choose "
                "parameters of the rule, use GridSearchCV with rule_params__NAME"
            )


def _check_checkpoints(estimator: Any, checkpoints: Any) -> None:
    if isinstance(estimator, type):
        raise TypeError(
            f"estimator must be an estimator, not a class: pass {estimator.__name__}()"
        )
    if checkpoints is None:
        if not hasattr(unwrap_frozen(estimator), "get_params"):
            raise TypeError(
                f"{type(estimator).__name__} has no fit that could train members; pass "
                "checkpoints"
            )
        return
    is_sequence = isinstance(checkpoints, Sequence) or hasattr(checkpoints, "shape")
    if isinstance(checkpoints, str) or not is_sequence:
        raise TypeError(
            "checkpoints must be a sequence of members, such as a list, found "
            f"{type(checkpoints).__name__}: {checkpoints!r:.80}"
        )
    if not len(checkpoints):
        raise ValueError("there must be at least one member, checkpoints is empty")


def _is_learned(selection: Selection | None, estimator: Any) -> bool:
    """Whether the weights are those of a learned soup, by gradient descent."""
    if selection is None or not selection.uses_gradient:
        return False
    return parameter_access(unwrap_frozen(estimator)).module is not None


def _check_names(
    soup: Any, rule: Rule, selection: Selection | None, *, learned: bool
) -> None:
    """Raise for unknown parameters of the rule or the selection."""
    names_by_setting: dict[str, list[str]] = {
        "rule_params": [*rule.params],
        "weights_params": [],
    }
    if selection is not None:
        names_by_setting["weights_params"] = (
            LearnedSoup.parameter_names() if learned else [*selection.params]
        )
    is_own = learned or selection is None  # not checked by the selection below
    for setting, valid_names in names_by_setting.items():
        for name in check_mapping(setting, getattr(soup, setting)):
            owners = [
                other for other, valid in names_by_setting.items() if name in valid
            ]
            if setting not in owners and (owners or hasattr(soup, name)):
                owner = owners[0] if owners else "a parameter of ModelSoup"
                raise ValueError(f"{name!r} does not belong in {setting}: use {owner}")
            if name not in valid_names and setting == "weights_params" and is_own:
                listed = ", ".join(valid_names) or "none"
                raise ValueError(
                    f"{setting} has no {name!r} with weights={soup.weights!r:.80} "
                    f"(known: {listed})"
                )


def check_targets(soup: Any, y: Any) -> None:
    """Raise the estimator's errors on targets before the data are split by them.

    Parameters
    ----------
    soup : ModelSoup
        Soup that trains its members.
    y : array-like or None
        Targets given to ``fit``.

    Raises
    ------
    ValueError
        If targets are required and missing, or not valid for a classifier.
    """
    from sklearn.base import is_classifier
    from sklearn.utils import get_tags
    from sklearn.utils.multiclass import check_classification_targets

    if y is None and get_tags(soup).target_tags.required:
        raise ValueError(
            f"This {type(soup).__name__} estimator requires y to be passed, but "
            "the target y is None"
        )
    if y is not None and is_classifier(soup):
        check_classification_targets(np.asarray(y))


def choose_weights(
    soup: Any,
    selection: Selection | None,
    merged: MergedEstimator,
    rule: Rule,
    parts: Sequence[Part],
) -> SelectionResult:
    """Weights of the members as given, or chosen by a selection, with their scores.

    Parameters
    ----------
    soup : ModelSoup
        Soup with valid parameters.
    selection : Selection or None
        Selection that ``weights`` names; None if it is not a name.
    merged : MergedEstimator
        Members, and the estimator that receives their combined parameters.
    rule : Rule
        Rule that combines the members.
    parts : sequence of (X, y, params)
        Data to score on, as in `SoupScore`; empty if nothing is scored.

    Returns
    -------
    SelectionResult

    Raises
    ------
    ValueError
        If weights are invalid, a selection has no score, or a score is not finite.

    Warns
    -----
    UserWarning
        If the chosen weights do not beat the best single member.
    """
    n_members, score = len(merged.members), None
    if parts:
        scorer = resolve_scorer(soup.estimator, soup.scoring)
        score = SoupScore(merged, scorer, parts, soup.on_error)
    if selection is None and rule.needs_base:
        return _given(soup.weights, score, merged)
    if selection is None:
        return resolve_weights(
            soup.weights,
            n_members,
            score,
            signed=rule.signed,
            weight_sum_matters=rule.weight_sum_matters,
            rule=rule.name,
        )
    if selection.uses_gradient and merged.has_module:
        selection = Selection(LearnedSoup(merged, parts).convex)
    params = with_patience(selection, soup.weights_params or {}, n_members)
    if "random_state" in selection.params:
        params = {"random_state": to_seed(soup.random_state)} | params
    result = run_selection(selection, n_members, score, **params)
    if rule.needs_base and score is not None:
        result = _with_base_score(result, score)
    warn_if_no_gain(selection, result, [member.name for member in merged.members])
    return result


def _given(weights: Any, score: SoupScore | None, merged: Any) -> SelectionResult:
    """Weights as given to a rule with a base, with scores if there is a score."""
    values = merged.rule.check_weights(weights, len(merged.members))
    if score is None:
        return SelectionResult(values)
    scores = np.array([score.score_member(i) for i in range(len(values))])
    return SelectionResult(
        values,
        scores,
        int(np.argmax(scores)),
        score.score_given(values),
        base_score=score.score_member(None),
    )


def _with_base_score(result: SelectionResult, score: SoupScore) -> SelectionResult:
    """Result of a selection with the score of the base alone."""
    base_score = score.score_member(None)
    best_score = max(base_score, float(result.best_score or base_score))
    return result._replace(base_score=base_score, best_score=best_score)
