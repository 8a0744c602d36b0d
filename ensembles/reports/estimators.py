"""Members that are fitted scikit-learn estimators, or checkpoints of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from ensembles._sklearn import unwrap_frozen
from ensembles.checkpoints.model_soup.merged_estimator import (
    MergedEstimator,
    build_merged_estimator,
)
from ensembles.checkpoints.model_soup.soup_score import n_rows, take_rows
from ensembles.checkpoints.parameters.template import CHECKPOINT_TYPES
from ensembles.reports.members import Members, one_member
from ensembles.rules.builtin import RULES


def estimator_members(
    members: Sequence[Any],
    estimator: Any,
    names: list[str],
    soup_params: Mapping[str, Any],
) -> Members:
    """Members that are fitted estimators, or checkpoints for the estimator.

    Parameters
    ----------
    members : sequence of fitted estimators, paths or state dicts
        Members.
    estimator : estimator or None
        Estimator that receives the parameters of checkpoints; None for estimators.
    names : list of str
        Name of each member.
    soup_params : mapping of str to value
        Arguments of `build_merged_estimator`.

    Returns
    -------
    Members

    Raises
    ------
    TypeError
        If classifiers and regressors are mixed, or a member does not predict.
    """
    from sklearn.base import is_classifier

    members = [unwrap_frozen(member) for member in members]
    load, merge = merging(members, estimator, names, soup_params)
    classifies = is_classifier(load(0))
    fitted = [
        (name, member)
        for name, member in zip(names, members, strict=True)
        if not isinstance(member, CHECKPOINT_TYPES)
    ]
    for name, member in fitted:
        if is_classifier(member) != classifies or not hasattr(member, "predict"):
            raise TypeError(
                "members must all be classifiers, or all regressors: "
                f"{names[0]} is a {type(load(0)).__name__}, {name} a "
                f"{type(member).__name__}"
            )
    return Members(
        names=names,
        load=load,
        predictor=lambda model: model,
        merge=merge,
        first=_first,
        scoring="accuracy" if classifies else "r2",
        is_classifier=classifies,
        classes=fitted or [(names[0], load(0))],
    )


def _first(X: Any, batch_size: int) -> tuple[Any, int]:
    n_samples = min(n_rows(X), batch_size)
    return take_rows(X, np.arange(n_samples)), n_samples


def merging(
    members: Sequence[Any],
    estimator: Any,
    names: list[str],
    soup_params: Mapping[str, Any],
) -> tuple[Any, Any]:
    """Functions that load one member, and that prepare averages of all.

    Parameters
    ----------
    members : sequence of models, paths or state dicts
        Members.
    estimator : object or None
        Model that receives the parameters of paths and state dicts; None if all
        members are models.
    names : list of str
        Name of each member.
    soup_params : mapping of str to value
        Arguments of `build_merged_estimator`.

    Returns
    -------
    load : callable (index) -> object
        Checkpoints are loaded into one model, one at a time.
    merge : callable () -> MergedEstimator

    Raises
    ------
    TypeError
        If a member is a checkpoint and ``estimator`` is None.
    """
    for name, member in zip(names, members, strict=True):
        if estimator is None and isinstance(member, CHECKPOINT_TYPES):
            raise TypeError(
                f"estimator must be the model that receives the parameters of {name}, "
                f"a {type(member).__name__}; pass estimator=MODEL"
            )

    @cache
    def merge() -> MergedEstimator:
        return build_merged_estimator(
            members[0] if estimator is None else estimator,
            members,
            names,
            rule=RULES["mean"],
            params={},
            **soup_params,
        )

    def load(index: int) -> Any:
        if not isinstance(members[index], CHECKPOINT_TYPES):
            return members[index]
        return merge().set_weights(one_member(index, len(members)))

    return load, merge
