"""Classifier that evaluates members in turn, until the class of a row is decided."""

from __future__ import annotations

import time
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils import _safe_indexing, indexable
from sklearn.utils.validation import _num_samples

from ensembles._sklearn import check_choice
from ensembles._typing import Counts, Float64
from ensembles.predictions.base import predict_member
from ensembles.predictions.classifier import EnsembleClassifier
from ensembles.predictions.combiners.builtin import COMBINERS
from ensembles.predictions.combiners.combiner import Combiner
from ensembles.predictions.fitting.fitted_combiner import FittedCombiner
from ensembles.predictions.fitting.preconditions import FREE
from ensembles.predictions.fitting.weight_fitting import WeightFit, WeightSettings
from ensembles.predictions.margins import (
    estimate_stopping,
    order_members,
    sample_rows,
)
from ensembles.predictions.members.fitting import FittedMember
from ensembles.predictions.members.named_estimators import check_features
from ensembles.predictions.members.out_of_fold import OutOfFold
from ensembles.predictions.members.outputs import Predictions
from ensembles.predictions.stopping import Cascade, CascadeRun

N_TIMED_ROWS = 1000


class CascadePrediction(NamedTuple):
    """Predicted labels, with the number of members that were evaluated.

    Parameters
    ----------
    labels : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        Predicted labels.
    n_members : ndarray of shape (n_samples,)
        Number of members evaluated for each row.
    cost_share : float
        Cost of these evaluations, as a share of the cost of all members with nonzero
        weight: of their time, with ``costs="time"``.
    """

    labels: Any
    n_members: Counts
    cost_share: float

    @property
    def mean_members(self) -> float:
        """Mean number of members evaluated for a row."""
        return float(self.n_members.mean())


