"""Estimator that pools quantile forecasts, with weights learned from outcomes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from ensembles._sklearn import NestedParams, check_mapping
from ensembles._typing import Float64
from ensembles.predictions.fitting.preconditions import (
    check_selection,
    check_weights_parameter,
)
from ensembles.predictions.fitting.weight_fitting import warn_if_no_gain
from ensembles.predictions.forecasts.pool import Pool, check_present
from ensembles.predictions.forecasts.pool_scores import (
    PoolScore,
    make_objective,
    share_weights,
)
from ensembles.predictions.forecasts.pools import POOLS
from ensembles.predictions.forecasts.quantiles import check_levels, check_quantiles
from ensembles.predictions.members.out_of_fold import Split, make_splits
from ensembles.predictions.members.sample_weight import check_sample_weight
from ensembles.registry import lookup
from ensembles.selection import SELECTIONS
from ensembles.selection.choose import SelectionResult, resolve_weights, run_selection

Learn = Callable[[PoolScore], SelectionResult]
CHECKS: dict[str, Any] = {
    "dtype": [np.float64, np.float32],
    "ensure_all_finite": "allow-nan",
    "allow_nd": True,
}


class QuantileEnsemble(NestedParams, RegressorMixin, BaseEstimator):
    """Pool of quantile forecasts, with weights learned from earlier outcomes.

    X has the forecasts themselves: the quantiles of all members for each unit, such as
    a date and a place. Members may be absent from units; there, their weight is shared
    equally by the members that are present.

    Parameters
    ----------
    levels : float or array-like of shape (n_levels,)
        Quantile levels in ascending order, each between 0 and 1. With a number, such as
        0.5, predictions are 1-D.
    rule : str or Pool, default="linear_pool"
        Rule that pools the forecasts: ``"linear_pool"``, ``"quantile_mean"``,
        ``"quantile_median"`` or another name in `POOLS`, or the entry itself.
    weights : array-like of shape (n_members,), str or None, default="convex"
        Weights of the members; None weights all members equally. ``"convex"``,
        ``"greedy"``, ``"top_k"``, ``"best"`` and other selections learn the weights.
        ``"convex"`` is exact for ``"linear_pool"`` and, unless there are many units,
        ``"quantile_mean"``. Weights of ``"quantile_median"`` have no useful gradient:
        use ``"greedy"``, which takes minutes with 20 members and 1000 units, or None.
    rule_params : dict or None, default=None
        Parameters of the rule, e.g. ``{"interpolation": "normal"}`` for
        ``"linear_pool"``; None means its defaults.
    weights_params : dict or None, default=None
        Parameters of the selection that ``weights`` names, e.g. ``{"n_rounds": 20}``
        for ``"greedy"``; None means its defaults.
    cv : int, splitter or iterable of splits, default=5
        Splits for ``oof_score_`` of learned weights; an int is the number of folds in
        the order of the rows. For forecasts in time, use
        `sklearn.model_selection.TimeSeriesSplit`, or groups of dates.
    crossing : {"raise", "sort"}, default="raise"
        If quantiles of a member decrease from one level to the next: raise, or sort
        them.

    Attributes
    ----------
    weights_ : ndarray of shape (n_members,)
        Weights of the members, with sum 1.
    levels_ : ndarray of shape (n_levels,)
        Quantile levels.
    scores_ : ndarray of shape (n_members,)
        Score of each member alone, on the rows passed to ``fit``: minus twice the mean
        pinball loss of the levels, which is minus the mean weighted interval score if
        the levels are symmetric. In units from which the member is absent, the others
        count equally.
    best_index_ : int
        Index of the member with the highest score.
    oof_score_ : float
        Score of the ensemble. Learned weights are cross-fitted: each fold is scored
        with weights learned on the other folds, and the result is the mean of the
        folds.
    history_ : tuple of Trial
        Weights and score of each step of the selection, on the rows that it learned
        from; for ``"linear_pool"`` the score is minus the mean CRPS. Empty if no
        weights are learned.
    n_features_in_ : int
        Size of the second axis of X in ``fit``.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the columns in ``fit``; only if X has names that are all strings.

    See Also
    --------
    EnsembleRegressor : Fits the members, which may predict quantiles.

    References
    ----------
    Ray et al. (2023), "Comparing trained and untrained probabilistic ensemble forecasts
    of COVID-19 cases and deaths in the United States", International Journal of
    Forecasting 39. Thorey, Mallet & Baudin (2017), "Online learning with the continuous
    ranked probability score for ensemble forecasting", Quarterly Journal of the Royal
    Meteorological Society 143, for weights that minimize the CRPS.

    Examples
    --------
    Two members forecast 40 units, the first with too narrow intervals.

    >>> rng = np.random.default_rng(0)
    >>> y = rng.normal(size=40)
    >>> narrow, wide = (y[:, None] + rng.normal(size=(40, 1)) + [-s, 0, s]
    ...                 for s in (0.1, 1.0))
    >>> X = np.hstack([narrow, wide])
    >>> ensemble = QuantileEnsemble([0.25, 0.5, 0.75]).fit(X, y)
    >>> bool(ensemble.weights_[1] > ensemble.weights_[0])
    True
    >>> ensemble.predict(X[:2]).shape
    (2, 3)
    """

    def __init__(
        self,
        levels: Any,
        *,
        rule: Any = "linear_pool",
        weights: Any = "convex",
        rule_params: Any = None,
        weights_params: Any = None,
        cv: Any = 5,
        crossing: Any = "raise",
    ) -> None:
        self.levels = levels
        self.rule = rule
        self.weights = weights
        self.rule_params = rule_params
        self.weights_params = weights_params
        self.cv = cv
        self.crossing = crossing

    def fit(
        self, X: Any, y: Any, sample_weight: Any = None, *, groups: Any = None
    ) -> QuantileEnsemble:
        """Learn the weights of the members.

        Parameters
        ----------
        X : array-like of shape (n_units, n_members * n_levels) or \
                (n_units, n_members, n_levels)
            Quantiles of the members, with the levels of a member side by side in 2-D
            arrays; NaN at all levels of a member that is absent from a unit. A stack of
            shape (n_members, n_units, n_levels) is ``stack.transpose(1, 0, 2)`` here.
        y : array-like of shape (n_units,)
            Outcomes.
        sample_weight : array-like of shape (n_units,) or None, default=None
            Weights of the units, e.g. the inverse loss of a baseline, so that large
            places do not dominate; None weights all units equally.
        groups : array-like of shape (n_units,) or None, default=None
            Groups of units for the splitter ``cv``.

        Returns
        -------
        self : QuantileEnsemble
            The fitted ensemble.

        Raises
        ------
        ValueError, TypeError
            If a parameter or the data are not valid, or a unit has no member.

        Warns
        -----
        UserWarning
            If learned weights do not beat the best member.
        """
        pool, levels = self._resolve_rule(), check_levels(self.levels)
        rule_params = check_mapping("rule_params", self.rule_params)
        pool.check_params(rule_params)
        X, y = validate_data(self, X, y, y_numeric=True, **CHECKS)
        stack = self._stack(X, levels)
        weights = check_weights_parameter(self.weights, pool, len(stack))
        params = check_mapping("weights_params", self.weights_params)
        splits: list[Split] = []
        if isinstance(weights, str):
            check_selection(weights, len(stack), params)
            routed = {} if groups is None else {"groups": groups}
            splits = make_splits(self.cv, X, y, classifier=False, params=routed)
        score = _score_of(pool, rule_params, levels, stack, y, sample_weight)
        losses = score.member_losses()
        self.scores_ = -losses @ score.unit_shares
        self.best_index_ = int(np.argmax(self.scores_))
        if isinstance(weights, str):
            learn = _learner(weights, params)
            objective = make_objective(score)
            selected = learn(objective)
            cross_fitted = _cross_fit(learn, objective, score, losses, splits)
            if cross_fitted is not None and len(stack) > 1:
                warn_if_no_gain(weights, *cross_fitted, str(self.best_index_))
        else:
            selected = resolve_weights(weights, len(stack), rule=pool.name, **params)
            cross_fitted = None
        self.oof_score_ = (cross_fitted or (score(selected.weights),))[0]
        self.levels_, self._pool, self._rule_params = levels, pool, rule_params
        self.weights_ = selected.weights / selected.weights.sum()
        self.history_ = selected.history
        return self

    def predict(self, X: Any) -> Any:
        """Pool the forecasts of the members.

        Parameters
        ----------
        X : array-like of shape (n_units, n_members * n_levels) or \
                (n_units, n_members, n_levels)
            Quantiles of the members, as in ``fit``.

        Returns
        -------
        ndarray of shape (n_units, n_levels), or (n_units,) for a single level
            Quantiles of the ensemble; float32 if X is, otherwise float64.

        Raises
        ------
        ValueError
            If the forecasts are not valid, or a unit has no member.
        """
        check_is_fitted(self, "weights_")
        X = validate_data(self, X, reset=False, **CHECKS)
        stack = self._stack(X, self.levels_)
        if len(stack) != len(self.weights_):
            raise ValueError(
                f"X must have the {len(self.weights_)} members of fit, found "
                f"{len(stack)} in an array of shape {X.shape}"
            )
        shares = share_weights(self.weights_, ~np.isnan(stack[..., 0]))
        pooled = self._pool.pool(stack, shares, self.levels_, self._rule_params)
        pooled = pooled.astype(X.dtype, copy=False)
        return pooled[:, 0] if np.ndim(self.levels) == 0 else pooled

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Score of the ensemble, as in ``scores_``; greater is better.

        Parameters
        ----------
        X : array-like of shape (n_units, n_members * n_levels) or \
                (n_units, n_members, n_levels)
            Quantiles of the members, as in ``fit``.
        y : array-like of shape (n_units,)
            Outcomes.
        sample_weight : array-like of shape (n_units,) or None, default=None
            Weights of the units; None weights all units equally.

        Returns
        -------
        float
        """
        check_is_fitted(self, "weights_")
        X, y = validate_data(self, X, y, reset=False, y_numeric=True, **CHECKS)
        score = _score_of(
            self._pool,
            self._rule_params,
            self.levels_,
            self._stack(X, self.levels_),
            y,
            sample_weight,
        )
        return score(self.weights_)

    def _resolve_rule(self) -> Pool:
        if isinstance(self.rule, Pool):
            return self.rule
        return lookup(POOLS, self.rule)

    def _stack(self, X: Any, levels: Float64) -> Float64:
        """Validated forecasts of shape (n_members, n_units, n_levels)."""
        n_levels = len(levels)
        if X.ndim == 2 and X.shape[1] % n_levels == 0:
            X = X.reshape(len(X), -1, n_levels)
        if X.ndim != 3 or X.shape[2] != n_levels:
            raise ValueError(
                "X must have the shape (n_units, n_members * n_levels) or (n_units, "
                f"n_members, n_levels) with {n_levels} levels: found {X.shape}"
            )
        stack = X.transpose(1, 0, 2)
        stack = check_quantiles(stack, levels, crossing=self.crossing)
        check_present(~np.isnan(stack[..., 0]))
        return stack

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = tags.input_tags.three_d_array = True
        # Columns that are not forecasts of y cannot be pooled to one.
        tags.regressor_tags.poor_score = True
        return tags


