"""An ensemble of regressors."""

from __future__ import annotations

from typing import Any

from sklearn.base import RegressorMixin

from ensembles.predictions.base import Ensemble
from ensembles.predictions.combiners.builtin import combiner_of
from ensembles.predictions.combiners.combiner import Combiner
from ensembles.predictions.members.fitting import Named
from ensembles.predictions.members.outputs import Values
from ensembles.predictions.members.targets import values_of
from ensembles.predictions.preconditions import check_rule_name


class EnsembleRegressor(RegressorMixin, Ensemble):
    """Regressor that combines what its members predict.

    With the defaults, members are weighed by how well they predict data that they
    were not fitted on, in five folds: the weighted mean of least squared error, with
    weights that are not negative. Then they are fitted on all of the data, so that
    each member is fitted six times; with ``weights=None`` or given weights once.

    Parameters
    ----------
    estimators : list of (str, regressor)
        The members; ``"drop"`` in place of one leaves it out.
    rule : str, default="mean"
        How members are combined: ``"mean"``, ``"median"`` or another elementwise rule
        of `ensembles.rules.RULES`; ``"quantile_mean"`` for members whose outputs are
        quantiles.
    weights : array-like of shape (n_members,), str or None, default="convex"
        How much each member counts. None counts all alike. ``"convex"``, ``"greedy"``,
        ``"greedy_soup"``, ``"top_k"``, ``"best"`` and ``"optuna"`` learn the weights
        out of fold.
    params : dict or None, default=None
        Parameters of the rule and of the selection.
    cv : int, splitter, iterable of splits or "prefit", default=5
        How data are held out where something is learned from them. With "prefit"
        members are fitted already, and ``fit`` gets data that none of them has seen.
    scoring : str, callable or None, default=None
        What selections maximise; None is the negative mean squared error.
    on_error : {"raise", "drop"}, default="raise"
        What to do where a member fails in ``fit`` or ``predict``: "drop" goes on
        without it, and warns.
    memory : None, str or joblib.Memory, default=None
        Where fitted members are kept, as in `sklearn.pipeline.Pipeline`.
    keep_oof : bool, default=True
        Whether the fitted ensemble keeps ``oof_``, which takes most of its memory and
        of its pickle.
    n_jobs : int or None, default=None
        Members that are fitted, or asked, at the same time.
    random_state : int, Generator or None, default=None
        Draws the bags of ``weights="greedy"``.

    Attributes
    ----------
    estimators_ : list of regressors
        Members fitted on all of the data.
    named_estimators_ : Bunch
    weights_ : ndarray of shape (n_members,)
    oof_ : ndarray of shape (n_members, n_samples, n_outputs)
        Out-of-fold predictions, where something was learned; NaN where a sample was
        never held out.
    scores_, best_index_, oof_score_, history_
        As in `EnsembleClassifier`.

    References
    ----------
    Breiman (1996), "Stacked regressions", Machine Learning 24: weights that are not
    negative, by least squares out of fold.

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
        """Combined predictions.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples,), or (n_samples, n_outputs or n_quantiles)
            float32 where all members answer in it, else float64.
        """
        answer = self._answer(X)
        return self._combination.answers.result(answer)

    def _combiner(self) -> Combiner:
        check_rule_name(self.rule)
        combiner = combiner_of(self.rule, of="values")
        if combiner.takes not in ("values", "quantiles"):
            raise ValueError(
                f"rule {combiner.name!r} combines {combiner.takes} of classes; a "
                "regressor takes mean, median, trimmed_mean, minimum, maximum and "
                "their kind"
            )
        unscored = isinstance(self.weights, str) and self.scoring is None
        if combiner.takes == "quantiles" and unscored:
            raise ValueError(
                f"weights={self.weights!r} of quantiles must have a scoring that knows "
                "which quantiles they are, found None; or give weights=None"
            )
        return combiner

    def _targets(self, y: Any, combiner: Combiner, fitted: Named) -> tuple[Values, Any]:
        return values_of(y, quantiles=combiner.takes == "quantiles")
