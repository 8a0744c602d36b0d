"""Ensemble of transformers: their outputs averaged or concatenated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.base import (
    ClassNamePrefixFeaturesOutMixin,
    MetaEstimatorMixin,
    TransformerMixin,
)
from sklearn.utils import Bunch, _safe_indexing, get_tags, indexable
from sklearn.utils.validation import check_is_fitted

from ensembles._sklearn import check_bool, check_choice, check_mapping, check_n_jobs
from ensembles._typing import Float64
from ensembles.predictions.members.fitting import (
    FittedMember,
    Named,
    fit_clone,
    fit_members,
    run_tasks,
    with_callbacks,
)
from ensembles.predictions.members.named_estimators import (
    NamedEstimators,
    check_features,
    check_training_data,
)
from ensembles.predictions.transformers.member_outputs import (
    PairOutputs,
    TransformerOutputs,
    check_2d,
    check_has_transform,
    fit_transform_clone,
    transformed,
)
from ensembles.predictions.transformers.output_combiner import (
    OutputCombiner,
    used_members,
)
from ensembles.predictions.transformers.output_fitting import OutputFit, fit_outputs
from ensembles.predictions.transformers.output_parameters import (
    check_output_weights,
    resolve_output_combiner,
)
from ensembles.predictions.transformers.pair_weights import check_pairs
from ensembles.predictions.transformers.projections import check_n_components


class EnsembleTransformer(
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    MetaEstimatorMixin,
    NamedEstimators,
):
    """Transformer that averages or concatenates the outputs of its members.

    Parameters
    ----------
    estimators : list of (str, transformer)
        Members by name; ``"drop"`` in place of a transformer leaves it out.
    rule : str, Combiner or Rule, default="mean"
        ``"concatenate"`` multiplies each output by its weight and concatenates the
        columns; any other rule is elementwise, such as ``"median"``, and needs outputs
        of equal width: a name in `ensembles.rules.RULES`, or the entry itself.
    rule_params : dict or None, default=None
        Parameters of the rule, e.g. ``{"p": 3}`` for ``"power_mean"``; None means its
        defaults.
    weights : array-like of shape (n_members,), str or None, default=None
        Weights of the members; members with weight 0 do not transform and have no
        columns. None weights all members equally. The name of a selection, such as
        "greedy", "convex" or "best", chooses weights on rated pairs, which `fit` then
        takes; the rule must be "mean" or "concatenate".
    weights_params : dict or None, default=None
        Parameters of the selection, e.g. ``{"n_rounds": 20}`` for "greedy"; None means
        its defaults.
    normalize : bool, default=False
        Whether to L2-normalize the outputs of the members before they are combined.
        Without it, members whose vectors are longer count more. Zero vectors stay zero.
    align : {None, "procrustes"}, default=None
        "procrustes" rotates the output of each member onto that of the first before
        they are combined, with the orthogonal matrix of the least squared distance on
        the training data. Outputs of different widths are rotated onto the first of the
        widest. None does not rotate. Must be None for ``"concatenate"``.
    n_components : int or None, default=None
        Number of principal axes of the combined training data to project to. Data are
        not centered, so that zero vectors stay zero and inner products change least.
        None does not project.
    memory : str, joblib.Memory or None, default=None
        Cache of the fitted members, as in `sklearn.pipeline.Pipeline`; None means no
        cache.
    n_jobs : int or None, default=None
        Number of members that are fitted, or transform, in parallel, as in joblib. None
        means 1, unless a `joblib.parallel_config` context sets another number.

    Attributes
    ----------
    estimators_ : list of fitted transformers
        Members fitted on all data.
    named_estimators_ : Bunch
        Fitted members by name.
    weights_ : ndarray of shape (n_members,)
        Weights of the fitted members.
    rotations_ : list of ndarrays of shape (n_columns, largest n_columns), or None
        Matrix with orthonormal rows of each member; None without ``align``.
    components_ : ndarray of shape (n_components, n_columns) or None
        Principal axes as rows; None without ``n_components``.
    scores_ : ndarray of shape (n_members,) or None
        Score of each member alone on the pairs; None without a selection, as the
        attributes that follow.
    best_index_ : int or None
        Index of the member with the best score alone.
    history_ : tuple of Trial, or None
        Weights and score of each step of the selection, on the pairs that it saw.
    oof_score_ : float or None
        Mean score of five folds of the pairs, each with weights that were chosen on the
        other folds.
    oof_best_score_ : float or None
        The same for the single member that is best on the other folds.
    oof_equal_score_ : float or None
        Mean score of the folds with equal weights.
    n_features_in_ : int
        Number of features seen in ``fit``; only if X has columns.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features seen in ``fit``; only if X has names that are all strings.

    See Also
    --------
    sklearn.pipeline.FeatureUnion : Concatenates the outputs of transformers.
    EnsembleClassifier : Ensemble of classifiers.
    EnsembleRegressor : Ensemble of regressors.

    Notes
    -----
    The score of weights is Spearman's correlation between the ratings of pairs and the
    cosines of their combined vectors, before ``n_components`` are taken. ``"convex"``
    maximizes Pearson's correlation with the ranks of the ratings, which is smooth, and
    keeps the result if Spearman's is better than with equal weights. Members are fitted
    on the samples of all pairs, without the ratings. Pairs that a member was trained on
    must not choose the weights.

    References
    ----------
    Schönemann (1966), "A generalized solution of the orthogonal Procrustes problem",
    Psychometrika 31: ``align``. Coates & Bollegala (2018), "Frustratingly easy
    meta-embedding", NAACL: the mean. Yin & Schütze (2016), "Learning word
    meta-embeddings", ACL: weighted concatenation, and its singular value decomposition.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.preprocessing import MinMaxScaler, StandardScaler
    >>> X, _ = load_iris(return_X_y=True)
    >>> members = [("minmax", MinMaxScaler()), ("standard", StandardScaler())]
    >>> EnsembleTransformer(members).fit_transform(X).shape
    (150, 4)
    >>> EnsembleTransformer(members, rule="concatenate").fit_transform(X).shape
    (150, 8)

    Weights chosen on pairs of texts:

    >>> from sklearn.feature_extraction.text import TfidfVectorizer
    >>> members = [
    ...     ("words", TfidfVectorizer()),
    ...     ("letters", TfidfVectorizer(analyzer="char", ngram_range=(1, 3))),
    ... ]
    >>> pairs = [("red cars", "red car" if i < 9 else "blue cars") for i in range(20)]
    >>> ratings = [5.0 if i < 9 else 1.0 for i in range(20)]
    >>> ensemble = EnsembleTransformer(members, rule="concatenate", weights="best")
    >>> ensemble.fit(pairs, ratings).weights_
    array([0., 1.])
    """

    def __init__(
        self,
        estimators: Any,
        *,
        rule: Any = "mean",
        rule_params: Any = None,
        weights: Any = None,
        weights_params: Any = None,
        normalize: Any = False,
        align: Any = None,
        n_components: Any = None,
        memory: Any = None,
        n_jobs: Any = None,
    ) -> None:
        self.estimators = estimators
        self.rule = rule
        self.rule_params = rule_params
        self.weights = weights
        self.weights_params = weights_params
        self.normalize = normalize
        self.align = align
        self.n_components = n_components
        self.memory = memory
        self.n_jobs = n_jobs

    def fit(self, X: Any, y: Any = None, **fit_params: Any) -> EnsembleTransformer:
        """Fit the members, and the rotations, weights and axes of their outputs.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Training data, passed to the members unchanged. If a selection chooses the
            weights, pairs of samples, of shape (n_pairs, 2), such as a list of pairs of
            texts; the members get the distinct samples.
        y : array-like of shape (n_samples,) or None, default=None
            Targets, passed to the members; None if they need none. If a selection
            chooses the weights, a rating of each pair, greater if it is more similar;
            the members get none.
        **fit_params
            ``sample_weight`` for all members, or metadata for the members that request
            it by metadata routing. None with a selection.

        Returns
        -------
        self : estimator
            The fitted ensemble.

        Warns
        -----
        UserWarning
            If chosen weights do not beat the best member on other pairs.
        """
        method = "fit_transform" if self._learns_from_outputs() else "fit"
        self._fit(X, y, fit_params, method)
        return self

    def fit_transform(self, X: Any, y: Any = None, **fit_params: Any) -> Any:
        """Fit the members, and combine the outputs of their ``fit_transform``.

        The result can differ from ``transform`` of the same data:
        `sklearn.preprocessing.TargetEncoder` encodes each training row with the targets
        of other rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Training data, passed to the members unchanged.
        y : array-like of shape (n_samples,) or None, default=None
            Targets, passed to the members; None if they need none.
        **fit_params
            As for ``fit``.

        Returns
        -------
        ndarray or sparse matrix of shape (n_samples, n_columns)
            Sparse only if concatenated outputs include a sparse one.

        Raises
        ------
        ValueError
            If a selection chooses the weights: ``fit`` takes pairs, ``transform``
            samples.
        """
        if isinstance(self.weights, str):
            raise ValueError(
                f"fit_transform must not be called with weights={self.weights!r}: fit "
                "takes rated pairs, and transform takes samples; call fit, then "
                "transform"
            )
        return self.combine(self._fit(X, y, fit_params, "fit_transform"))

    @with_callbacks  # type: ignore[untyped-decorator]
    def _fit(self, X: Any, y: Any, fit_params: dict[str, Any], method: str) -> Any:
        """Fit the members; returns training outputs if the method is fit_transform."""
        named = self._members()
        params = check_mapping("weights_params", self.weights_params)
        combiner, weights = self._check_parameters(params)
        pairs = None
        if isinstance(weights, str):
            if fit_params:
                raise TypeError(
                    f"fit must not get {', '.join(fit_params)} with weights={weights!r}"
                )
            pairs = check_pairs(X, y, weights)
            X, y = pairs.samples, None
        check_training_data(self, X)
        members, outputs = self._fit_members(named, X, y, fit_params, method)
        combiner = replace(combiner, names=tuple(member.name for member in members))
        if not isinstance(weights, str):
            kept = [member != "drop" for _, member in self._pairs()]
            weights = weights[kept]
        fit = fit_outputs(
            *(combiner, outputs, weights),
            params=params,
            pairs=pairs,
            n_components=self.n_components,
        )
        n_columns = _n_columns(fit.combiner, members, X)
        # At the end: a fit that fails leaves an earlier one as it was.
        self.named_estimators_ = Bunch(**{m.name: m.estimator for m in members})
        self.estimators_ = [member.estimator for member in members]
        self._set_fitted(fit)
        self._n_features_out = n_columns
        return outputs

    def _check_parameters(
        self, params: dict[str, Any]
    ) -> tuple[OutputCombiner, Float64 | str]:
        """Validated parameters: the combiner, and the weights or a selection."""
        check_bool("normalize", self.normalize)
        check_choice("align", self.align, (None, "procrustes"))
        check_n_components(self.n_components)
        check_n_jobs(self.n_jobs)
        rule_params = check_mapping("rule_params", self.rule_params)
        n_members = len(self.estimators)
        rule = resolve_output_combiner(self.rule, rule_params, self.align, n_members)
        weights = check_output_weights(
            self.weights, rule, rule_params, params, n_members
        )
        combiner = OutputCombiner(
            rule,
            rule_params,
            finite=self._learns_from_outputs() or bool(self.normalize),
            normalize=bool(self.normalize),
            aligned=self.align is not None,
        )
        return combiner, weights

    def _learns_from_outputs(self) -> bool:
        """Whether rotations, weights or axes are learned from the members' outputs."""
        has_maps = self.align is not None or self.n_components is not None
        return has_maps or isinstance(self.weights, str)

    def _set_fitted(self, fit: OutputFit) -> None:
        """Set the fitted attributes that were learned from outputs."""
        self._combiner, self.weights_ = fit.combiner, fit.weights
        self.rotations_: Any = fit.combiner.rotations
        self.components_: Any = fit.combiner.components
        chosen = fit.chosen
        selected = None if chosen is None else chosen.selected
        self.scores_: Any = None if selected is None else selected.scores
        self.best_index_: Any = None if selected is None else selected.best_index
        self.history_: Any = None if selected is None else selected.history
        self.oof_score_: Any = None if chosen is None else chosen.score
        self.oof_best_score_: Any = None if chosen is None else chosen.best_score
        self.oof_equal_score_: Any = None if chosen is None else chosen.equal_score

    def _fit_members(
        self, named: Named, X: Any, y: Any, fit_params: dict[str, Any], method: str
    ) -> tuple[list[FittedMember], list[Any]]:
        """Members fitted by ``method``, and their outputs if it is fit_transform."""
        routed = self._routed(fit_params, method)
        params = {}
        for name, member in named:
            callee = method if hasattr(member, method) else "fit"
            params[name] = routed[name][callee]
            check_has_transform(name, member)
        if method == "fit":
            outputs = TransformerOutputs()
            fit = fit_clone
        else:
            outputs = PairOutputs()
            fit = fit_transform_clone
        members = fit_members(
            self, named, X, y, params=params, outputs=outputs, fit=fit
        )
        if method == "fit":
            return members, []
        pairs = [(member.name, *member.estimator) for member in members]
        members = [FittedMember(name, estimator, []) for name, estimator, _ in pairs]
        return members, [check_2d(name, output) for name, _, output in pairs]

    def transform(self, X: Any) -> Any:
        """Transform with the members and combine their outputs.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Samples, passed to the members unchanged.

        Returns
        -------
        ndarray or sparse matrix of shape (n_samples, n_columns)
            Sparse only if concatenated outputs include a sparse one.
        """
        check_features(self, X)
        used, names = used_members(self.weights_), list(self.named_estimators_)
        tasks = ((names[index], self.estimators_[index], X) for index in used)
        outputs = run_tasks(self.n_jobs, transformed, tasks)
        return self._combiner(zip(used, outputs, strict=True), self.weights_)

    def combine(self, outputs: Sequence[Any]) -> Any:
        """Combine outputs of the members that were computed before.

        Parameters
        ----------
        outputs : sequence of n_members arrays of shape (n_samples, n_columns)
            Output of each fitted member for the same samples.

        Returns
        -------
        ndarray or sparse matrix of shape (n_samples, n_columns)
        """
        check_is_fitted(self)
        pairs = list(zip(range(len(self.weights_)), outputs, strict=True))
        used = [pairs[index] for index in used_members(self.weights_)]
        return self._combiner(used, self.weights_)

    def get_feature_names_out(self, input_features: Any = None) -> Any:
        """Names of the output columns: ``member__column`` if concatenated, or numbered.

        Parameters
        ----------
        input_features : array-like of str or None, default=None
            Names of the input columns, passed to members whose outputs are
            concatenated; None means the names seen in ``fit``.

        Returns
        -------
        ndarray of str
        """
        check_is_fitted(self)
        if self._n_features_out:
            return super().get_feature_names_out(input_features)
        names = [
            f"{self._combiner.names[index]}__{column}"
            for index in used_members(self.weights_)
            for column in self.estimators_[index].get_feature_names_out(input_features)
        ]
        return np.array(names, dtype=object)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        if self._learns_from_outputs() or self.normalize:
            tags.input_tags.allow_nan = False
        members = [m for _, m in self._pairs() if hasattr(m, "__sklearn_tags__")]
        member_tags = [get_tags(member).transformer_tags for member in members]
        preserved = [member.preserves_dtype for member in member_tags if member]
        if preserved and all("float32" in dtypes for dtypes in preserved):
            tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _n_columns(combiner: OutputCombiner, members: list[FittedMember], X: Any) -> int:
    """Number of columns; 0 if they are concatenated and keep names of their own."""
    if combiner.components is not None:
        return len(combiner.components)
    if combiner.combiner is None:
        return 0
    if combiner.rotations is not None:
        return int(combiner.rotations[0].shape[1])
    first = _safe_indexing(indexable(X)[0], [0])
    return int(transformed(*members[0][:2], first).shape[1])