class CascadeClassifier(EnsembleClassifier):
    """Ensemble whose members are evaluated in turn, until the class is decided.

    It is fitted as `EnsembleClassifier` is, and predicts the same labels with fewer
    predictions of the members. Members are evaluated in descending order of value for
    cost. A row stops as soon as the members that are left cannot change its class:
    then the labels are exactly those of the ensemble. With a margin, a row stops
    earlier, and some labels can differ from those of the ensemble.

    Parameters
    ----------
    estimators : list of (str, classifier)
        Members by name, as in `EnsembleClassifier`; ``"drop"`` in place of a classifier
        leaves it out.
    rule : str, Combiner or Rule, default="log_pool"
        Rule that combines the predictions. Without a margin, one that ranks the classes
        by a sum over the members: ``"log_pool"``, ``"product"``, ``"mean"``,
        ``"geometric_mean"`` or ``"vote"``; with a margin, any rule of
        `EnsembleClassifier`. The sums of ``"mean"`` and ``"vote"`` are decided
        earlier than those of logarithms, whose terms have a wider range.
    weights : array-like of shape (n_members,), str or None, default="convex"
        Weights of the members, or the name of a selection, as in `EnsembleClassifier`;
        None weights all members equally. Members with weight 0 are never evaluated.
    margin : float between 0 and 1, "auto" or None, default=None
        Value at which a row stops: the difference between the two largest probabilities
        of the members evaluated so far, times their share of the weight. ``"auto"``
        learns the smallest margin that keeps to ``tolerance`` out of fold. None stops
        if the class cannot change. With ``"mean"`` and ``"vote"``, a margin above
        0.5 evaluates more members than None.
    tolerance : float between 0 and 1, default=0.005
        Largest share of labels that ``margin="auto"`` may change.
    costs : array-like of shape (n_members,), "time" or None, default=None
        Cost of a prediction of each member, in any unit. ``"time"`` measures the
        members at the end of ``fit``, so that the order can differ between two fits.
        None means equal costs.
    rule_params : dict or None, default=None
        Parameters of the rule; None means its defaults. A larger ``floor`` narrows the
        range of the logarithms, so that the class is decided earlier.
    weights_params : dict or None, default=None
        Parameters of the selection that ``weights`` names; None means its defaults.
    cv : int, splitter, iterable of splits or "prefit", default=5
        Splits that hold data out to learn weights or the margin, as in
        `EnsembleClassifier`.
    scoring : str, callable or None, default=None
        Score that selections of weights and ``thresholds`` maximize; None means the
        negative log-loss.
    thresholds : {"auto"}, array-like of shape (n_classes,) or None, default="auto"
        Thresholds of the classes, learned for ``scoring`` or given, as in
        `EnsembleClassifier`; None predicts the most probable label. Margins are
        differences of probabilities that were divided by the thresholds, and scaled to
        sum 1.
    missing_class : {"error", "zero"}, default="error"
        If a member lacks a class: raise an error, or set its probability to 0.
    memory : None, str or joblib.Memory, default=None
        Cache of the fitted members; None means no cache.
    keep_oof : bool, default=True
        Whether the fitted ensemble keeps ``oof_``.
    n_jobs : int or None, default=None
        Number of members that are fitted in parallel, as in joblib; None means 1. A
        cascade evaluates members one after the other.
    random_state : int, Generator, RandomState or None, default=None
        Seed or generator of the selection of weights. None gives different draws in
        each fit.

    Attributes
    ----------
    estimators_ : list of classifiers
        Members fitted on all data.
    named_estimators_ : Bunch
        Fitted members by name.
    classes_ : ndarray of shape (n_classes,), or a list of such
        Sorted labels; a list for several targets.
    weights_ : ndarray of shape (n_members,)
        Weights of the members.
    order_ : ndarray of int
        Indices of the members with nonzero weight, in the order of evaluation.
    costs_ : ndarray of shape (n_members,)
        Costs of the members; seconds for a row with ``costs="time"``.
    margin_ : float or None
        Margin at which a row stops; infinite if no margin up to 1 keeps to the
        tolerance. None stops if the class cannot change.
    mean_members_ : float or None
        Mean number of members evaluated for an out-of-fold row; cross-fitted with
        ``margin="auto"``: each part of the rows is evaluated with the margin learned on
        the others. None if nothing is learned out of fold.
    cost_share_ : float or None
        Mean cost for an out-of-fold row, as a share of the cost of all members;
        cross-fitted as ``mean_members_``.
    changed_share_ : float or None
        Share of the out-of-fold rows whose label differs from that of all members;
        cross-fitted as ``mean_members_``. 0 without a margin.
    rule_params_ : dict
        Parameters of the rule: ``rule_params``, and the floor of a learned pool.
    intercept_ : ndarray of shape (n_classes,), a list of such, or None
        Intercepts of a learned pool, as in `EnsembleClassifier`.
    oof_ : ndarray of shape (n_members, n_samples, n_classes), a list of such, or None
        Out-of-fold probabilities of the members, as in `EnsembleClassifier`.
    scores_ : ndarray of shape (n_members,) or None
        Out-of-fold score of each member alone.
    best_index_ : int or None
        Index of the member with the highest score.
    oof_score_ : float or None
        Out-of-fold score of the ensemble of all members.
    history_ : tuple of Trial
        Weights and score of each step of the selection of weights.
    calibrators_ : list of None
        A cascade does not calibrate its members.
    calibrator_ : None
        A cascade does not calibrate its result.
    thresholds_ : ndarray of shape (n_classes,), a list of such, or None
        Thresholds of the classes; None if the most probable label is predicted.
    final_estimator_ : None
        A cascade has no second layer.
    n_features_in_ : int
        Number of features seen in ``fit``; only if X has columns.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features seen in ``fit``; only if X has names that are all strings.

    See Also
    --------
    EnsembleClassifier : Evaluates all members.

    Notes
    -----
    The labels are those of `EnsembleClassifier` if the prediction of a member for a row
    does not depend on the other rows that it gets.

    References
    ----------
    Wang, Kondratyuk, Christiansen, Kitani, Alon & Eban (2022), "Wisdom of committees:
    an overlooked approach to faster and more accurate models", ICLR; Fan, Wei, Yang &
    others (2018), "Quit when you can: efficient evaluation of ensembles with ordering
    optimization", arXiv:1806.11202, for orders of members with early stopping.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.tree import DecisionTreeClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> members = [(str(k), DecisionTreeClassifier(random_state=k)) for k in range(9)]
    >>> cascade = CascadeClassifier(members, rule="vote", weights=None)
    >>> prediction = cascade.fit(X[:900], y[:900]).predict_cascade(X[900:])
    >>> 5 <= prediction.mean_members < 7
    True
    """

    # Parameters of the ensemble that a cascade does not have.
    calibrate = None
    on_error = "raise"

    def __init__(
        self,
        estimators: Any,
        *,
        rule: Any = "log_pool",
        weights: Any = "convex",
        margin: Any = None,
        tolerance: Any = 0.005,
        costs: Any = None,
        rule_params: Any = None,
        weights_params: Any = None,
        cv: Any = 5,
        scoring: Any = None,
        thresholds: Any = "auto",
        missing_class: Any = "error",
        memory: Any = None,
        keep_oof: Any = True,
        n_jobs: Any = None,
        random_state: Any = None,
    ) -> None:
        self.estimators = estimators
        self.rule = rule
        self.weights = weights
        self.margin = margin
        self.tolerance = tolerance
        self.costs = costs
        self.rule_params = rule_params
        self.weights_params = weights_params
        self.cv = cv
        self.scoring = scoring
        self.thresholds = thresholds
        self.missing_class = missing_class
        self.memory = memory
        self.keep_oof = keep_oof
        self.n_jobs = n_jobs
        self.random_state = random_state

    def predict(self, X: Any) -> Any:
        """Predict the labels of the ensemble; ties go to the first of ``classes_``.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Samples, which must be indexable by row.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs)
        """
        return self.predict_cascade(X).labels

    def predict_cascade(self, X: Any) -> CascadePrediction:
        """Predict labels, and count the members that were evaluated.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Samples, which must be indexable by row.

        Returns
        -------
        CascadePrediction
            Labels, the number of members for each row, and their share of the cost.
        """
        run, labels = self._run(X)
        cost_share = self._mean_cost_share(run.n_members)
        return CascadePrediction(labels, run.n_members, cost_share)

    def predict_proba(self, X: Any) -> Any:
        """Predict class probabilities; each row sums to 1.

        Without a margin, all members are evaluated. With a margin, these are the
        combined probabilities of the members evaluated until the margin is reached,
        which are less certain than those of all members.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Samples, which must be indexable by row.

        Returns
        -------
        ndarray of shape (n_samples, n_classes), or a list of such, one per output
        """
        check_features(self, X)
        if self.margin_ is None:
            return super().predict_proba(X)
        y_proba = self._run(X)[0].scores
        return y_proba if self._fitted_combiner.outputs.multioutput else y_proba[0]

    def _run(self, X: Any) -> tuple[CascadeRun, Any]:
        """Run of the cascade, and its labels."""
        check_features(self, X)
        (X,) = indexable(X)
        n_samples = _num_samples(X)

        def predict(member: int, rows: Counts) -> Predictions:
            part = X if len(rows) == n_samples else _safe_indexing(X, rows)
            return predict_member(*self._member_args(member, part))

        combiner, order = self._fitted_combiner, self.order_.tolist()
        cascade = Cascade(combiner, self.weights_, order, self.margin_)
        run = cascade.run(predict, n_samples)
        return run, cascade.labels(run)

    def _mean_cost_share(self, n_members: Counts) -> float:
        """Mean cost of evaluated members, relative to that of all in the order."""
        totals = np.cumsum(self.costs_[self.order_])
        return float(totals[n_members - 1].mean() / totals[-1])

    def _check_parameters(
        self, combiner: Combiner, rule_params: dict[str, Any]
    ) -> WeightSettings:
        self._margin_value()
        _check_share("tolerance", self.tolerance)
        self._cost_values()
        if self.margin is None and combiner.terms is None:
            known = [name for name, entry in COMBINERS.items() if entry.terms]
            raise ValueError(
                "without a margin, the rule of a cascade must be one of "
                f"{', '.join(sorted(known))}: {combiner.name!r} does not rank the "
                "classes by a sum over the members; use margin='auto'"
            )
        settings = super()._check_parameters(combiner, rule_params)
        is_negative = settings.weights is not None and (
            settings.weights == FREE
            if isinstance(settings.weights, str)
            else (settings.weights < 0).any()
        )
        if is_negative and (self.margin is not None or not combiner.weight_sum_matters):
            raise ValueError(
                "weights of a cascade must not be negative with a margin, or with "
                f"rule {combiner.name!r}: found {self.weights!r}; use weights='convex'"
            )
        return settings

    def _margin_value(self) -> float | None:
        """Given margin; None if it is learned, or without a margin."""
        if self.margin is None:
            return None
        if isinstance(self.margin, str):
            check_choice("margin", self.margin, ("auto", None))
            return None
        return _check_share("margin", self.margin)

    def _cost_values(self) -> Float64 | None:
        """Given costs of all members; None if they are measured."""
        n_members = len(self.estimators)
        if self.costs is None:
            return np.ones(n_members)
        if isinstance(self.costs, str):
            check_choice("costs", self.costs, ("time", None))
            return None
        costs = np.asarray(self.costs, np.float64)
        is_positive = np.isfinite(costs).all() and (costs > 0).all()
        if costs.shape != (n_members,) or not is_positive:
            raise ValueError(
                "costs must be one positive number for each of the "
                f"{n_members} members, 'time' or None: found {self.costs!r}"
            )
        return costs

    def _learns(self, settings: WeightSettings, combiner: Combiner) -> bool:
        is_auto = isinstance(self.margin, str)
        return is_auto or super()._learns(settings, combiner)

    def _set_fitted(
        self,
        members: list[FittedMember],
        fit: WeightFit,
        out_of_fold: OutOfFold | None,
        X: Any,
    ) -> None:
        combiner, weights = fit.combiner, fit.selected.weights
        costs = self._cost_values()
        if costs is None:
            costs = measure_costs(members, combiner, X)
        else:
            names = [name for name, _ in self._pairs()]
            costs = costs[[names.index(member.name) for member in members]]
        sample = None if out_of_fold is None else sample_rows(out_of_fold)
        order = order_members(combiner, weights, costs, sample)
        cascade = Cascade(combiner, weights, order, self._margin_value())
        super()._set_fitted(members, fit, out_of_fold, X)
        self.order_, self.costs_ = np.array(order), costs
        self.margin_: float | None = cascade.margin
        self.mean_members_: float | None = None
        self.cost_share_: float | None = None
        self.changed_share_: float | None = None
        if sample is not None:
            tolerance = self.tolerance if isinstance(self.margin, str) else None
            estimate = estimate_stopping(cascade, sample, tolerance)
            self.margin_, self.changed_share_ = estimate.margin, estimate.changed_share
            self.mean_members_ = float(estimate.n_members.mean())
            self.cost_share_ = self._mean_cost_share(estimate.n_members)


def measure_costs(
    members: list[FittedMember], combiner: FittedCombiner, X: Any
) -> Float64:
    """Seconds for a prediction of each member, the least of three for some rows.

    Parameters
    ----------
    members : list of FittedMember
        Fitted members.
    combiner : FittedCombiner
        Format of the predictions.
    X : array-like of shape (n_samples, ...)
        Samples to predict, at most the first 1000.

    Returns
    -------
    ndarray of shape (n_members,)
    """
    n_rows = min(N_TIMED_ROWS, _num_samples(X))
    rows = _safe_indexing(X, np.arange(n_rows))

    def seconds(member: FittedMember) -> float:
        started = time.perf_counter()
        combiner.outputs.predict(member.name, member.estimator, rows)
        return max(time.perf_counter() - started, 1e-9)

    return np.array([min(seconds(m) for _ in range(3)) / n_rows for m in members])


def _check_share(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, found {value!r}")
    if not 0 <= float(value) <= 1:
        raise ValueError(f"{name} must be between 0 and 1, found {value!r}")
    return float(value)
