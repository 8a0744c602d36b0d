"""An estimator that answers through the one it holds, as GridSearchCV does."""

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
    """Whether the estimator that is held has a method."""

    def check(self: Any) -> bool:
        # Not estimator_: combining what was forgotten may fail for another reason.
        held = vars(self).get("_estimator")
        getattr(thawed(self.estimator) if held is None else held, name)
        return True

    return check


class Delegating(MetaEstimatorMixin, BaseEstimator):
    """Base of an estimator whose ``estimator_`` answers for it.

    `fit` gives ``estimator_``, and ``estimator`` is what it is made from.
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
        """What the estimator predicts.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
        **params
            For the estimator's method, here as in all others.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs)
        """
        return self._asked("predict", X, **params)

    @available_if(_can("predict_proba"))  # type: ignore[untyped-decorator]
    def predict_proba(self, X: Any, **params: Any) -> Any:
        """Probabilities of the classes.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
        **params

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
        """
        return self._asked("predict_proba", X, **params)

    @available_if(_can("predict_log_proba"))  # type: ignore[untyped-decorator]
    def predict_log_proba(self, X: Any, **params: Any) -> Any:
        """Logarithms of the probabilities of the classes.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
        **params

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
        """
        return self._asked("predict_log_proba", X, **params)

    @available_if(_can("decision_function"))  # type: ignore[untyped-decorator]
    def decision_function(self, X: Any, **params: Any) -> Any:
        """How sure the estimator is.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
        **params

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_classes)
        """
        return self._asked("decision_function", X, **params)

    @available_if(_can("score_samples"))  # type: ignore[untyped-decorator]
    def score_samples(self, X: Any, **params: Any) -> Any:
        """How likely the estimator finds each sample.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
        **params

        Returns
        -------
        ndarray of shape (n_samples,)
        """
        return self._asked("score_samples", X, **params)

    @available_if(_can("transform"))  # type: ignore[untyped-decorator]
    def transform(self, X: Any, **params: Any) -> Any:
        """What the estimator turns the samples into.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
        **params

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
        y : array-like of shape (n_samples,) or None, default=None
        **params
            For `fit`.

        Returns
        -------
        array-like of shape (n_samples, n_features_out)
        """
        return self.fit(X, y, **params).transform(X)

    @available_if(_can("inverse_transform"))  # type: ignore[untyped-decorator]
    def inverse_transform(self, X: Any, **params: Any) -> Any:
        """Samples from what they were turned into.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features_out)
        **params

        Returns
        -------
        array-like of shape (n_samples, n_features)
        """
        return self._asked("inverse_transform", X, **params)

    @available_if(_can("encode"))  # type: ignore[untyped-decorator]
    def encode(self, X: Any, **params: Any) -> Any:
        """Vectors of texts, of a SentenceTransformer.

        Parameters
        ----------
        X : sequence of str
        **params

        Returns
        -------
        ndarray of shape (n_texts, n_dimensions)
        """
        return self._asked("encode", X, **params)

    @available_if(_can("get_feature_names_out"))  # type: ignore[untyped-decorator]
    def get_feature_names_out(self, input_features: Any = None) -> Any:
        """Names of the features that `transform` gives.

        Parameters
        ----------
        input_features : array-like of str or None, default=None

        Returns
        -------
        ndarray of str
        """
        return self._asked("get_feature_names_out", input_features)

    @available_if(_can("set_output"))  # type: ignore[untyped-decorator]
    def set_output(self, *, transform: str | None = None) -> Delegating:
        """Set what `transform` gives: arrays or dataframes.

        Parameters
        ----------
        transform : {"default", "pandas", "polars"} or None, default=None

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
        """Labels of the estimator."""
        return self._learned("classes_")

    @property
    def n_features_in_(self) -> int:
        """Number of features that the estimator was fitted to."""
        return int(self._learned("n_features_in_"))

    @property
    def feature_names_in_(self) -> Any:
        """Their names, where they have some."""
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
