"""Scoring and metadata routing of estimators that delegate to a fitted one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn import get_config
from sklearn.base import is_classifier
from sklearn.metrics import check_scoring
from sklearn.utils import Bunch, get_tags
from sklearn.utils.metadata_routing import (
    MetadataRouter,
    MethodMapping,
    process_routing,
)
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from ensembles._sklearn import thawed
from ensembles.checkpoints.model_soup.delegation import Delegating
from ensembles.checkpoints.model_soup.soup_score import without_gradients


def _has_score(soup: Scoring) -> bool:
    return soup.scoring is not None or hasattr(thawed(soup.estimator), "score")


class Scoring(Delegating):
    """Base of delegating estimators with a ``scoring`` parameter."""

    checkpoints: Any
    weights: Any
    scoring: Any
    cv: Any

    @available_if(_has_score)  # type: ignore[untyped-decorator]
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
        with without_gradients():
            return float(self._scorer()(self.estimator_, X, y, **params))

    def get_metadata_routing(self) -> MetadataRouter:
        """Metadata routing of `fit` and `score` to the estimator, splitter and scorer.

        Returns
        -------
        MetadataRouter
        """
        router = MetadataRouter(owner=self)
        mapping = MethodMapping()
        if self._makes_members():
            mapping.add(caller="fit", callee="fit")
        if self.scoring is None:
            mapping.add(caller="score", callee="score")
        if self.scoring is None and self._is_scored():
            mapping.add(caller="fit", callee="score")
        router.add(estimator=thawed(self.estimator), method_mapping=mapping)
        if hasattr(self.cv, "get_metadata_routing"):
            mapping = MethodMapping().add(caller="fit", callee="split")
            router.add(splitter=self.cv, method_mapping=mapping)
        if self.scoring is not None:
            mapping = MethodMapping().add(caller="fit", callee="score")
            mapping.add(caller="score", callee="score")
            router.add(scorer=self._scorer(), method_mapping=mapping)
        return router

    def _routed(self, params: Mapping[str, Any]) -> Bunch:
        if params and get_config()["enable_metadata_routing"]:
            routed = process_routing(self, "fit", **params)
            if self.scoring is None and "estimator" in routed:
                routed["scorer"] = Bunch(score=routed.estimator.get("score", {}))
            return routed
        if params and not self._makes_members():
            raise TypeError(
                f"fit of checkpoints trains nothing that could take {', '.join(params)}"
                "; with sklearn.set_config(enable_metadata_routing=True) a scorer can"
            )
        return Bunch(estimator=Bunch(fit=dict(params)))

    def _makes_members(self) -> bool:
        if isinstance(self.checkpoints, str):
            if self.checkpoints != "epochs":
                raise ValueError(
                    "checkpoints must be a sequence of them, 'epochs' or None, found "
                    f"{self.checkpoints!r}"
                )
            return True
        found = self.checkpoints
        if not (
            found is None or isinstance(found, Sequence) or hasattr(found, "shape")
        ):
            raise TypeError(
                "checkpoints must be a sequence of members, such as a list, found "
                f"{type(found).__name__}: {found!r:.80}"
            )
        is_trained_here = hasattr(thawed(self.estimator), "get_params")
        if self.checkpoints is None and not is_trained_here:
            raise TypeError(
                f"a {type(self.estimator).__name__} has no fit to make members by; "
                "give the soup its checkpoints"
            )
        return self.checkpoints is None

    def _is_scored(self) -> bool:
        return isinstance(self.weights, str) or self.scoring is not None

    def _check_targets(self, y: Any) -> None:
        """Raise the estimator's errors on targets before the data are split by them."""
        if y is None and get_tags(self).target_tags.required:
            raise ValueError(
                f"This {type(self).__name__} estimator requires y to be passed, but "
                "the target y is None"
            )
        if y is not None and is_classifier(self):
            check_classification_targets(np.asarray(y))

    def _scorer(self) -> Any:
        if callable(self.scoring):
            return self.scoring
        if not isinstance(self.scoring, str | None):
            raise TypeError(
                f"scoring must be one name, a callable or None, found {self.scoring!r}"
            )
        inner = thawed(self.estimator)
        if not hasattr(inner, "get_params"):
            raise TypeError(
                "scoring must be a callable (estimator, X, y) -> float for a "
                f"{type(inner).__name__}, found {self.scoring!r}"
            )
        return check_scoring(inner, scoring=self.scoring)
