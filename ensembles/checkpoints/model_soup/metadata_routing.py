"""Metadata routing of a model soup to its estimator, splitter and scorer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ensembles._sklearn import unwrap_frozen
from ensembles.checkpoints.model_soup.soup_score import resolve_scorer


class MetadataRouting:
    """Mixin of `ModelSoup` that passes arguments of ``fit`` and ``score`` on."""

    estimator: Any
    checkpoints: Any
    weights: Any
    scoring: Any
    cv: Any

    def get_metadata_routing(self) -> Any:
        """Metadata routing of `fit` and `score` to the estimator, splitter and scorer.

        Returns
        -------
        MetadataRouter
        """
        from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping

        router = MetadataRouter(owner=self)
        mapping = MethodMapping()
        if self.checkpoints is None:
            mapping.add(caller="fit", callee="fit")
        if self.scoring is None:
            mapping.add(caller="score", callee="score")
            if isinstance(self.weights, str):
                mapping.add(caller="fit", callee="score")
        router.add(estimator=unwrap_frozen(self.estimator), method_mapping=mapping)
        if hasattr(self.cv, "get_metadata_routing"):
            mapping = MethodMapping().add(caller="fit", callee="split")
            router.add(splitter=self.cv, method_mapping=mapping)
        if self.scoring is not None:
            mapping = MethodMapping().add(caller="fit", callee="score")
            mapping.add(caller="score", callee="score")
            router.add(
                scorer=resolve_scorer(self.estimator, self.scoring),
                method_mapping=mapping,
            )
        return router

    def _route(self, params: Mapping[str, Any]) -> Any:
        """Keyword arguments of ``fit`` by the consumer that takes them."""
        from sklearn import get_config
        from sklearn.utils import Bunch
        from sklearn.utils.metadata_routing import process_routing

        if params and get_config()["enable_metadata_routing"]:
            routed = process_routing(self, "fit", **params)
            if self.scoring is None and "estimator" in routed:
                routed["scorer"] = Bunch(score=routed.estimator.get("score", {}))
            return routed
        if params and self.checkpoints is not None:
            raise TypeError(
                f"fit with checkpoints trains nothing that takes {', '.join(params)}; "
                "to pass them to a scorer, call "
                "sklearn.set_config(enable_metadata_routing=True)"
            )
        return Bunch(estimator=Bunch(fit=dict(params)))
