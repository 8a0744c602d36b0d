"""An ensemble of classifiers."""

from __future__ import annotations

from typing import Any

from sklearn.base import ClassifierMixin
from sklearn.utils import get_tags

from ensembles.predictions.base import Ensemble
from ensembles.predictions.combiners.builtin import combiner_of
from ensembles.predictions.combiners.combiner import Combiner
from ensembles.predictions.members.fitting import Named
from ensembles.predictions.members.outputs import Labels
from ensembles.predictions.members.targets import labels_of
from ensembles.predictions.preconditions import check_rule_name


class EnsembleClassifier(ClassifierMixin, Ensemble):
    """Classifier that combines its members' class probabilities.

    With the defaults, members are weighed by how well they predict data that they
    were not fitted on, in five folds: a log-linear pool with one non-negative weight
    per member, whose sum sharpens or softens the result, and one intercept per class,
    which corrects a class prior that the members have not. Then they are fitted on all
    of the data, so that each member is fitted six times; with ``weights=None`` or
    given weights, and no ``calibrate``, once.

    Parameters
    ----------
    estimators : list of (str, classifier)
        The members; ``"drop"`` in place of one leaves it out. A member without
        ``predict_proba`` takes part by its ``decision_function``, which is turned into
        probabilities by a logistic regression that is learned out of fold. One that
        refuses the labels, as XGBoost does, is fitted to 0, …, n_classes - 1.
    rule : str, default="log_pool"
        How members are combined: a name of `COMBINERS`, or of `ensembles.rules.RULES`
        where the rule is elementwise. ``"mean"`` is soft voting, ``"vote"`` hard
        voting by the members' ``predict``.
    weights : array-like of shape (n_members,), str or None, default="convex"
        How much each member counts. None counts all alike. Given weights of
        ``"log_pool"`` are divided by their sum; ``params={"temperature": 0.5}`` makes
        the result twice as sharp. A name learns the weights out of fold:
        ``"convex"``, ``"greedy"``, ``"greedy_soup"``, ``"top_k"``, ``"best"``,
        ``"optuna"``, and with the log-linear pool also ``"free"``, weights of any sign.
    params : dict or None, default=None
        Parameters of the rule and of the selection, such as ``{"n_bags": 20}``.
    calibrate : {None, "temperature", "isotonic", "sigmoid"}, default=None
        Calibration of each member and of the result, learned out of fold.
    cv : int, splitter, iterable of splits or "prefit", default=5
        How data are held out where something is learned from them. With "prefit"
        members are fitted already, and ``fit`` gets data that none of them has seen:
        weights learned on members' own training data favour those that overfit.
    scoring : str, callable or None, default=None
        What selections maximise, as in scikit-learn, and what ``scores_``,
        ``oof_score_`` and ``history_`` are; None is the negative log-loss. Weights of
        ``"log_pool"`` and ``"product"`` that are ``"convex"`` or ``"free"`` are always
        those of the least log-loss; another scoring is reported and warned of. A
        callable is given an estimator that predicts the combination, and its
        predictions in place of X.
    missing_class : {"error", "zero"}, default="error"
        What to do with a member that does not know one of the classes: "zero" gives
        it no probability there.
    on_error : {"raise", "drop"}, default="raise"
        What to do where a member fails in ``fit`` or ``predict``: "drop" goes on
        without it, and warns.
    memory : None, str or joblib.Memory, default=None
        Where fitted members are kept by their names, as in
        `sklearn.pipeline.Pipeline`: a search over rules and weights fits each member
        once a fold.
    keep_oof : bool, default=True
        Whether the fitted ensemble keeps ``oof_``, which takes most of its memory and
        of its pickle.
    n_jobs : int or None, default=None
        Members that are fitted, or asked, at the same time.
    random_state : int, Generator, RandomState or None, default=None
        Draws the bags of ``weights="greedy"``.

    Attributes
    ----------
    estimators_ : list of classifiers
        Members fitted on all of the data.
    named_estimators_ : Bunch
    classes_ : ndarray of shape (n_classes,), or a list of such
        Labels, aligned by value.
    weights_ : ndarray of shape (n_members,)
        Given weights of ``"log_pool"`` as shares of their sum.
    intercept_ : ndarray of shape (n_classes,), a list of such, or None
        What a learned pool adds to the logarithm of each class; None where no pool was
        learned.
    oof_ : ndarray of shape (n_members, n_samples, n_classes), or a list of such
        Out-of-fold probabilities, where something was learned; NaN where a sample was
        never held out.
    scores_ : ndarray of shape (n_members,)
        Each member's own score out of fold, alone through the rule, where something
        was learned; calibrated where members are.
    best_index_ : int
        The member that scores best alone.
    oof_score_ : float
        Score of the combination by the same measure, calibrated where it is. Learned
        weights are scored fold by fold, by weights that were learned on the rows of
        the other folds; it may be less than the best of ``scores_``, which was picked.
    history_ : tuple of Trial
        Weights and score of each step of the selection, on the rows that it learned
        from; of a pool those learned, equal ones and the best member.

    References
    ----------
    Satopää et al. (2014), "Combining multiple probability predictions using a simple
    logit model", International Journal of Forecasting 30; Caruana et al. (2004),
    "Ensemble selection from libraries of models", ICML; Wolpert (1992), "Stacked
    generalization", Neural Networks 5, for learning out of fold.

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
        """Most probable labels; of equal ones the first of ``classes_``.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs)
        """
        answer = self._answer(X)
        return self._combination.answers.result(answer)

    def predict_proba(self, X: Any) -> Any:
        """Probabilities of the classes, each row's sum 1.

        Of rules that count votes or ranks, such as ``"vote"``, they are shares.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples, n_classes), or a list of such, one for each output
            float32 where all members answer in it, else float64.
        """
        answer = self._answer(X)
        return answer if self._combination.answers.several else answer[0]

    def _combiner(self) -> Combiner:
        check_rule_name(self.rule)
        combiner = combiner_of(self.rule)
        if combiner.takes == "quantiles":
            raise ValueError(
                f"rule {combiner.name!r} combines quantiles, which regressors predict; "
                "found it in a classifier"
            )
        return combiner

    def _targets(self, y: Any, combiner: Combiner, fitted: Named) -> tuple[Labels, Any]:
        voting = combiner.takes == "labels"
        labels, y = labels_of(y, fitted, voting=voting, missing=self.missing_class)
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
