"""Ensemble of classifiers."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.utils import get_tags

from ensembles._sklearn import check_choice
from ensembles.predictions.base import BaseEnsemble
from ensembles.predictions.calibration.calibrator import METHODS
from ensembles.predictions.combiners.builtin import resolve_combiner
from ensembles.predictions.combiners.combiner import Combiner
from ensembles.predictions.fitting.preconditions import check_rule_name
from ensembles.predictions.fitting.weight_fitting import WeightFit, WeightSettings
from ensembles.predictions.members.fitting import FittedMember, Named
from ensembles.predictions.members.out_of_fold import OutOfFold
from ensembles.predictions.members.outputs import OutputSpec, check_class_targets
from ensembles.predictions.thresholds.learning import (
    check_thresholds,
    supports_thresholds,
)
from ensembles.predictions.uncertainty import Uncertainty, decompose_entropy


class EnsembleClassifier(ClassifierMixin, BaseEnsemble):
    """Classifier that combines the class probabilities of its members.

    With the defaults, out-of-fold predictions in five folds are used to learn a
    log-linear pool: one non-negative weight per member, whose sum sharpens or softens
    the result, and one intercept per class, which corrects a class prior that the
    members lack. Then the members are fitted on all data, so that each member is fitted
    six times. With ``weights=None`` or given weights, no ``calibrate`` and any rule but
    ``"rank_mean"``, a member with ``predict_proba`` is fitted once.

    Parameters
    ----------
    estimators : list of (str, classifier)
        Members by name; ``"drop"`` in place of a classifier leaves it out. For a member
        without ``predict_proba``, a logistic regression learned out of fold converts
        its ``decision_function`` to probabilities. A member whose ``fit`` rejects the
        labels, e.g. XGBoost, is fitted on the codes 0, …, n_classes - 1.
    rule : str, Combiner or Rule, default="log_pool"
        Rule that combines the predictions: ``"log_pool"``, ``"product"``, ``"mean"``
        (soft voting), ``"geometric_mean"``, ``"vote"`` (hard voting by the members'
        ``predict``), ``"borda"``, ``"rank_mean"``, or an elementwise rule in
        `ensembles.rules.RULES`, such as ``"median"``; or the entry itself.
    weights : array-like of shape (n_members,), str or None, default="convex"
        Weights of the members; None weights all members equally. Given weights of
        ``"log_pool"`` are divided by their sum; ``rule_params={"temperature": 0.5}``
        doubles them, which sharpens the result. A name learns the weights out of fold:
        ``"convex"``, ``"greedy"``, ``"greedy_soup"``, ``"top_k"``, ``"best"``,
        ``"optuna"``, ``"windows"``, ``"listed"``, and with ``"log_pool"`` also
        ``"free"``, weights of any sign.
    rule_params : dict or None, default=None
        Parameters of the rule, e.g. ``{"floor": 1e-6}``; None means its defaults,
        except that the floor of a learned pool is 0.002 / n_classes.
    weights_params : dict or None, default=None
        Parameters of the selection that ``weights`` names, e.g. ``{"n_bags": 20}`` for
        ``"greedy"``; None means its defaults.
    calibrate : {None, "temperature", "matrix", "isotonic", "sigmoid"}, default=None
        Calibration of each member and of the result, learned out of fold; None means no
        calibration. ``"matrix"`` scales and mixes the logarithms of the probabilities,
        with a penalty. With ``"vote"`` only the result is calibrated.
    cv : int, splitter, iterable of splits or "prefit", default=5
        Splits that hold data out to learn weights or calibration; an int is the number
        of folds. With "prefit" the members are fitted already, and ``fit`` must get
        data that none of them has seen: weights learned on the members' own training
        data favor members that overfit.
    scoring : str, callable or None, default=None
        Score that selections and ``thresholds`` maximize, as in scikit-learn, reported
        in ``scores_``, ``oof_score_`` and ``history_``; None means the negative
        log-loss. The weights ``"convex"`` and ``"free"`` of ``"log_pool"`` and
        ``"product"`` always minimize the log-loss; a scoring without learned thresholds
        is then only reported, with a warning. A callable is called with an estimator
        that returns the combined predictions, these predictions in place of X, and y.
    thresholds : {"auto"}, array-like of shape (n_classes,) or None, default="auto"
        Thresholds of the classes: ``predict`` returns the label with the largest
        quotient of probability and threshold. With two classes and the thresholds
        ``[1 - t, t]``, this is the second class if its probability exceeds ``t``.
        ``"auto"`` learns them out of fold if ``scoring`` is ``"balanced_accuracy"``,
        ``"f1"``, ``"f1_macro"``, ``"matthews_corrcoef"`` (or ``"mcc"``) or
        ``"accuracy"``, and uses none for other scores. None predicts the most probable
        label. A list of arrays for several targets.
    final_estimator : classifier or None, default=None
        Second layer, fitted on the members' out-of-fold predictions as in
        `sklearn.ensemble.StackingClassifier`. It is compared with the weights on
        held-out rows in nested folds, and predicts in their place if it scores higher.
        Folds must have at least 10 rows on average: in small folds, out-of-fold
        predictions reveal part of the targets, and scores are too high. None uses the
        weights.
    missing_class : {"error", "zero"}, default="error"
        If a member lacks a class: raise an error, or set its probability to 0.
    on_error : {"raise", "drop"}, default="raise"
        If a member fails in ``fit`` or ``predict``: raise its error, or leave it out
        with a warning. A final estimator cannot predict without one of its members.
    memory : None, str or joblib.Memory, default=None
        Cache of the fitted members, as in `sklearn.pipeline.Pipeline`; None means no
        cache. The key includes the member's name. With a cache, a search over rules and
        weights fits each member once per fold.
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
    estimators_ : list of classifiers
        Members fitted on all data. A member that has only ``decision_function``, or
        that was fitted on codes, is in a wrapper, whose ``estimator`` is the member.
    named_estimators_ : Bunch
        Fitted members by name.
    classes_ : ndarray of shape (n_classes,), or a list of such
        Sorted labels; a list for several targets. Members are aligned by label.
    weights_ : ndarray of shape (n_members,)
        Weights of the members; given weights of ``"log_pool"`` are divided by their
        sum.
    rule_params_ : dict
        Parameters of the rule: ``rule_params``, and the floor of a learned pool.
    intercept_ : ndarray of shape (n_classes,), a list of such, or None
        Intercepts that a learned pool adds to the logarithm of each class; None if no
        pool is learned.
    thresholds_ : ndarray of shape (n_classes,), a list of such, or None
        Thresholds of the classes, learned or given, with sum 1; None if ``predict``
        returns the most probable label.
    oof_ : ndarray of shape (n_members, n_samples, n_classes), a list of such, or None
        Out-of-fold probabilities of the members, before calibration; NaN for samples
        that no split holds out. None if nothing is learned out of fold, or without
        ``keep_oof``.
    scores_ : ndarray of shape (n_members,) or None
        Out-of-fold score of each member alone, after its calibration and the rule.
        None if nothing is learned out of fold.
    best_index_ : int or None
        Index of the member with the highest score; None without ``scores_``.
    oof_score_ : float or None
        Out-of-fold score of the ensemble, after calibration; None without ``scores_``.
        Learned weights and thresholds are cross-fitted: each fold is scored with those
        learned on the other folds. The score can be less than the maximum of
        ``scores_``, which is selected on the rows that it is computed on.
    history_ : tuple of Trial
        Weights and score of each step of the selection, on the rows that it learned
        from; for a learned pool: the learned weights, equal weights and the best
        member. Empty if no weights are learned.
    calibrators_ : list of n_members callables or None
        Calibrators of the members' probabilities, learned from all out-of-fold
        predictions; None for each member without ``calibrate``.
    calibrator_ : callable or None
        Calibrator of the combined probabilities; None without ``calibrate``.
    final_estimator_ : classifier, list of such or None
        Final estimator, fitted on the out-of-fold predictions, a list of one per
        output for several targets; None if the weights score higher, or without
        ``final_estimator``.
    n_features_in_ : int
        Number of features seen in ``fit``; only if X has columns.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features seen in ``fit``; only if X has names that are all strings.

    See Also
    --------
    EnsembleRegressor : Ensemble of regressors.
    sklearn.ensemble.VotingClassifier : Hard or soft voting with given weights.
    sklearn.ensemble.StackingClassifier : A classifier fitted on out-of-fold
        predictions.

    Notes
    -----
    A log-linear pool with learned weights is a multinomial logistic regression on the
    logarithms of the members' probabilities, with one coefficient per member. A ridge
    penalty shrinks the weights towards equal weights and the intercepts towards zero.
    Probabilities below a floor are raised to it, because members such as forests
    predict 0 from few votes.
    The learned pool is compared with equal weights and with the best member; the one
    with the least out-of-fold log-loss is used.

    References
    ----------
    Satopää et al. (2014), "Combining multiple probability predictions using a simple
    logit model", International Journal of Forecasting 30; Caruana et al. (2004),
    "Ensemble selection from libraries of models", ICML; Wolpert (1992), "Stacked
    generalization", Neural Networks 5, for learning from out-of-fold predictions.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.naive_bayes import GaussianNB
    >>> X, y = load_iris(return_X_y=True)
    >>> members = [("lr", LogisticRegression(max_iter=1000)), ("nb", GaussianNB())]
    >>> ensemble = EnsembleClassifier(members).fit(X, y)
    >>> bool(ensemble.oof_score_ >= ensemble.scores_.max())
    True
    """

    def __init__(
        self,
        estimators: Any,
        *,
        rule: Any = "log_pool",
        weights: Any = "convex",
        rule_params: Any = None,
        weights_params: Any = None,
        calibrate: Any = None,
        cv: Any = 5,
        scoring: Any = None,
        thresholds: Any = "auto",
        final_estimator: Any = None,
        missing_class: Any = "error",
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
        self.calibrate = calibrate
        self.cv = cv
        self.scoring = scoring
        self.thresholds = thresholds
        self.final_estimator = final_estimator
        self.missing_class = missing_class
        self.on_error = on_error
        self.memory = memory
        self.keep_oof = keep_oof
        self.n_jobs = n_jobs
        self.random_state = random_state

    def predict(self, X: Any) -> Any:
        """Predict the labels whose probabilities are largest for their ``thresholds_``.

        Without thresholds, these are the most probable labels. Ties go to the first of
        ``classes_``.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Samples, passed to the members unchanged.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs)
        """
        predictions = self._combined_predictions(X)
        return self._fitted_combiner.outputs.to_targets(predictions)

    def predict_proba(self, X: Any) -> Any:
        """Predict class probabilities; each row sums to 1. Thresholds do not matter.

        Rules that count votes or ranks, such as ``"vote"``, return shares of the votes
        or of the ranks.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Samples, passed to the members unchanged.

        Returns
        -------
        ndarray of shape (n_samples, n_classes), or a list of such, one per output
            float32 if all members predict float32, otherwise float64.
        """
        predictions = self._combined_predictions(X)
        is_list = self._fitted_combiner.outputs.multioutput
        return predictions if is_list else predictions[0]

    def predict_uncertainty(self, X: Any) -> Uncertainty:
        """Predict the entropy of the class, split into noise and disagreement.

        The members are mixed by their weights, whatever the rule: the total is the
        entropy of the weighted mean of their calibrated probabilities. See
        `decompose_entropy`. All predictions are in memory.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Samples, passed to the members unchanged.

        Returns
        -------
        Uncertainty
            Total, aleatoric and epistemic part in nats, of shape (n_samples,), or
            (n_samples, n_outputs) for several targets.

        Raises
        ------
        ValueError
            If a weight is negative.
        """
        indices, results = self._member_predictions(X)
        outputs = self._fitted_combiner.outputs
        parts = []
        for stack in zip(*results, strict=True):
            members = [outputs.finalize(rows.astype(np.float64)) for rows in stack]
            parts.append(decompose_entropy(members, self.weights_[indices]))
        columns = [np.column_stack(part) for part in zip(*parts, strict=True)]
        return Uncertainty(*(c if outputs.multioutput else c[:, 0] for c in columns))

    def _resolve_combiner(self) -> Combiner:
        check_rule_name(self.rule)
        combiner = resolve_combiner(self.rule)
        if combiner.input == "quantiles":
            raise ValueError(
                f"rule {combiner.name!r} combines quantiles, which classifiers do not "
                "predict; use it in EnsembleRegressor"
            )
        return combiner

    def _calibration_method(self) -> str | None:
        method: str | None = self.calibrate
        check_choice("calibrate", method, (None, *METHODS))
        return method

    def _check_targets(
        self, y: Any, combiner: Combiner, fitted: Named
    ) -> tuple[OutputSpec, Any]:
        check_choice("missing_class", self.missing_class, ("error", "zero"))
        voting = combiner.input == "labels"
        outputs, y = check_class_targets(
            y, fitted, voting=voting, missing_class=self.missing_class
        )
        thresholds = check_thresholds(self.thresholds, outputs)
        return outputs._replace(thresholds=thresholds), y

    def _with_thresholds(
        self, settings: WeightSettings, outputs: OutputSpec
    ) -> WeightSettings:
        learns = isinstance(self.thresholds, str)
        learns = learns and supports_thresholds(settings.scoring, outputs)
        return settings._replace(learn_thresholds=learns)

    def _set_fitted(
        self,
        members: list[FittedMember],
        fit: WeightFit,
        out_of_fold: OutOfFold | None,
        X: Any,
    ) -> None:
        super()._set_fitted(members, fit, out_of_fold, X)
        outputs: Any = fit.combiner.outputs
        classes, intercepts = outputs.classes, fit.combiner.intercepts
        self.classes_: Any = classes if outputs.multioutput else classes[0]
        self.rule_params_: Any = fit.combiner.params
        self.intercept_: Any = intercepts
        if intercepts is not None and len(intercepts) == 1:
            self.intercept_ = intercepts[0]
        self.thresholds_: Any = outputs.thresholds
        if outputs.thresholds is not None and not outputs.multioutput:
            self.thresholds_ = outputs.thresholds[0]
        self.calibrators_, self.calibrator_ = fit.calibrators, fit.calibrator

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        members = [m for _, m in self._pairs() if hasattr(m, "__sklearn_tags__")]
        member_tags = [get_tags(member).classifier_tags for member in members]
        classifiers = [member for member in member_tags if member is not None]
        tags.classifier_tags.multi_class = all(m.multi_class for m in classifiers)
        tags.classifier_tags.multi_label = all(m.multi_label for m in classifiers)
        return tags
