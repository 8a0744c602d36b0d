"""Ensemble of classifiers."""

from __future__ import annotations

from typing import Any

from sklearn.base import ClassifierMixin
from sklearn.utils import get_tags

from ensembles.predictions.base import BaseEnsemble
from ensembles.predictions.combiners.builtin import resolve_combiner
from ensembles.predictions.combiners.combiner import Combiner
from ensembles.predictions.members.fitting import Named
from ensembles.predictions.members.outputs import ClassOutputs
from ensembles.predictions.members.targets import check_class_targets
from ensembles.predictions.preconditions import check_rule_name


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
    rule : str, default="log_pool"
        Rule that combines the predictions: a name in `ensembles.predictions.COMBINERS`,
        or an elementwise rule in `ensembles.rules.RULES`. ``"mean"`` is soft voting,
        ``"vote"`` is hard voting by the members' ``predict``.
    weights : array-like of shape (n_members,), str or None, default="convex"
        Weights of the members; None weights all members equally. Given weights of
        ``"log_pool"`` are divided by their sum; ``params={"temperature": 0.5}`` doubles
        them, which sharpens the result. A name learns the weights out of fold:
        ``"convex"``, ``"greedy"``, ``"greedy_soup"``, ``"top_k"``, ``"best"``,
        ``"optuna"``, and with ``"log_pool"`` also ``"free"``, weights of any sign.
    params : dict or None, default=None
        Parameters of the rule and of the selection, e.g. ``{"n_bags": 20}``. None means
        their defaults.
    calibrate : {None, "temperature", "isotonic", "sigmoid"}, default=None
        Calibration of each member and of the result, learned out of fold; None means no
        calibration. With ``"vote"`` only the result is calibrated.
    cv : int, splitter, iterable of splits or "prefit", default=5
        Splits that hold data out to learn weights or calibration; an int is the number
        of folds. With "prefit" the members are fitted already, and ``fit`` must get
        data that none of them has seen: weights learned on the members' own training
        data favor members that overfit.
    scoring : str, callable or None, default=None
        Score that selections maximize, as in scikit-learn, reported in ``scores_``,
        ``oof_score_`` and ``history_``; None means the negative log-loss. The weights
        ``"convex"`` and ``"free"`` of ``"log_pool"`` and ``"product"`` always minimize
        the log-loss; another scoring is only reported, with a warning. A callable gets
        an estimator that predicts the combination, its predictions in place of X,
        and y.
    missing_class : {"error", "zero"}, default="error"
        If a member lacks a class: raise an error, or set its probability to 0.
    on_error : {"raise", "drop"}, default="raise"
        If a member fails in ``fit`` or ``predict``: raise its error, or leave it out
        with a warning.
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
        Members fitted on all data.
    named_estimators_ : Bunch
        Fitted members by name.
    classes_ : ndarray of shape (n_classes,), or a list of such
        Sorted labels; a list for several targets. Members are aligned by label.
    weights_ : ndarray of shape (n_members,)
        Weights of the members; given weights of ``"log_pool"`` are divided by their
        sum.
    intercept_ : ndarray of shape (n_classes,), a list of such, or None
        Intercepts that a learned pool adds to the logarithm of each class; None if no
        pool is learned.
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
        Learned weights are cross-fitted: each fold is scored with weights learned on
        the other folds. The score can be less than the maximum of ``scores_``, which
        is selected on the rows that it is computed on.
    history_ : tuple of Trial
        Weights and score of each step of the selection, on the rows that it learned
        from; for a learned pool: the learned weights, equal weights and the best
        member.

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
        params: Any = None,
        calibrate: Any = None,
        cv: Any = 5,
        scoring: Any = None,
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
        self.params = params
        self.calibrate = calibrate
        self.cv = cv
        self.scoring = scoring
        self.missing_class = missing_class
        self.on_error = on_error
        self.memory = memory
        self.keep_oof = keep_oof
        self.n_jobs = n_jobs
        self.random_state = random_state

    def predict(self, X: Any) -> Any:
        """Predict the most probable labels; ties go to the first of ``classes_``.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Samples, passed to the members unchanged.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs)
        """
        answer = self._answer(X)
        return self._combination.outputs.to_predictions(answer)

    def predict_proba(self, X: Any) -> Any:
        """Predict class probabilities; each row sums to 1.

        For rules that count votes or ranks, such as ``"vote"``, they are shares of the
        votes or of the ranks.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Samples, passed to the members unchanged.

        Returns
        -------
        ndarray of shape (n_samples, n_classes), or a list of such, one per output
            float32 if all members predict float32, otherwise float64.
        """
        answer = self._answer(X)
        return answer if self._combination.outputs.several else answer[0]

    def _combiner(self) -> Combiner:
        check_rule_name(self.rule)
        combiner = resolve_combiner(self.rule)
        if combiner.input == "quantiles":
            raise ValueError(
                f"rule {combiner.name!r} combines quantiles, which regressors predict; "
                "found it in a classifier"
            )
        return combiner

    def _targets(
        self, y: Any, combiner: Combiner, fitted: Named
    ) -> tuple[ClassOutputs, Any]:
        voting = combiner.input == "labels"
        labels, y = check_class_targets(
            y, fitted, voting=voting, missing=self.missing_class
        )
        self.classes_: Any = labels.classes if labels.several else labels.classes[0]
        return labels, y

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        telling = [m for _, m in self._pairs() if hasattr(m, "__sklearn_tags__")]
        members = [get_tags(member) for member in telling]
        known = [tag.classifier_tags for tag in members if tag.classifier_tags]
        tags.classifier_tags.multi_class = all(tag.multi_class for tag in known)
        tags.classifier_tags.multi_label = all(tag.multi_label for tag in known)
        return tags
