"""Base class that delegates to a fitted estimator, as GridSearchCV does."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from sklearn.base import BaseEstimator, MetaEstimatorMixin
from sklearn.utils import get_tags
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from ensembles._sklearn import thawed


def _can(name: str) -> Callable[[Any], bool]:
    """Check for `available_if`: whether the wrapped estimator has a method."""

    def check(self: Any) -> bool:
        # Not estimator_: combining again after forget() may fail for another reason.
        held = vars(self).get("_estimator")
        getattr(thawed(self.estimator) if held is None else held, name)
        return True

    return check


class Delegating(MetaEstimatorMixin, BaseEstimator):
    """Base of estimators that delegate their methods to ``estimator_``.

    Subclasses make ``estimator_`` from the parameter ``estimator`` in ``fit``.
    """

    estimator: Any
    estimator_: Any

    def _is_fitted(self) -> bool:
        return "weights_" in vars(self)

    def _asked(self, method: str, X: Any, **params: Any) -> Any:
        check_is_fitted(self)
        return getattr(self.estimator_, method)(X, **params)

    @available_if(_can("predict"))  # type: ignore[untyped-decorator]
    def predict(self, X: Any, **params: Any) -> Any:
        """Predictions of the estimator.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Samples, in the format that ``estimator_`` accepts.
        **params
            Keyword arguments of the estimator's ``predict``.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs)
        """
        return self._asked("predict", X, **params)

    @available_if(_can("predict_proba"))  # type: ignore[untyped-decorator]
    def predict_proba(self, X: Any, **params: Any) -> Any:
        """Class probabilities.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Samples, in the format that ``estimator_`` accepts.
        **params
            Keyword arguments of the estimator's ``predict_proba``.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
        """
        return self._asked("predict_proba", X, **params)

    @available_if(_can("predict_log_proba"))  # type: ignore[untyped-decorator]
    def predict_log_proba(self, X: Any, **params: Any) -> Any:
        """Logarithms of the class probabilities.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Samples, in the format that ``estimator_`` accepts.
        **params
            Keyword arguments of the estimator's ``predict_log_proba``.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
        """
        return self._asked("predict_log_proba", X, **params)

    @available_if(_can("decision_function"))  # type: ignore[untyped-decorator]
    def decision_function(self, X: Any, **params: Any) -> Any:
        """Confidence scores of the samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Samples, in the format that ``estimator_`` accepts.
        **params
            Keyword arguments of the estimator's ``decision_function``.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_classes)
        """
        return self._asked("decision_function", X, **params)

    @available_if(_can("score_samples"))  # type: ignore[untyped-decorator]
    def score_samples(self, X: Any, **params: Any) -> Any:
        """Score of each sample, such as its log-likelihood.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Samples, in the format that ``estimator_`` accepts.
        **params
            Keyword arguments of the estimator's ``score_samples``.

        Returns
        -------
        ndarray of shape (n_samples,)
        """
        return self._asked("score_samples", X, **params)

    @available_if(_can("transform"))  # type: ignore[untyped-decorator]
    def transform(self, X: Any, **params: Any) -> Any:
        """Transform the samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Samples, in the format that ``estimator_`` accepts.
        **params
            Keyword arguments of the estimator's ``transform``.

        Returns
        -------
        array-like of shape (n_samples, n_features_out)
        """
        return self._asked("transform", X, **params)

    @available_if(_can("transform"))  # type: ignore[untyped-decorator]
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

    @available_if(_can("inverse_transform"))  # type: ignore[untyped-decorator]
    def inverse_transform(self, X: Any, **params: Any) -> Any:
        """Transform samples back to the original features.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features_out)
            Transformed samples.
        **params
            Keyword arguments of the estimator's ``inverse_transform``.

        Returns
        -------
        array-like of shape (n_samples, n_features)
        """
        return self._asked("inverse_transform", X, **params)

    @available_if(_can("encode"))  # type: ignore[untyped-decorator]
    def encode(self, X: Any, **params: Any) -> Any:
        """Embeddings of texts, if the estimator is a SentenceTransformer.

        Parameters
        ----------
        X : sequence of str
            Texts to embed.
        **params
            Keyword arguments of the estimator's ``encode``.

        Returns
        -------
        ndarray of shape (n_texts, n_dimensions)
        """
        return self._asked("encode", X, **params)

    @available_if(_can("get_feature_names_out"))  # type: ignore[untyped-decorator]
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
        return self._asked("get_feature_names_out", input_features)

    @available_if(_can("set_output"))  # type: ignore[untyped-decorator]
    def set_output(self, *, transform: str | None = None) -> Delegating:
        """Set the output container of `transform`: arrays or dataframes.

        Parameters
        ----------
        transform : {"default", "pandas", "polars"} or None, default=None
            Container of the output; None leaves it unchanged.

        Returns
        -------
        self
        """
        thawed(self.estimator).set_output(transform=transform)
        if self._is_fitted():
            self.estimator_.set_output(transform=transform)
        return self

    @property
    def classes_(self) -> Any:
        """Class labels of the estimator."""
        return self._learned("classes_")

    @property
    def n_features_in_(self) -> int:
        """Number of features seen in ``fit``."""
        return int(self._learned("n_features_in_"))

    @property
    def feature_names_in_(self) -> Any:
        """Names of the features seen in ``fit``, if they have names."""
        return self._learned("feature_names_in_")

    def _learned(self, name: str) -> Any:
        if not self._is_fitted():
            raise AttributeError(f"{type(self).__name__} has no {name} before fit")
        return getattr(self.estimator_, name)

    def __sklearn_tags__(self) -> Any:
        inner = thawed(self.estimator)
        if not hasattr(inner, "__sklearn_tags__"):
            return super().__sklearn_tags__()
        tags = copy.deepcopy(get_tags(inner))
        tags.array_api_support = False
        return tags
