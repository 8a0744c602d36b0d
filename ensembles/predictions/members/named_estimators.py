"""Base class of estimators with named members, and checks of members and features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sklearn import get_config
from sklearn.base import BaseEstimator
from sklearn.frozen import FrozenEstimator
from sklearn.utils import Bunch, check_array, get_tags, indexable
from sklearn.utils.metadata_routing import (
    MetadataRouter,
    MethodMapping,
)
from sklearn.utils.validation import _num_samples, check_is_fitted, validate_data

from ensembles.predictions.members.fitting import CallbackSupport


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
                "estimators must be a non-empty list of (name, estimator) pairs: found "
                f"{self.estimators!r}"
            )
        names = [name for name, _ in pairs]
        reserved = {"self", "method_mapping", *super().get_params(deep=False)}
        for name in names:
            if not isinstance(name, str) or "__" in name or name in reserved:
                raise ValueError(
                    "names of estimators must be strings without '__' that are not "
                    f"names of parameters: found {name!r}"
                )
        if len(set(names)) < len(names):
            raise ValueError(f"names of estimators must be unique: found {names}")
        members = [(name, member) for name, member in pairs if member != "drop"]
        if not members:
            raise ValueError("at least one member must not be 'drop': all are")
        for name, member in members:
            if isinstance(member, type):
                raise TypeError(
                    f"member {name!r} must be an estimator, not a class: pass "
                    f"{member.__name__}()"
                )
            if not hasattr(member, "fit"):
                raise TypeError(
                    f"member {name!r} must be an estimator with a fit method: found "
                    f"{member!r}"
                )
        return members

    def get_metadata_routing(self) -> MetadataRouter:
        """Metadata routing of ``fit`` to the members.

        Returns
        -------
        MetadataRouter
            Includes the requests of the ensemble itself if any were set.
        """
        return self._router(with_self=hasattr(self, "_metadata_request"))

    def _router(self, *, with_self: bool) -> MetadataRouter:
        """Router to the members; ``with_self`` adds the ensemble's own requests."""
        router = MetadataRouter(owner=self)
        if with_self:
            router.add_self_request(self)
        return self._add_to_router(router)

    def _add_to_router(self, router: MetadataRouter) -> MetadataRouter:
        for name, member in self._pairs():
            if hasattr(member, "get_metadata_routing"):
                mapping = MethodMapping().add(caller="fit", callee="fit")
                if hasattr(self, "fit_transform"):
                    has_method = hasattr(member, "fit_transform")
                    callee = "fit_transform" if has_method else "fit"
                    mapping.add(caller="fit_transform", callee=callee)
                router.add(**{name: member}, method_mapping=mapping)
        return router

    def _routed(self, params: dict[str, Any], method: str = "fit") -> Any:
        """Metadata for each consumer, as ``routed[name].method``."""
        if get_config()["enable_metadata_routing"]:
            router = self._router(with_self=True)
            router.validate_metadata(params=params, method=method)
            return router.route_params(params=params, caller=method)
        unknown = [name for name in params if name != "sample_weight"]
        if unknown:
            raise TypeError(
                f"{method} must not get {', '.join(unknown)} without metadata routing; "
                "enable it: sklearn.set_config(enable_metadata_routing=True)"
            )
        to_member = Bunch(fit=params, fit_transform=params)
        members = {name: to_member for name, _ in self._pairs()}
        # Members last: a transformer may have members named "cv" or "scoring".
        consumers = {"cv": Bunch(split={}), "scoring": Bunch(score=params)}
        return Bunch(**{**consumers, **members})

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "weights_")  # `fit` sets it at its end

    def _sk_visual_block_(self) -> Any:
        """Members side by side, for the HTML representation."""
        from sklearn.utils._repr_html.estimator import _VisualBlock

        names, members = zip(*self._pairs(), strict=True)
        return _VisualBlock("parallel", members, names=names)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        members = [m for _, m in self._pairs() if hasattr(m, "__sklearn_tags__")]
        if not members:
            return tags
        inputs = [get_tags(member).input_tags for member in members]
        for tag in ("sparse", "allow_nan", "string", "two_d_array", "categorical"):
            setattr(tags.input_tags, tag, all(getattr(entry, tag) for entry in inputs))
        tags.input_tags.positive_only = any(entry.positive_only for entry in inputs)
        targets = [get_tags(member).target_tags for member in members]
        for tag in ("multi_output", "single_output"):
            setattr(
                tags.target_tags, tag, all(getattr(entry, tag) for entry in targets)
            )
        return tags


def check_member_types(
    named_members: Sequence[tuple[str, Any]], *, classifiers: bool
) -> None:
    """Raise unless all members are classifiers, or all are regressors.

    Members without scikit-learn tags pass, and so do members tagged as neither or both.

    Parameters
    ----------
    named_members : sequence of (name, estimator)
        Members by name.
    classifiers : bool
        True requires classifiers, False regressors.

    Raises
    ------
    TypeError
        If the tags of a member give only the other kind.
    """
    kinds = ("classifier", "regressor") if classifiers else ("regressor", "classifier")
    for name, member in named_members:
        if isinstance(member, type) or not hasattr(member, "__sklearn_tags__"):
            continue
        tags = get_tags(member)
        is_kind, is_other = (getattr(tags, f"{k}_tags") is not None for k in kinds)
        if is_other and not is_kind:
            raise TypeError(
                f"member {name!r} must be a {kinds[0]}: {type(member).__name__} is a "
                f"{kinds[1]}; use Ensemble{kinds[1].capitalize()} for such members"
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
    has_params = hasattr(member, "get_params") and not isinstance(member, type)
    values = member.get_params(deep=True).values() if has_params else []
    return any(isinstance(value, FrozenEstimator) for value in (member, *values))


def check_training_data(estimator: Any, X: Any, y: Any = None) -> Any:
    """Raise unless there are samples, and store the number and names of the columns.

    Parameters
    ----------
    estimator : estimator
        Its ``n_features_in_`` and ``feature_names_in_`` are set, or deleted if ``X``
        has no columns.
    X : array-like of shape (n_samples, ...)
        Training data.
    y : array-like of shape (n_samples, ...) or None, default=None
        Targets; None if the estimator needs none.

    Returns
    -------
    array-like
        ``X``, indexable by row.

    Raises
    ------
    ValueError
        If there are no samples, the lengths of ``X`` and ``y`` differ, or ``y`` is
        missing.
    TypeError
        If ``X`` has no length.
    """
    if _num_samples(X) == 0:
        raise ValueError("X must have at least one sample, found none")
    X, _ = indexable(X, y)
    vars(estimator).pop("n_features_in_", None)  # texts have no columns to count
    validate_data(estimator, X, y, skip_check_array=True)
    return X


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
