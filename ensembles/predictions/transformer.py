"""Ensemble of transformers: their outputs averaged or concatenated."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.base import (
    ClassNamePrefixFeaturesOutMixin,
    MetaEstimatorMixin,
    TransformerMixin,
)
from sklearn.utils import (
    Bunch,
    _safe_indexing,
    assert_all_finite,
    get_tags,
    indexable,
)
from sklearn.utils.validation import check_is_fitted, validate_data

from ensembles._typing import Float64
from ensembles.predictions.combiners.builtin import resolve_combiner
from ensembles.predictions.combiners.combiner import Combiner
from ensembles.predictions.members.callbacks import with_callbacks
from ensembles.predictions.members.fitting import FittedMember, Fitting, each
from ensembles.predictions.members.named_estimators import (
    NamedEstimators,
    check_features,
)
from ensembles.predictions.transformer_outputs import (
    PairsWithOutputs,
    TransformerOutputs,
    as_rows,
    fitted_and_transformed,
    is_sparse,
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
    rule : str, default="mean"
        ``"concatenate"`` multiplies each output by its weight and concatenates the
        columns; any other rule is elementwise and needs outputs of equal width.
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

    References
    ----------
    Schönemann (1966), "A generalized solution of the orthogonal Procrustes problem",
    Psychometrika 31.
    """

    def __init__(
        self,
        estimators: Any,
        *,
        rule: Any = "mean",
        weights: Any = None,
        align: Any = None,
        memory: Any = None,
        n_jobs: Any = None,
    ) -> None:
        self.estimators = estimators
        self.rule = rule
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
        self
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
        return self._combined(iter(self._fit(X, y, fit_params, "fit_transform")))

    @with_callbacks  # type: ignore[untyped-decorator]
    def _fit(self, X: Any, y: Any, fit_params: dict[str, Any], method: str) -> Any:
        """Fit the members; returns training outputs if the method is fit_transform."""
        named = self._members()
        if self.align not in (None, "procrustes"):
            raise ValueError(
                f"align must be None or 'procrustes', found {self.align!r}"
            )
        self._combiner = None if self.rule == "concatenate" else _of_values(self.rule)
        if self._combiner is None and self.align is not None:
            raise ValueError(
                f"align must be None for rule 'concatenate', found {self.align!r}; "
                "outputs side by side need not lie on each other"
            )
        given = self._given()
        validate_data(self, X, skip_check_array=True)
        members, outputs = self._fitted(named, X, y, fit_params, method)
        names = [name for name, _ in self._pairs()]
        self.weights_ = given[[names.index(name) for name, _ in named]]
        self.named_estimators_ = Bunch(**{one.name: one.member for one in members})
        self.estimators_ = [one.member for one in members]
        self.rotations_: Any = None
        if self.align is not None:
            from scipy.linalg import orthogonal_procrustes

            alike = list(self._alike(iter(outputs)))
            found = [orthogonal_procrustes(each, alike[0]) for each in alike]
            self.rotations_ = [rotation for rotation, _ in found]
        if self._combiner is not None:
            first, row = members[0], _safe_indexing(indexable(X)[0], [0])
            self._n_features_out = TransformerOutputs().of(*first[:2], row).shape[1]
        return outputs

    def _fitted(
        self, named: Any, X: Any, y: Any, fit_params: dict[str, Any], method: str
    ) -> tuple[list[FittedMember], list[Any]]:
        """Members fitted by ``method``, and their outputs if it is fit_transform."""
        routed = self._routed(fit_params, method)
        params, asked = {}, TransformerOutputs()
        for name, member in named:
            own = method if hasattr(member, method) else "fit"
            params[name] = routed[name][own]
            asked.check_methods(name, member)
        if method == "fit":
            return Fitting(self, params, asked)(named, X, y), []
        pairs = Fitting(self, params, PairsWithOutputs(), fit=fitted_and_transformed)(
            named, X, y
        )
        members = [FittedMember(one.name, one.member[0], []) for one in pairs]
        return members, [as_rows(one.name, one.member[1]) for one in pairs]

    def _given(self) -> Float64:
        """Validated weights of all members, including those set to "drop"."""
        size, weights = len(self.estimators), self.weights
        if self._combiner is not None:
            signed, rule = self._combiner.signed, self._combiner.name
            return check_weights(weights, size, signed=signed, rule=rule)
        given = check_weights(None, size) if weights is None else np.asarray(weights)
        # Concatenation does not divide by the sum of the weights, so it may be zero.
        sizes = np.abs(given) if given.dtype.kind in "iuf" else given
        check_weights(sizes, size, rule="concatenate")
        return given.astype(np.float64)

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
        return self._combined(self._said(X))

    def _combined(self, said: Iterator[Any]) -> Any:
        """Combine the outputs of the members."""
        if self._combiner is None:
            # A Python float does not change the dtype of a float32 output.
            parts = [s * float(w) for s, w in zip(said, self.weights_, strict=True)]
            if any(is_sparse(part) for part in parts):
                from scipy.sparse import hstack

                return hstack(parts, format="csr")
            return np.hstack(parts)
        dtypes = set[np.dtype[Any]]()

        def noted() -> Iterator[Float64]:
            for output in self._turned(self._alike(said)):
                dtypes.add(output.dtype)
                yield output

        combined = self._combiner.function(noted(), self.weights_)
        narrow = dtypes == {np.dtype(np.float32)}
        return combined.astype(np.float32) if narrow else combined

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
        columns = [m.get_feature_names_out(input_features) for m in self.estimators_]
        pairs = zip(self.named_estimators_, columns, strict=True)
        names = [f"{name}__{column}" for name, own in pairs for column in own]
        return np.array(names, dtype=object)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        if self.align is not None:
            tags.input_tags.allow_nan = False
        telling = [m for _, m in self._pairs() if hasattr(m, "__sklearn_tags__")]
        members = [get_tags(member) for member in telling]
        known = [tag.transformer_tags for tag in members if tag.transformer_tags]
        if known and all("float32" in tag.preserves_dtype for tag in known):
            tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _said(self, X: Any) -> Iterator[Any]:
        tasks = ((*pair, X) for pair in self.named_estimators_.items())
        return each(self.n_jobs, TransformerOutputs().of, tasks)

    def _alike(self, said: Iterator[Any]) -> Iterator[Float64]:
        """Outputs as dense arrays of equal width, checked to be finite if aligned."""
        first, width = None, None
        for name, output in zip(self.named_estimators_, said, strict=True):
            dense = output.toarray() if is_sparse(output) else output
            if width is None:
                first, width = name, dense.shape[1]
            if dense.shape[1] != width:
                raise ValueError(
                    f"outputs must be of one width for rule {self.rule!r}: member "
                    f"{name!r} has {dense.shape[1]} columns, {first!r} {width}; "
                    "rule='concatenate' takes any"
                )
            if self.align is not None:
                assert_all_finite(dense, input_name=f"output of member {name!r}")
            yield dense

    def _turned(self, outputs: Iterator[Float64]) -> Iterator[Float64]:
        if self.rotations_ is None:
            return outputs
        return map(np.matmul, outputs, self.rotations_)


def _of_values(rule: Any) -> Combiner:
    combiner = resolve_combiner(rule, of="values")
    if combiner.input != "values":
        raise ValueError(
            f"rule {combiner.name!r} combines {combiner.input}, not outputs of "
            "transformers; use mean, median or their kind, or 'concatenate'"
        )
    return combiner
