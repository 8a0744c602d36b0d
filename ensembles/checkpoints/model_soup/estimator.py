"""Model soups as scikit-learn estimators."""

from __future__ import annotations

import copy
from typing import Any

from sklearn.base import BaseEstimator, MetaEstimatorMixin, is_classifier
from sklearn.utils import get_tags
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from ensembles._sklearn import NestedParams, unwrap_frozen
from ensembles.checkpoints.model_soup.delegation import delegated, estimator_has
from ensembles.checkpoints.model_soup.merged_estimator import build_merged_estimator
from ensembles.checkpoints.model_soup.metadata_routing import MetadataRouting
from ensembles.checkpoints.model_soup.soup_score import (
    Part,
    no_grad,
    resolve_scorer,
    scoring_data,
    split_training_data,
)
from ensembles.checkpoints.model_soup.training import FitData, to_seed, train_members
from ensembles.checkpoints.model_soup.weight_selection import (
    check_parameters,
    check_targets,
    choose_weights,
)
from ensembles.checkpoints.planning.foreign_rules import resolve_rule


class ModelSoup(NestedParams, MetadataRouting, MetaEstimatorMixin, BaseEstimator):
    """Estimator whose parameters are a weighted combination of its members' parameters.

    Parameters
    ----------
    estimator : estimator, PyTorch module or FrozenEstimator
        Estimator that receives the combined parameters: a copy of it, or of the first
        member that is a fitted estimator of its type, with its settings.
    checkpoints : sequence or None, default=None
        The members: paths of checkpoints, fitted estimators or state dicts. With None,
        ``fit`` makes them by `train_members`: ``estimator`` is fitted once, unless it
        is frozen, and copies of it are trained further in different sample orders.
    rule : str or Rule, default="mean"
        Rule that combines the members: a name in `ensembles.rules.RULES`, or a rule.
        Rules with ``needs_base=True``, such as ``"ties"``, combine the differences of
        the members from ``base``.
    rule_params : dict or None, default=None
        Parameters of the rule, such as ``{"density": 0.2}`` of ``"ties"``; None means
        defaults. ``set_params`` and ``GridSearchCV`` take each of them, as
        ``rule_params__density``.
    weights : array-like of shape (n_members,), str or None, default=None
        Member weights; None weights all members equally. The name of a selection
        chooses the weights by their score on the data given to ``fit``, which must be
        unseen by the members: ``"greedy_soup"``, ``"greedy"``, ``"convex"``,
        ``"best"``, ``"top_k"``, ``"windows"``, ``"listed"``, ``"wise_ft"`` or
        ``"optuna"``. For PyTorch modules ``"convex"`` is the learned soup, by gradient.
        With a rule that needs a base, a single chosen member is used as it is, and the
        weights of several are scaled to a mean of 1.
    weights_params : dict or None, default=None
        Parameters of the selection, such as ``{"n_rounds": 20}`` of ``"greedy"``; None
        means defaults.
    base : path, fitted estimator, state dict or None, default=None
        Common ancestor of the fine-tuned members, which is not a member; required by
        rules with ``needs_base=True`` and by ``weights="wise_ft"``, else None.
    integers : {"error", "first", "max"}, default="error"
        How to resolve integer tensors that differ: raise an error, take those of the
        first member, or take the elementwise maximum.
    shared_init : {"error", "warn"} or None, default=None
        Whether networks that were not fine-tuned from the same initialization raise an
        error or a warning. None is "warn" with ``weights="wise_ft"``, which scores the
        base alone, and otherwise "error".
    finish : callable (estimator) or None, default=None
        Changes the estimator after each combination, e.g. to recompute BatchNorm
        statistics; None does nothing.
    on_error : {"raise", "drop"}, default="raise"
        Whether an error of the scorer is raised, or the combination counts as the
        worst, with a warning.
    n_members : int, default=5
        Number of members to train; ignored with ``checkpoints``.
    scoring : str, callable or None, default=None
        Score to maximize, as in scikit-learn; None is the estimator's ``score``. If
        set, given weights are scored too. A PyTorch module needs a callable
        ``(estimator, X, y) -> float``.
    cv : int, splitter, iterable of splits or None, default=None
        Splits of the samples; a score is the mean over the held-out sets. With
        checkpoints, None scores on all samples. If the soup trains its members, there
        must be exactly one split, and None holds out a fifth of the samples.
    device : str or None, default=None
        Device that a PyTorch module is moved to; None leaves it in place.
    n_jobs : int or None, default=None
        Number of members trained at the same time; None is 1, as in joblib.
    random_state : int, RandomState or None, default=None
        Seeds the training of the members, the held-out split and the selection; None
        draws new seeds in each fit.

    Attributes
    ----------
    estimator_ : object
        Fitted estimator with the combined parameters.
    weights_ : ndarray of shape (n_members,), or (n_members, n_layers)
        Member weights that the rule got; one for each layer after ``"convex"`` with
        ``by="layer"``. After ``"wise_ft"`` their sum is alpha, and the base has the
        weight ``1 - alpha``.
    scores_ : ndarray of shape (n_members,) or None
        Score of each member alone; None if nothing was scored.
    best_index_ : int or None
        Index of the best single member; None if nothing was scored.
    soup_score_ : float or None
        Score of the combination; None if nothing was scored.
    base_score_ : float or None
        Score of the base; None without a base, or if nothing was scored.
    history_ : tuple of Trial
        Weights and score of each step of the selection; the weights sum to 1.
    classes_, n_features_in_, feature_names_in_
        Those of ``estimator_``, if it has them.

    References
    ----------
    Wortsman et al. (2022), "Model soups: averaging weights of multiple fine-tuned
    models improves accuracy without increasing inference time", ICML.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import SGDClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> soup = ModelSoup(SGDClassifier(), random_state=0).fit(X, y)
    >>> soup.weights_
    array([1., 1., 1., 1., 1.])
    >>> soup.score(X, y) > 0.9
    True
    """

    def __init__(
        self,
        estimator: Any,
        checkpoints: Any = None,
        *,
        rule: Any = "mean",
        rule_params: Any = None,
        weights: Any = None,
        weights_params: Any = None,
        base: Any = None,
        integers: Any = "error",
        shared_init: Any = None,
        finish: Any = None,
        on_error: Any = "raise",
        n_members: Any = 5,
        scoring: Any = None,
        cv: Any = None,
        device: Any = None,
        n_jobs: Any = None,
        random_state: Any = None,
    ) -> None:
        self.estimator = estimator
        self.checkpoints = checkpoints
        self.rule = rule
        self.rule_params = rule_params
        self.weights = weights
        self.weights_params = weights_params
        self.base = base
        self.integers = integers
        self.shared_init = shared_init
        self.finish = finish
        self.on_error = on_error
        self.n_members = n_members
        self.scoring = scoring
        self.cv = cv
        self.device = device
        self.n_jobs = n_jobs
        self.random_state = random_state

    def fit(self, X: Any = None, y: Any = None, **params: Any) -> ModelSoup:
        """Read or train the members, choose their weights, and combine them.

        Parameters
        ----------
        X : array-like or sequence of shape (n_samples, ...), or None
            Samples. With ``checkpoints`` they are used only to score weights, and
            may be None if nothing is scored.
        y : array-like of shape (n_samples, ...) or None, default=None
            Targets; None if neither the estimator nor the scorer needs any.
        **params
            Keyword arguments of the estimator's ``fit`` if it trains the members; with
            metadata routing, of the splitter and the scorer too.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            If a parameter is invalid, the estimator cannot be averaged, or the members
            do not match it or each other.

        Warns
        -----
        UserWarning
            If the chosen weights do not beat the best member, or only one member could
            be trained.
        """
        rule = resolve_rule(self.rule)
        selection = check_parameters(self, rule)
        routed, parts = self._route(params), list[Part]()
        stratify = {"is_classifier": is_classifier(self)}
        split_seed = to_seed(self.random_state)
        is_scored = selection is not None or self.scoring is not None
        if self.checkpoints is None:
            data = FitData(X, y, routed.estimator.fit)
            check_targets(self, y)
            if is_scored:
                data, parts = split_training_data(
                    data, self.cv, routed, seed=split_seed, **stratify
                )
            members = train_members(
                self.estimator,
                data.X,
                data.y,
                n_members=self.n_members,
                random_state=self.random_state,
                n_jobs=self.n_jobs,
                **data.params,
            )
        else:
            members = [unwrap_frozen(member) for member in self.checkpoints]
            if is_scored:
                has_data = callable(self.scoring)
                parts = scoring_data(
                    X, y, self.cv, routed, scorer_has_data=has_data, **stratify
                )
        noun = "member {}" if self.checkpoints is None else "checkpoints[{}]"
        is_base_scored = selection is not None and selection.needs_base
        default = "warn" if is_base_scored else "error"
        merged = build_merged_estimator(
            self.estimator,
            members,
            [noun.format(index) for index in range(len(members))],
            base=unwrap_frozen(self.base),
            rule=rule,
            params=self.rule_params or {},
            integers=self.integers,
            shared_init=self.shared_init or default,
            device=self.device,
            finish=self.finish,
            labels=y,
        )
        result = choose_weights(self, selection, merged, rule, parts)
        weights, counts = result.weights, result.counts
        if selection is None:
            self.estimator_ = merged.set_weights(weights, counts)
        else:
            self.estimator_ = merged.set_chosen(weights, counts)
            weights = merged.weights_of_rule(weights, counts)
        self.weights_: Any = weights
        self.scores_: Any = result.scores
        self.best_index_: Any = result.best_index
        self.soup_score_ = result.score
        self.base_score_ = result.base_score
        self.history_ = result.history
        return self

    @available_if(  # type: ignore[untyped-decorator]
        lambda self: self.scoring is not None or estimator_has("score")(self)
    )
    def score(self, X: Any, y: Any = None, **params: Any) -> float:
        """Score of the estimator, by ``scoring`` or by its own ``score``.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Samples to predict.
        y : array-like of shape (n_samples, ...) or None, default=None
            Targets; None if the scorer does not need any.
        **params
            Keyword arguments of the scorer.

        Returns
        -------
        float
            Greater is better.
        """
        check_is_fitted(self)
        with no_grad():
            return float(
                resolve_scorer(self.estimator, self.scoring)(
                    self.estimator_, X, y, **params
                )
            )

    predict = delegated(
        "predict",
        "Predictions of the estimator.",
        "ndarray of shape (n_samples,) or (n_samples, n_outputs)",
    )
    predict_proba = delegated(
        "predict_proba",
        "Class probabilities.",
        "ndarray of shape (n_samples, n_classes)",
    )
    predict_log_proba = delegated(
        "predict_log_proba",
        "Logarithms of the class probabilities.",
        "ndarray of shape (n_samples, n_classes)",
    )
    decision_function = delegated(
        "decision_function",
        "Confidence scores of the samples.",
        "ndarray of shape (n_samples,) or (n_samples, n_classes)",
    )
    score_samples = delegated(
        "score_samples",
        "Score of each sample, such as its log-likelihood.",
        "ndarray of shape (n_samples,)",
    )
    transform = delegated(
        "transform",
        "Transform the samples.",
        "array-like of shape (n_samples, n_features_out)",
    )
    inverse_transform = delegated(
        "inverse_transform",
        "Transform samples back to the original features.",
        "array-like of shape (n_samples, n_features)",
    )
    encode = delegated(
        "encode",
        "Embeddings of texts, if the estimator is a SentenceTransformer.",
        "ndarray of shape (n_texts, n_dimensions)",
    )

    @available_if(estimator_has("transform"))  # type: ignore[untyped-decorator]
    def fit_transform(self, X: Any, y: Any = None, **params: Any) -> Any:
        """Fit, then transform the same samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Samples to fit and to transform.
        y : array-like of shape (n_samples,) or None, default=None
            Targets; None if the estimator does not need any.
        **params
            Keyword arguments of ``fit``.

        Returns
        -------
        array-like of shape (n_samples, n_features_out)
        """
        return self.fit(X, y, **params).transform(X)

    @available_if(estimator_has("get_feature_names_out"))  # type: ignore[untyped-decorator]
    def get_feature_names_out(self, input_features: Any = None) -> Any:
        """Names of the output features of `transform`.

        Parameters
        ----------
        input_features : array-like of str or None, default=None
            Names of the input features; None uses those seen in ``fit``, if any.

        Returns
        -------
        ndarray of str
        """
        check_is_fitted(self)
        return self.estimator_.get_feature_names_out(input_features)

    @available_if(estimator_has("set_output"))  # type: ignore[untyped-decorator]
    def set_output(self, *, transform: str | None = None) -> ModelSoup:
        """Set the output container of `transform`: arrays or dataframes.

        Parameters
        ----------
        transform : {"default", "pandas", "polars"} or None, default=None
            Container of the output; None leaves it unchanged.

        Returns
        -------
        self
        """
        unwrap_frozen(self.estimator).set_output(transform=transform)
        if "estimator_" in vars(self):
            self.estimator_.set_output(transform=transform)
        return self

    @property
    def classes_(self) -> Any:
        """Class labels of the estimator."""
        check_is_fitted(self)
        return self.estimator_.classes_

    @property
    def n_features_in_(self) -> int:
        """Number of features seen in ``fit``."""
        check_is_fitted(self)
        return int(self.estimator_.n_features_in_)

    @property
    def feature_names_in_(self) -> Any:
        """Names of the features seen in ``fit``, if they have names."""
        check_is_fitted(self)
        return self.estimator_.feature_names_in_

    def __sklearn_tags__(self) -> Any:
        inner = unwrap_frozen(self.estimator)
        if not hasattr(inner, "__sklearn_tags__"):
            return super().__sklearn_tags__()
        tags = copy.deepcopy(get_tags(inner))
        tags.array_api_support = False
        return tags
