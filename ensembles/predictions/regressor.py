"""Ensemble of regressors."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.utils.validation import check_is_fitted

from ensembles.predictions.base import BaseEnsemble
from ensembles.predictions.combiners.builtin import resolve_combiner
from ensembles.predictions.combiners.combiner import Combiner
from ensembles.predictions.fitting.preconditions import check_rule_name
from ensembles.predictions.fitting.weight_fitting import WeightFit
from ensembles.predictions.members.fitting import FittedMember, Named
from ensembles.predictions.members.out_of_fold import OutOfFold
from ensembles.predictions.members.outputs import OutputSpec, check_regression_targets
from ensembles.predictions.uncertainty import (
    Uncertainty,
    decompose_variance,
    predict_moments,
)


class EnsembleRegressor(RegressorMixin, BaseEnsemble):
    """Regressor that combines the predictions of its members.

    With the defaults, the result is a weighted mean with non-negative weights that
    minimize the squared error of out-of-fold predictions in five folds. Then the
    members are fitted on all data, so that each member is fitted six times; with
    ``weights=None`` or given weights, once.

    Parameters
    ----------
    estimators : list of (str, regressor)
        Members by name; ``"drop"`` in place of a regressor leaves it out.
    rule : str, Combiner or Rule, default="mean"
        Rule that combines the predictions: ``"mean"``, ``"median"`` or another
        elementwise rule in `ensembles.rules.RULES`; ``"quantile_mean"`` for members
        that predict quantiles; or the entry itself.
    weights : array-like of shape (n_members,), str or None, default="convex"
        Weights of the members; None weights all members equally. ``"convex"``,
        ``"greedy"``, ``"greedy_soup"``, ``"top_k"``, ``"best"``, ``"optuna"``,
        ``"windows"`` and ``"listed"`` learn the weights out of fold.
    rule_params : dict or None, default=None
        Parameters of the rule, e.g. ``{"proportion": 0.1}`` for ``"trimmed_mean"``;
        None means its defaults.
    weights_params : dict or None, default=None
        Parameters of the selection that ``weights`` names, e.g. ``{"n_bags": 20}`` for
        ``"greedy"``; None means its defaults.
    cv : int, splitter, iterable of splits or "prefit", default=5
        Splits that hold data out to learn weights; an int is the number of folds. With
        "prefit" the members are fitted already, and ``fit`` must get data that none of
        them has seen.
    scoring : str, callable or None, default=None
        Score that selections maximize; None means the negative mean squared error.
    final_estimator : regressor or None, default=None
        Second layer, fitted on the members' out-of-fold predictions as in
        `sklearn.ensemble.StackingRegressor`. It is compared with the weights on
        held-out rows in nested folds, and predicts in their place if it scores higher.
        Folds must have at least 10 rows on average: in small folds, out-of-fold
        predictions reveal part of the targets, and scores are too high. None uses the
        weights.
    on_error : {"raise", "drop"}, default="raise"
        If a member fails in ``fit`` or ``predict``: raise its error, or leave it out
        with a warning. A final estimator cannot predict without one of its members.
    memory : None, str or joblib.Memory, default=None
        Cache of the fitted members, as in `sklearn.pipeline.Pipeline`; None means no
        cache.
    keep_oof : bool, default=True
        Whether the fitted ensemble keeps ``oof_``, which takes most of its memory and
        of its pickle.
    n_jobs : int or None, default=None
        Number of members that are fitted, or predict, in parallel, as in joblib. None
        means 1, unless a `joblib.parallel_config` context sets another number.
    random_state : int, Generator, RandomState or None, default=None
        Seed or generator of the selection: the bags of ``"greedy"``, and the sampler of
        ``"optuna"``, which takes only an int. None gives different draws in each fit.

    Attributes
    ----------
    estimators_ : list of regressors
        Members fitted on all data.
    named_estimators_ : Bunch
        Fitted members by name.
    weights_ : ndarray of shape (n_members,)
        Weights of the members.
    oof_ : ndarray of shape (n_members, n_samples, n_outputs) or None
        Out-of-fold predictions of the members; NaN for samples that no split holds out.
        None if no weights are learned, or without ``keep_oof``.
    scores_ : ndarray of shape (n_members,) or None
        Out-of-fold score of each member alone. None if no weights are learned.
    best_index_ : int or None
        Index of the member with the highest score; None without ``scores_``.
    oof_score_ : float or None
        Out-of-fold score of the ensemble; None without ``scores_``. Learned weights are
        cross-fitted: each fold is scored with weights learned on the other folds. The
        score can be less than the maximum of ``scores_``, which is selected on the rows
        that it is computed on.
    history_ : tuple of Trial
        Weights and score of each step of the selection, on the rows that it learned
        from. Empty if no weights are learned.
    final_estimator_ : regressor, list of such or None
        Final estimator, fitted on the out-of-fold predictions; None if the weights
        score higher, or without ``final_estimator``.
    n_features_in_ : int
        Number of features seen in ``fit``; only if X has columns.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features seen in ``fit``; only if X has names that are all strings.

    See Also
    --------
    EnsembleClassifier : Ensemble of classifiers.
    sklearn.ensemble.VotingRegressor : Mean with given weights.
    sklearn.ensemble.StackingRegressor : A regressor fitted on out-of-fold predictions.

    References
    ----------
    Breiman (1996), "Stacked regressions", Machine Learning 24: non-negative
    least squares on out-of-fold predictions.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.linear_model import Ridge
    >>> from sklearn.neighbors import KNeighborsRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> members = [("ridge", Ridge(0.1)), ("near", KNeighborsRegressor(20))]
    >>> ensemble = EnsembleRegressor(members).fit(X, y)
    >>> bool(ensemble.oof_score_ > ensemble.scores_.max())
    True
    """

    def __init__(
        self,
        estimators: Any,
        *,
        rule: Any = "mean",
        weights: Any = "convex",
        rule_params: Any = None,
        weights_params: Any = None,
        cv: Any = 5,
        scoring: Any = None,
        final_estimator: Any = None,
        on_error: Any = "raise",
        memory: Any = None,
        keep_oof: Any = True,
        n_jobs: Any = None,
        random_state: Any = None,
    ) -> None:
        self.estimators = estimators
        self.rule = rule
        self.weights = weights
        self.rule_params = rule_params
        self.weights_params = weights_params
        self.cv = cv
        self.scoring = scoring
        self.final_estimator = final_estimator
        self.on_error = on_error
        self.memory = memory
        self.keep_oof = keep_oof
        self.n_jobs = n_jobs
        self.random_state = random_state

    def predict(self, X: Any) -> Any:
        """Predict with the members and combine their predictions.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Samples, passed to the members unchanged.

        Returns
        -------
        ndarray of shape (n_samples,), or (n_samples, n_outputs or n_quantiles)
            float32 if all members predict float32, otherwise float64.
        """
        predictions = self._combined_predictions(X)
        return self._fitted_combiner.outputs.to_targets(predictions)

    def predict_uncertainty(self, X: Any) -> Uncertainty:
        """Predict the variance of the target, split into noise and disagreement.

        The members are mixed by their weights, whatever the rule; see
        `decompose_variance`. The variance of a member is the square of its standard
        deviation, if its ``predict`` has ``return_std``, as that of
        `sklearn.gaussian_process.GaussianProcessRegressor` has. Otherwise it is the
        mean squared out-of-fold error of the member, the same for all rows; if nothing
        was learned out of fold, the total and the aleatoric part are NaN.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Samples, passed to the members unchanged.

        Returns
        -------
        Uncertainty
            Total, aleatoric and epistemic variance, of shape (n_samples,) or
            (n_samples, n_outputs).

        Raises
        ------
        ValueError
            If a weight is negative, or the members predict quantiles.
        """
        check_is_fitted(self)
        combiner = self._fitted_combiner
        if combiner.combiner.input == "quantiles":
            raise ValueError(
                "members must predict values to split their variance: those of rule "
                f"{combiner.combiner.name!r} are quantiles"
            )
        indices, results = self._member_predictions(X, predict_moments)
        means, variances = (np.array(part) for part in zip(*results, strict=True))
        for index, variance in zip(indices, variances, strict=True):
            variance[np.isnan(variance).all(axis=1)] = self._squared_errors[index]
        parts = decompose_variance(means, variances, self.weights_[indices])
        return Uncertainty(*(combiner.outputs.to_targets([part]) for part in parts))

    def _set_fitted(
        self,
        members: list[FittedMember],
        fit: WeightFit,
        out_of_fold: OutOfFold | None,
        X: Any,
    ) -> None:
        super()._set_fitted(members, fit, out_of_fold, X)
        self._squared_errors: Any = np.full(len(members), np.nan)
        if out_of_fold is not None:
            held_out = out_of_fold.subset(out_of_fold.was_held_out)
            y = np.asarray(held_out.y).reshape(len(held_out.y), -1)
            errors = (held_out.stacks[0] - y) ** 2
            weight = held_out.sample_weight
            self._squared_errors = np.average(errors, axis=1, weights=weight)

    def _resolve_combiner(self) -> Combiner:
        check_rule_name(self.rule)
        combiner = resolve_combiner(self.rule, of="values")
        if combiner.input not in ("values", "quantiles"):
            raise ValueError(
                f"rule {combiner.name!r} combines {combiner.input} of classes, which "
                "regressors do not predict; use a rule of values, such as mean, "
                "median, trimmed_mean, minimum or maximum"
            )
        has_selection = isinstance(self.weights, str)
        if combiner.input == "quantiles" and has_selection and self.scoring is None:
            raise ValueError(
                f"scoring must be given to learn weights={self.weights!r} of "
                "quantiles, because the default score does not know which quantiles "
                "they are; pass a scorer, or weights=None"
            )
        return combiner

    def _check_targets(
        self, y: Any, combiner: Combiner, fitted: Named
    ) -> tuple[OutputSpec, Any]:
        return check_regression_targets(y, quantiles=combiner.input == "quantiles")