def _score_of(
    pool: Pool,
    params: dict[str, Any],
    levels: Float64,
    stack: Float64,
    y: Any,
    sample_weight: Any,
) -> PoolScore:
    """Score of the pool's forecasts of the outcomes y."""
    weight = np.ones(len(y))
    if sample_weight is not None:
        weight = check_sample_weight(sample_weight, len(y))
    outcomes = np.asarray(y, np.float64)
    return PoolScore(pool, params, levels, stack=stack, y=outcomes, unit_weights=weight)


def _learner(weights: str, params: dict[str, Any]) -> Learn:
    """Function from an objective to the weights that a selection chooses by it."""

    def learn(objective: PoolScore) -> SelectionResult:
        n_members = len(objective.stack)
        return run_selection(SELECTIONS[weights], n_members, objective, **params)

    return learn


def _cross_fit(
    learn: Learn,
    objective: PoolScore,
    score: PoolScore,
    losses: Float64,
    splits: Sequence[Split],
) -> tuple[float, float] | None:
    """Mean scores over folds of weights, and of the best member, of the other folds."""
    sizes, scores = [], []
    for train, test in splits:
        size = score.unit_weights[test].sum()
        if not (size > 0 and score.unit_weights[train].any()):
            continue
        selected = learn(objective.subset(train))
        held_out = score.subset(test)
        best = np.argmin(losses[:, train] @ score.unit_weights[train])
        best_score = -float(losses[best, test] @ held_out.unit_shares)
        scores.append((held_out(selected.weights), best_score))
        sizes.append(size)
    if not sizes:
        return None
    value, best_value = np.average(scores, axis=0, weights=sizes).tolist()
    return value, best_value
