"""Ensemble of transformers: their outputs averaged or concatenated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.base import (
    ClassNamePrefixFeaturesOutMixin,
    MetaEstimatorMixin,
    TransformerMixin,
    clone,
)
from sklearn.utils import (
    Bunch,
    _safe_indexing,
    assert_all_finite,
    get_tags,
    indexable,
)
from sklearn.utils.validation import check_is_fitted

from ensembles._sklearn import check_choice, check_mapping, check_n_jobs
from ensembles._typing import Float64
from ensembles.predictions.combiners.builtin import resolve_combiner
from ensembles.predictions.combiners.combiner import Combiner
from ensembles.predictions.fitting.preconditions import check_rule_name
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
from ensembles.weights import check_weights


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
    weights : array-like of shape (n_members,) or None, default=None
        Weights of the members; None weights all members equally.
    align : {None, "procrustes"}, default=None
        "procrustes" rotates the output of each member onto that of the first before
        they are combined, with the orthogonal matrix of the least squared distance on
        the training data; None does not rotate. Must be None for ``"concatenate"``.
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
    rotations_ : list of ndarrays of shape (n_columns, n_columns), or None
        Orthogonal matrix of each member; None without ``align``.
    n_features_in_ : int
        Number of features seen in ``fit``; only if X has columns.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features seen in ``fit``; only if X has names that are all strings.

    See Also
    --------
    sklearn.pipeline.FeatureUnion : Concatenates the outputs of transformers.
    EnsembleClassifier : Ensemble of classifiers.
    EnsembleRegressor : Ensemble of regressors.

    References
    ----------
    Schönemann (1966), "A generalized solution of the orthogonal Procrustes problem",
    Psychometrika 31.

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
    """

    def __init__(
        self,
        estimators: Any,
        *,
        rule: Any = "mean",
        rule_params: Any = None,
        weights: Any = None,
        align: Any = None,
        memory: Any = None,
        n_jobs: Any = None,
    ) -> None:
        self.estimators = estimators
        self.rule = rule
        self.rule_params = rule_params
        self.weights = weights
        self.align = align
        self.memory = memory
        self.n_jobs = n_jobs

    def fit(self, X: Any, y: Any = None, **fit_params: Any) -> EnsembleTransformer:
        """Fit the members, and the rotations that align their outputs.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Training data, passed to the members unchanged.
        y : array-like of shape (n_samples,) or None, default=None
            Targets, passed to the members; None if they need none.
        **fit_params
            ``sample_weight`` for all members, or metadata for the members that request
            it by metadata routing.

        Returns
        -------
        self : estimator
            The fitted ensemble.
        """
        # Rotations are computed from the outputs of fit_transform.
        self._fit(X, y, fit_params, "fit" if self.align is None else "fit_transform")
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
            ``sample_weight`` for all members, or metadata for the members that request
            it by metadata routing.

        Returns
        -------
        ndarray or sparse matrix of shape (n_samples, n_columns)
            Sparse only if concatenated outputs include a sparse one.
        """
        return self._combine(iter(self._fit(X, y, fit_params, "fit_transform")))

    @with_callbacks  # type: ignore[untyped-decorator]
    def _fit(self, X: Any, y: Any, fit_params: dict[str, Any], method: str) -> Any:
        """Fit the members; returns training outputs if the method is fit_transform."""
        named = self._members()
        check_choice("align", self.align, (None, "procrustes"))
        check_n_jobs(self.n_jobs)
        rule_params = check_mapping("rule_params", self.rule_params)
        combiner = self._resolve_combiner(rule_params)
        weights = self._check_weights(combiner)
        check_training_data(self, X)
        members, outputs = self._fit_members(named, X, y, fit_params, method)
        names, rotations = [member.name for member in members], list[Any]()
        if self.align is not None:
            from scipy.linalg import orthogonal_procrustes

            arrays = list(self._dense_outputs(names, iter(outputs)))
            rotations = [orthogonal_procrustes(a, arrays[0])[0] for a in arrays]
        n_columns = 0  # of a single output; concatenated ones have names of their own
        if combiner is not None:
            first = _safe_indexing(indexable(X)[0], [0])
            n_columns = transformed(*members[0][:2], first).shape[1]
        # At the end: a fit that fails leaves an earlier one as it was.
        self.named_estimators_ = Bunch(**{m.name: m.estimator for m in members})
        self.estimators_ = [member.estimator for member in members]
        self.weights_ = weights[[name in names for name, _ in self._pairs()]]
        self.rotations_: Any = rotations or None
        self._combiner, self._rule_params = combiner, rule_params
        self._n_features_out = n_columns
        return outputs

    def _resolve_combiner(self, rule_params: dict[str, Any]) -> Combiner | None:
        """Combiner of the rule, with its parameters checked; None to concatenate."""
        if not isinstance(self.rule, str) or self.rule != "concatenate":
            check_rule_name(self.rule)
            combiner = resolve_combiner(self.rule, of="values")
            if combiner.input != "values":
                raise ValueError(
                    f"rule {combiner.name!r} combines {combiner.input}, "
                    "not outputs of transformers; use 'concatenate' or an "
                    "elementwise rule, such as mean or median"
                )
            combiner.check(len(self.estimators), rule_params)
            return combiner
        if rule_params:
            raise ValueError(
                "rule_params must be None or empty for rule 'concatenate', which has "
                f"no parameters: found {self.rule_params!r}"
            )
        if self.align is not None:
            raise ValueError(
                f"align must be None for rule 'concatenate': found {self.align!r}"
            )
        return None

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

    def _check_weights(self, combiner: Combiner | None) -> Float64:
        """Validated weights of all members, including those set to "drop"."""
        n_members, rule = len(self.estimators), "concatenate"
        signed = combiner is not None and combiner.signed
        if combiner is not None:
            rule = combiner.name
        elif (values := np.asarray(self.weights)).dtype.kind in "iuf":
            # Concatenation does not divide by the sum of the weights: it may be zero.
            check_weights(np.abs(values), n_members, rule=rule)
            return values.astype(np.float64)
        return check_weights(self.weights, n_members, signed=signed, rule=rule)

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
        tasks = ((*pair, X) for pair in self.named_estimators_.items())
        return self._combine(run_tasks(self.n_jobs, transformed, tasks))

    def _combine(self, outputs: Iterator[Any]) -> Any:
        """Combine the outputs of the members."""
        if self._combiner is None:
            # A Python float does not change the dtype of a float32 output.
            pairs = zip(outputs, self.weights_, strict=True)
            parts = [output * float(weight) for output, weight in pairs]
            if any(is_sparse(part) for part in parts):
                from scipy.sparse import hstack

                return hstack(parts, format="csr")
            return np.hstack(parts)
        dtypes = set[np.dtype[Any]]()

        def rotated() -> Iterator[Float64]:
            names = list(self.named_estimators_)
            for index, output in enumerate(self._dense_outputs(names, outputs)):
                if self.rotations_ is not None:
                    output = output @ self.rotations_[index]
                dtypes.add(output.dtype)
                yield output

        function = self._combiner.function
        combined = function(rotated(), self.weights_, **self._rule_params)
        is_float32 = dtypes == {np.dtype(np.float32)}
        return combined.astype(np.float32) if is_float32 else combined

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
        if self._combiner is not None:
            return super().get_feature_names_out(input_features)
        names = [
            f"{name}__{column}"
            for name, member in self.named_estimators_.items()
            for column in member.get_feature_names_out(input_features)
        ]
        return np.array(names, dtype=object)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        if self.align is not None:
            tags.input_tags.allow_nan = False
        members = [m for _, m in self._pairs() if hasattr(m, "__sklearn_tags__")]
        member_tags = [get_tags(member).transformer_tags for member in members]
        preserved = [member.preserves_dtype for member in member_tags if member]
        if preserved and all("float32" in dtypes for dtypes in preserved):
            tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _dense_outputs(
        self, names: Sequence[str], outputs: Iterator[Any]
    ) -> Iterator[Float64]:
        """Outputs as dense arrays of equal width, checked to be finite if aligned."""
        first_name, width = None, None
        for name, output in zip(names, outputs, strict=True):
            array = output.toarray() if is_sparse(output) else output
            if width is None:
                first_name, width = name, array.shape[1]
            if array.shape[1] != width:
                raise ValueError(
                    f"outputs must have the same width for rule {self.rule!r}: member "
                    f"{first_name!r} has {width} columns, {name!r} has "
                    f"{array.shape[1]}; use rule='concatenate' for different widths"
                )
            if self.align is not None:
                assert_all_finite(array, input_name=f"output of member {name!r}")
            yield array


class TransformerOutputs:
    """Output format of transformers, for `fit_members`."""

    def fit(self, fit: Callable[[Any], Any], y: Any) -> Any:
        """Fit a member by ``fit(y)``."""
        return fit(y)

    def check(self, name: str, member: Any) -> None:
        """Raise if a fitted member has no ``transform``."""
        check_has_transform(name, member)

    def predict(self, name: str, member: Any, X: Any) -> Any:
        """Output of a fitted member for ``X``, as by `transformed`."""
        return transformed(name, member, X)


class PairOutputs(TransformerOutputs):
    """Output format of (member, output) pairs from `fit_transform_clone`."""

    def check(self, name: str, member: Any) -> None:
        """Do nothing: the unfitted member has been checked."""


def check_has_transform(name: str, member: Any) -> None:
    """Raise ValueError if a member has no ``transform``."""
    if not hasattr(member, "transform"):
        raise ValueError(
            f"member {name!r} must have a transform method: {type(member).__name__} "
            "has none"
        )


def transformed(name: str, member: Any, X: Any) -> Any:
    """2-D output of a fitted member, dense or sparse; values of a dataframe."""
    return check_2d(name, member.transform(X))


def fit_transform_clone(
    name: str, member: Any, X: Any, y: Any, params: Mapping[str, Any]
) -> Any:
    """Clone a member, fit the clone, and transform the training data with it.

    Parameters
    ----------
    name : str
        Name of the member; part of the cache key, as in
        `ensembles.predictions.members.fitting.fit_clone`.
    member : transformer
        Left unchanged.
    X, y : array-like
        Training data.
    params : mapping of str to value
        Keyword arguments of ``fit_transform``, or of ``fit`` if the member has no
        ``fit_transform``.

    Returns
    -------
    (fitted transformer, output)
    """
    fresh = clone(member)
    if not hasattr(fresh, "fit_transform"):
        fitted = fresh.fit(X, y, **params)
        return fitted, fitted.transform(X)
    output = fresh.fit_transform(X, y, **params)
    if isinstance(output, tuple):  # PLS and CCA also return the scores of y
        output = output[0]
    return fresh, output


def check_2d(name: str, output: Any) -> Any:
    """Convert an output to a 2-D array or sparse matrix, or raise if it is not 2-D."""
    array = output if is_sparse(output) else np.asarray(output)
    if array.ndim != 2:
        raise ValueError(
            f"member {name!r} must have 2-D outputs: found an output of shape "
            f"{array.shape}"
        )
    return array


def is_sparse(output: Any) -> bool:
    """Whether an output is a sparse matrix."""
    return hasattr(output, "toarray")
