"""Base class and input checks of ensembles with named members."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn import get_config
from sklearn.base import BaseEstimator
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils import Bunch, check_array, get_tags
from sklearn.utils.metadata_routing import (
    MetadataRouter,
    MethodMapping,
)
from sklearn.utils.validation import check_is_fitted, validate_data

from ensembles._typing import Float64
from ensembles.predictions.members.callbacks import CallbackSupport


class NamedEstimators(CallbackSupport, BaseEstimator):
    """Base class of estimators with ``estimators``, a list of (name, estimator) pairs.

    Members and their parameters are accessible by ``get_params`` and ``set_params``.
    """

    estimators: Any

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Parameters of the ensemble, its members by name, and their parameters.

        Parameters
        ----------
        deep : bool, default=True
            Whether to include the members and their parameters.

        Returns
        -------
        dict of str to value
            Parameters of a member have the key ``name__parameter``.
        """
        params: dict[str, Any] = super().get_params(deep=deep)
        if not deep:
            return params
        for name, member in self._pairs():
            params[name] = member
            if hasattr(member, "get_params") and not isinstance(member, type):
                for key, value in member.get_params(deep=True).items():
                    params[f"{name}__{key}"] = value
        return params

    def set_params(self, **params: Any) -> NamedEstimators:
        """Set parameters of the ensemble, replace members, or set their parameters.

        Parameters
        ----------
        **params
            Values by parameter name. A member's name replaces the member, and
            ``name__parameter`` sets a parameter of a member.

        Returns
        -------
        self
        """
        if "estimators" in params:
            self.estimators = params.pop("estimators")
        pairs = self._pairs()
        replaced = {name: params.pop(name) for name, _ in pairs if name in params}
        if replaced:
            self.estimators = [(n, replaced.get(n, member)) for n, member in pairs]
        super().set_params(**params)
        return self

    def _pairs(self) -> list[tuple[str, Any]]:
        """(name, member) pairs; empty if ``estimators`` is not a list of pairs."""
        try:
            return [(name, member) for name, member in self.estimators]
        except (TypeError, ValueError):
            return []

    def _members(self) -> list[tuple[str, Any]]:
        """(name, member) pairs, without the members set to "drop".

        Raises
        ------
        ValueError
            If no member remains, or names are not unique, contain ``__`` or are names
            of parameters.
        TypeError
            If a member is a class or has no ``fit``.
        """
        pairs = self._pairs()
        if not pairs:
            raise ValueError(
                "estimators must be a list of (name, estimator) pairs, not empty; "
                f"found {self.estimators!r}"
            )
        names = [name for name, _ in pairs]
        taken = {"self", "method_mapping", *super().get_params(deep=False)}
        for name in names:
            if not isinstance(name, str) or "__" in name or name in taken:
                raise ValueError(
                    "names of estimators must be strings without '__', and not names "
                    f"of parameters: found {name!r}"
                )
        if len(set(names)) < len(names):
            raise ValueError(f"names of estimators must be unique, found {names}")
        members = [(name, member) for name, member in pairs if member != "drop"]
        if not members:
            raise ValueError("every member is 'drop'; at least one must be left")
        for name, member in members:
            if isinstance(member, type):
                raise TypeError(
                    f"member {name!r} must be an estimator, found its class; write "
                    f"{member.__name__}()"
                )
            if not hasattr(member, "fit"):
                raise TypeError(
                    f"member {name!r} must be an estimator with fit, found {member!r}"
                )
        return members

    def get_metadata_routing(self) -> MetadataRouter:
        """Metadata routing of ``fit`` to the members.

        Returns
        -------
        MetadataRouter
            Includes the requests of the ensemble itself if any were set.
        """
        return self._router(own=hasattr(self, "_metadata_request"))

    def _router(self, *, own: bool) -> MetadataRouter:
        """Router to the members; ``own`` adds the requests of the ensemble itself."""
        router = MetadataRouter(owner=self)
        return self._route_members(router.add_self_request(self) if own else router)

    def _route_members(self, router: MetadataRouter) -> MetadataRouter:
        for name, member in self._pairs():
            if hasattr(member, "get_metadata_routing"):
                mapping = MethodMapping().add(caller="fit", callee="fit")
                if hasattr(self, "fit_transform"):
                    has_own = hasattr(member, "fit_transform")
                    callee = "fit_transform" if has_own else "fit"
                    mapping.add(caller="fit_transform", callee=callee)
                router.add(**{name: member}, method_mapping=mapping)
        return router

    def _routed(self, params: dict[str, Any], method: str = "fit") -> Any:
        """Metadata for each consumer, as ``routed[name].method``."""
        if get_config()["enable_metadata_routing"]:
            router = self._router(own=True)
            router.validate_metadata(params=params, method=method)
            return router.route_params(params=params, caller=method)
        unknown = [name for name in params if name != "sample_weight"]
        if unknown:
            raise TypeError(
                f"fit got {', '.join(unknown)}, which only metadata routing hands on: "
                "sklearn.set_config(enable_metadata_routing=True)"
            )
        own = Bunch(fit=params, fit_transform=params)
        members = {name: own for name, _ in self._pairs()}
        # Members last: a transformer may have members named "cv" or "scoring".
        others = {"cv": Bunch(split={}), "scoring": Bunch(score=params)}
        return Bunch(**{**others, **members})

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        members = [m for _, m in self._pairs() if hasattr(m, "__sklearn_tags__")]
        if not members:
            return tags
        found = [get_tags(member) for member in members]
        for fact in ("sparse", "allow_nan", "string", "two_d_array", "categorical"):
            setattr(
                tags.input_tags, fact, all(getattr(t.input_tags, fact) for t in found)
            )
        tags.input_tags.positive_only = any(t.input_tags.positive_only for t in found)
        for fact in ("multi_output", "single_output"):
            known = all(getattr(tag.target_tags, fact) for tag in found)
            setattr(tags.target_tags, fact, known)
        return tags


