"""An ensemble of transformers: their outputs averaged, or side by side."""

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
from ensembles.predictions.combiners.builtin import combiner_of
from ensembles.predictions.combiners.combiner import Combiner
from ensembles.predictions.members.callbacks import with_callbacks
from ensembles.predictions.members.fitting import Fitted, Fitting, each
from ensembles.predictions.members.named_estimators import NamedMembers, check_columns
from ensembles.predictions.transformer_outputs import (
    Outputs,
    PairsWithOutputs,
    as_rows,
    fitted_and_transformed,
    is_sparse,
)
from ensembles.weights import check_weights


class EnsembleTransformer(
    ClassNamePrefixFeaturesOutMixin, TransformerMixin, MetaEstimatorMixin, NamedMembers
):
    """Transformer that averages its members' outputs, or puts them side by side.

    Parameters
    ----------
    estimators : list of (str, transformer)
        The members; ``"drop"`` in place of one leaves it out.
    rule : str, default="mean"
        ``"concatenate"`` puts the outputs side by side, each times its weight; any
        other rule combines outputs of one width, element by element.
    weights : array-like of shape (n_members,) or None, default=None
        None counts every member alike.
    align : {None, "procrustes"}, default=None
        Rotate each member's output onto the first one's before they are combined, by
        the orthogonal matrix that brings the outputs of the training data nearest.
        Not with ``"concatenate"``, which compares no columns.
    memory : str, joblib.Memory or None, default=None
        Where fitted members are kept, as in `sklearn.pipeline.Pipeline`.
    n_jobs : int or None, default=None
        Members that are fitted or asked at the same time, by joblib.

    Attributes
    ----------
    estimators_ : list of fitted transformers
    named_estimators_ : Bunch
    weights_ : ndarray of shape (n_members,)
    rotations_ : list of ndarrays of shape (n_columns, n_columns), or None

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
        """Fit the members, and how they are rotated onto each other.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Given to the members as it is.
        y : array-like of shape (n_samples,) or None, default=None
        **fit_params
            For members that ask for them by metadata routing.

        Returns
        -------
        self
        """
        # Rotations come from what fit_transform makes of the data.
        self._fit(X, y, fit_params, "fit" if self.align is None else "fit_transform")
        return self

    def fit_transform(self, X: Any, y: Any = None, **fit_params: Any) -> Any:
        """Fit the members, and combine what their ``fit_transform`` makes of the data.

        It need not be what ``transform`` makes of them: a `TargetEncoder` encodes each
        row of the training data by the targets of others.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
        y : array-like of shape (n_samples,) or None, default=None
        **fit_params
            For members that ask for them by metadata routing.

        Returns
        -------
        ndarray or sparse matrix of shape (n_samples, n_columns)
        """
        return self._combined(iter(self._fit(X, y, fit_params, "fit_transform")))

    @with_callbacks  # type: ignore[untyped-decorator]
    def _fit(self, X: Any, y: Any, fit_params: dict[str, Any], method: str) -> Any:
        """Fit the members; outputs of the training data where that is the method."""
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
            self._n_features_out = Outputs().of(*first[:2], row).shape[1]
        return outputs

    def _fitted(
        self, named: Any, X: Any, y: Any, fit_params: dict[str, Any], method: str
    ) -> tuple[list[Fitted], list[Any]]:
        """Members fitted by a method, and their outputs where it has some."""
        routed = self._routed(fit_params, method)
        params, asked = {}, Outputs()
        for name, member in named:
            own = method if hasattr(member, method) else "fit"
            params[name] = routed[name][own]
            asked.check_before(name, member)
        if method == "fit":
            return Fitting(self, params, asked)(named, X, y), []
        pairs = Fitting(self, params, PairsWithOutputs(), fit=fitted_and_transformed)(
            named, X, y
        )
        members = [Fitted(one.name, one.member[0], []) for one in pairs]
        return members, [as_rows(one.name, one.member[1]) for one in pairs]

    def _given(self) -> Float64:
        """Weights of all members, known to be right."""
        size, weights = len(self.estimators), self.weights
        if self._combiner is not None:
            signed, rule = self._combiner.signed, self._combiner.name
            return check_weights(weights, size, signed=signed, rule=rule)
        given = check_weights(None, size) if weights is None else np.asarray(weights)
        # Nothing is divided by their sum, which may be zero: the sizes' is not.
        sizes = np.abs(given) if given.dtype.kind in "iuf" else given
        check_weights(sizes, size, rule="concatenate")
        return given.astype(np.float64)

    def transform(self, X: Any) -> Any:
        """Combined outputs.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)

        Returns
        -------
        ndarray or sparse matrix of shape (n_samples, n_columns)
        """
        check_columns(self, X)
        return self._combined(self._said(X))

    def _combined(self, said: Iterator[Any]) -> Any:
        """Members' outputs, combined."""
        if self._combiner is None:
            # A number of Python's, so that float32 stays.
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
        """Names of the columns: after the members side by side, else numbered.

        Parameters
        ----------
        input_features : array-like of str or None, default=None

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
        return each(self.n_jobs, Outputs().of, tasks)

    def _alike(self, said: Iterator[Any]) -> Iterator[Float64]:
        """Outputs as dense arrays of one width, finite where they are to be turned."""
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
    combiner = combiner_of(rule, of="values")
    if combiner.takes != "values":
        raise ValueError(
            f"rule {combiner.name!r} combines {combiner.takes}, not outputs of "
            "transformers; use mean, median or their kind, or 'concatenate'"
        )
    return combiner
