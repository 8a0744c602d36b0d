"""Ensemble of regressors."""

from __future__ import annotations

from typing import Any

from sklearn.base import RegressorMixin

from ensembles.predictions.base import BaseEnsemble
from ensembles.predictions.combiners.builtin import resolve_combiner
from ensembles.predictions.combiners.combiner import Combiner
from ensembles.predictions.members.fitting import Named
from ensembles.predictions.members.outputs import RegressionOutputs
from ensembles.predictions.members.targets import check_regression_targets
from ensembles.predictions.preconditions import check_rule_name


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
    rule : str, default="mean"
        Rule that combines the predictions: ``"mean"``, ``"median"`` or another
        elementwise rule in `ensembles.rules.RULES`; ``"quantile_mean"`` for members
        that predict quantiles.
    weights : array-like of shape (n_members,), str or None, default="convex"
        Weights of the members; None weights all members equally. ``"convex"``,
        ``"greedy"``, ``"greedy_soup"``, ``"top_k"``, ``"best"`` and ``"optuna"`` learn
        the weights out of fold.
    params : dict or None, default=None
        Parameters of the rule and of the selection; None means their defaults.
    cv : int, splitter, iterable of splits or "prefit", default=5
        Splits that hold data out to learn weights; an int is the number of folds. With
        "prefit" the members are fitted already, and ``fit`` must get data that none of
        them has seen.
    scoring : str, callable or None, default=None
        Score that selections maximize; None means the negative mean squared error.
    on_error : {"raise", "drop"}, default="raise"
        If a member fails in ``fit`` or ``predict``: raise its error, or leave it out
        with a warning.
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
    scores_, best_index_, oof_score_, history_
        As in `EnsembleClassifier`.

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
        params: Any = None,
        cv: Any = 5,
        scoring: Any = None,
        on_error: Any = "raise",
        memory: Any = None,
        keep_oof: Any = True,
        n_jobs: Any = None,
        random_state: Any = None,
    ) -> None:
        self.estimators = estimators
        self.rule = rule
        self.weights = weights
        self.params = params
        self.cv = cv
        self.scoring = scoring
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
        answer = self._answer(X)
        return self._combination.outputs.to_predictions(answer)

    def _combiner(self) -> Combiner:
        check_rule_name(self.rule)
        combiner = resolve_combiner(self.rule, of="values")
        if combiner.input not in ("values", "quantiles"):
            raise ValueError(
                f"rule {combiner.name!r} combines {combiner.input} of classes; a "
                "regressor takes mean, median, trimmed_mean, minimum, maximum and "
                "their kind"
            )
        unscored = isinstance(self.weights, str) and self.scoring is None
        if combiner.input == "quantiles" and unscored:
            raise ValueError(
                f"weights={self.weights!r} of quantiles must have a scoring that knows "
                "which quantiles they are, found None; or give weights=None"
            )
        return combiner

    def _targets(
        self, y: Any, combiner: Combiner, fitted: Named
    ) -> tuple[RegressionOutputs, Any]:
        return check_regression_targets(y, quantiles=combiner.input == "quantiles")