def check_kind(named: Sequence[tuple[str, Any]], *, classifiers: bool) -> None:
    """Raise unless all members are classifiers, or all are regressors.

    Members without scikit-learn tags pass, and so do members tagged as neither or both.

    Parameters
    ----------
    named : sequence of (name, estimator)
        Members by name.
    classifiers : bool
        True requires classifiers, False regressors.

    Raises
    ------
    TypeError
        If the tags of a member give only the other kind.
    """
    kinds = ("classifier", "regressor") if classifiers else ("regressor", "classifier")
    for name, member in named:
        if isinstance(member, type) or not hasattr(member, "__sklearn_tags__"):
            continue
        tags = get_tags(member)
        right, wrong = (getattr(tags, f"{kind}_tags") is not None for kind in kinds)
        if wrong and not right:
            raise TypeError(
                f"member {name!r} must be a {kinds[0]}, {type(member).__name__} is a "
                f"{kinds[1]}; members of Ensemble{kinds[1].capitalize()} are"
            )


def contains_frozen(member: Any) -> bool:
    """Whether a member is, or contains, a `FrozenEstimator`.

    Parameters
    ----------
    member : estimator
        Its parameters are searched too, e.g. the steps of a pipeline.

    Returns
    -------
    bool
    """
    known = hasattr(member, "get_params") and not isinstance(member, type)
    parts = member.get_params(deep=True).values() if known else []
    return any(isinstance(one, FrozenEstimator) for one in (member, *parts))


def check_features(estimator: Any, X: Any) -> None:
    """Raise unless the estimator is fitted and ``X`` has the columns seen in ``fit``.

    Parameters
    ----------
    estimator : estimator
        Has ``n_features_in_`` and ``feature_names_in_`` if ``fit`` could read them.
    X : array-like of shape (n_samples, ...)
        Samples to predict.

    Raises
    ------
    NotFittedError
        If the estimator is not fitted.
    ValueError
        If the number or the names of the columns differ.
    """
    check_is_fitted(estimator)
    if hasattr(estimator, "n_features_in_") and len(getattr(X, "shape", "XY")) < 2:
        check_array(X, dtype=None)  # its error says how to reshape X
    validate_data(estimator, X, reset=False, skip_check_array=True)


def check_sample_weight(sample_weight: Any, n_samples: int) -> Float64:
    """Validate sample weights and convert them to float64.

    Parameters
    ----------
    sample_weight : array-like of shape (n_samples,)
        Finite, non-negative, at least one positive.
    n_samples : int
        Number of samples.

    Returns
    -------
    ndarray of shape (n_samples,), float64

    Raises
    ------
    ValueError
        If the shape differs, a weight is negative or not finite, or all are zero.
    """
    weight: Float64 = check_array(
        sample_weight, ensure_2d=False, dtype=np.float64, input_name="sample_weight"
    )
    if weight.shape != (n_samples,):
        raise ValueError(
            f"sample_weight must be one number for each of {n_samples} samples, found "
            f"shape {weight.shape}"
        )
    if (weight < 0).any() or not weight.any():
        raise ValueError(
            "sample_weight must not be negative, nor zero everywhere: found "
            f"{weight.min()} to {weight.max()}"
        )
    return weight


def check_accepts_sample_weight(
    name: str, member: Any, params: Mapping[str, Any]
) -> None:
    """Raise if ``params`` has sample weights and the member's ``fit`` takes none.

    Parameters
    ----------
    name : str
        Name of the member, for the message.
    member : estimator
        Fitted or not; the signature of its ``fit`` is checked.
    params : mapping of str to value
        Keyword arguments of ``fit``.

    Raises
    ------
    TypeError
        If ``fit`` does not accept ``sample_weight``. A pipeline accepts it only with
        metadata routing.
    """
    if "sample_weight" not in params:
        return
    way_out = "leave out the weights, or this member"
    accepted = inspect.signature(member.fit).parameters.values()
    taken = any(p.name == "sample_weight" or p.kind == p.VAR_KEYWORD for p in accepted)
    if isinstance(member, Pipeline) and not get_config()["enable_metadata_routing"]:
        taken = False
        way_out += ", or sklearn.set_config(enable_metadata_routing=True) for its steps"
    if not taken:
        raise TypeError(
            f"member {name!r} must take sample_weight in fit, "
            f"{type(member).__name__} does not; {way_out}"
        )
