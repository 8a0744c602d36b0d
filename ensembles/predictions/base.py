"""Base class of the classifier and regressor ensembles."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn import get_config
from sklearn.base import MetaEstimatorMixin, is_classifier
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import get_scorer
from sklearn.utils import Bunch, indexable
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping
from sklearn.utils.validation import check_is_fitted, validate_data

from ensembles._sklearn import warn_user
from ensembles.predictions.calibration import check_method
from ensembles.predictions.combiner_fitting import CombinerFit
from ensembles.predictions.combiners.combiner import Combiner
from ensembles.predictions.fitted_combiner import FittedCombiner
from ensembles.predictions.members.callbacks import with_callbacks
from ensembles.predictions.members.fitted_members import predicted, with_probabilities
from ensembles.predictions.members.fitting import (
    FittedMember,
    Fitting,
    Named,
    Split,
    drop_failed,
)
from ensembles.predictions.members.named_estimators import (
    NamedEstimators,
    check_features,
    check_kind,
    check_sample_weight,
    contains_frozen,
)
from ensembles.predictions.members.out_of_fold import (
    OutOfFold,
    fold_indices,
    stack_folds,
)
from ensembles.predictions.members.outputs import (
    ClassOutputs,
    Predictions,
    RegressionOutputs,
)
from ensembles.predictions.members.splits import make_splits
from ensembles.predictions.preconditions import (
    check_members,
    check_score,
    check_scoring,
    check_selection,
    checked_params,
)
from ensembles.predictions.weight_selection import (
    check_weights_parameter,
    learns_pool,
    selection_params,
)


class BaseEnsemble(MetaEstimatorMixin, NamedEstimators):
    """Base class of estimators that combine the predictions of their members."""

    rule: Any
    weights: Any
    params: Any
    calibrate: Any = None
    cv: Any
    scoring: Any
    on_error: Any
    keep_oof: Any
    memory: Any
    n_jobs: Any
    random_state: Any
    scores_: Any  # None if no data were held out
    oof_score_: Any

    @with_callbacks  # type: ignore[untyped-decorator]
    def fit(
        self, X: Any, y: Any, sample_weight: Any = None, **fit_params: Any
    ) -> BaseEnsemble:
        """Fit the members, and learn weights and calibration from held-out predictions.

        Parameters
        ----------
        X : array-like, sparse matrix, dataframe or sequence of shape (n_samples, ...)
            Training data, passed to the members unchanged.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets: labels for a classifier, numbers for a regressor.
        sample_weight : array-like of shape (n_samples,) or None, default=None
            Sample weights of the members, of learned weights and calibration, and of
            the score; None weights all samples equally. With metadata routing, members
            and scorer get them only if they request them.
        **fit_params
            Metadata for members, splitter and scorer that request it by metadata
            routing.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            If a parameter is invalid, or a member fails.

        Warns
        -----
        UserWarning
            If learned weights do not beat the best member, if ``scoring`` does not
            affect them, if weights or calibration are learned from data that fitted
            members may have seen, or if a member that failed is left out.
        """
        combiner, named = self._combiner(), self._members()
        check_kind(named, classifiers=is_classifier(self))
        own, others = self._checked(combiner)
        given = self._choice(combiner, own, others)
        X, _ = indexable(X, y)
        validate_data(self, X, y, skip_check_array=True)
        outputs, y = self._targets(y, combiner, self._fitted_already(named))
        if sample_weight is not None:
            sample_weight = check_sample_weight(sample_weight, len(y))
            fit_params = {**fit_params, "sample_weight": sample_weight}
        routed = self._routed(fit_params)
        score_weight = self._score_weight(routed, sample_weight)
        self._combination = FittedCombiner(combiner, own, outputs)
        links = {name for name, member in named if outputs.needs_link(member)}
        learns = (
            isinstance(given, str)
            or self.calibrate
            or combiner.needs_training_predictions
        )
        splits = self._splits(X, y, named, routed) if learns or links else []
        prefit = self._is_prefit()
        params = {name: {} if prefit else routed[name].fit for name, _ in named}
        if self.on_error == "raise":  # "drop" leaves out failing members later
            check_members(named, params, outputs)
        if learns:
            check_score(self._combination, y, splits, score_weight, self.scoring)
        fitting = Fitting(self, params, outputs, prefit)
        in_folds = None if learns else links
        members = [
            with_probabilities(one, splits, y, outputs, sample_weight)
            if one.name in links
            else one
            for one in fitting(named, X, y, splits, in_folds)
        ]
        given, held = self._keep(members, given), None
        if learns:
            stacks = stack_folds([one.folds for one in members], splits, len(y))
            folds = fold_indices(splits, len(y))
            held = OutOfFold(stacks, y, outputs, sample_weight, folds)
        self._learn(held, given, others, score_weight)
        return self

    def _keep(self, members: list[FittedMember], given: Any) -> Any:
        """Store the fitted members; return the weights of those, or ``given``."""
        self.named_estimators_ = Bunch(**{one.name: one.member for one in members})
        self.estimators_ = [one.member for one in members]
        if not isinstance(given, np.ndarray):
            return given
        names = [name for name, _ in self._pairs()]
        kept = [names.index(one.name) for one in members]
        self._combination, given = self._combination.subset(kept, given)
        return given

    def _combiner(self) -> Combiner:
        """Combiner of the ``rule`` parameter."""
        raise NotImplementedError

    def _targets(
        self, y: Any, combiner: Combiner, fitted: Named
    ) -> tuple[ClassOutputs | RegressionOutputs, Any]:
        """Prediction format of the targets, and the validated targets."""
        raise NotImplementedError

    def _is_prefit(self) -> bool:
        return isinstance(self.cv, str) and self.cv == "prefit"

    def _checked(self, combiner: Combiner) -> tuple[dict[str, Any], dict[str, Any]]:
        """Validated parameters of the combiner, and those of the selection."""
        if self.on_error not in ("raise", "drop"):
            raise ValueError(
                f"on_error must be 'raise' or 'drop', found {self.on_error!r}"
            )
        check_method(self.calibrate)
        check_scoring(self.scoring)
        params = checked_params(self.params)
        own = {name: params.pop(name) for name in combiner.params if name in params}
        combiner.check(len(self.estimators), own)
        return own, params

    def _choice(self, combiner: Combiner, own: Any, params: Any) -> Any:
        """Validated ``weights``; adds ``random_state`` to ``params`` if needed."""
        n_members = len(self.estimators)
        given = check_weights_parameter(self.weights, combiner, n_members, own, params)
        if "random_state" in selection_params(given, combiner):
            params.setdefault("random_state", self.random_state)
        if not isinstance(given, str):
            return given
        if not learns_pool(given, combiner):
            check_selection(given, len(self._members()), params)
        elif self.scoring not in (None, "neg_log_loss"):
            warn_user(
                f"scoring={self.scoring!r} does not choose the weights: {given!r} of "
                f"rule {combiner.name!r} are those of the least log-loss; it is what "
                "scores_ and oof_score_ are; weights='greedy' are chosen by it"
            )
        return given

    def _fitted_already(self, named: Named) -> Named:
        """Members that are not fitted again: all if prefit, else the frozen ones."""
        if not self._is_prefit():
            return [(n, m) for n, m in named if isinstance(m, FrozenEstimator)]
        for name, member in named:
            check_is_fitted(
                member,
                msg=f"member {name!r} must be fitted for cv='prefit'; where clones are "
                "made, as in GridSearchCV, wrap it in FrozenEstimator",
            )
        return named

    def _splits(self, X: Any, y: Any, named: Named, routed: Any) -> list[Split]:
        """Splits that hold data out; a single split with all rows as test if prefit."""
        if self._is_prefit() or any(contains_frozen(member) for _, member in named):
            warn_user(
                "weights and calibration are learned from the data given to fit: "
                "members that are fitted already must not have seen them"
            )
        if self._is_prefit():
            return [(np.arange(0), np.arange(len(y)))]
        params = routed.cv.split if hasattr(self.cv, "get_metadata_routing") else {}
        return make_splits(
            self.cv,
            X,
            y,
            classes=is_classifier(self),
            params=params,
            may_overlap=all(isinstance(m, FrozenEstimator) for _, m in named),
        )

    def _score_weight(self, routed: Any, sample_weight: Any) -> Any:
        """Sample weights of the score; with routing, only if requested."""
        if self.scoring is None or not get_config()["enable_metadata_routing"]:
            return sample_weight
        return routed.scoring.score.get("sample_weight")

    def _route_members(self, router: MetadataRouter) -> MetadataRouter:
        """Route the metadata of ``fit`` to the members, the splitter and the scorer."""
        if not self._is_prefit():
            super()._route_members(router)
        if hasattr(self.cv, "get_metadata_routing"):
            mapping = MethodMapping().add(caller="fit", callee="split")
            router.add(cv=self.cv, method_mapping=mapping)
        if self.scoring is not None:
            mapping = MethodMapping().add(caller="fit", callee="score")
            check_scoring(self.scoring)
            router.add(scoring=get_scorer(self.scoring), method_mapping=mapping)
        return router

    def _learn(
        self,
        held: OutOfFold | None,
        given: Any,
        params: dict[str, Any],
        score_weight: Any,
    ) -> None:
        """Learn weights and calibration from held-out predictions; set attributes."""
        names = list(self.named_estimators_)
        fit = CombinerFit(given, params, self.calibrate, self.scoring, names)
        self.oof_: Any = None
        if held is None:
            fitted = fit.given(self._combination)
        else:
            if self.keep_oof:
                self.oof_ = held.stacks if len(held.stacks) > 1 else held.stacks[0]
            some = held.was_held_out
            if score_weight is not None:
                score_weight = np.asarray(score_weight)[some]
            fitted = fit.learned(self._combination, held.subset(some), score_weight)
        self._combination, chosen, self.oof_score_ = fitted[:3]
        self.calibrators_, self.calibrator_ = fitted.calibrators, fitted.calibrator
        self.weights_, self.history_ = chosen.weights, chosen.history
        self.scores_, self.best_index_ = chosen.scores, chosen.best_index
        learned = self._combination.intercepts
        self.intercept_ = learned[0] if learned and len(learned) == 1 else learned

    def _answer(self, X: Any) -> Predictions:
        """Combined predictions; with one output, members are combined one at a time."""
        check_features(self, X)
        # Members with weight 0 do not affect the result, so they do not predict.
        places = np.flatnonzero(self.weights_).tolist() or [0]
        names = list(self.named_estimators_)
        said = predicted(
            {names[place]: self.estimators_[place] for place in places},
            [self.calibrators_[place] for place in places],
            self._combination.outputs,
            X,
            on_error=self.on_error,
            n_jobs=self.n_jobs,
        )
        if self.on_error == "drop":
            found = list(said)
            left = drop_failed([names[p] for p in places], [[f] for f in found])
            places, said = [places[i] for i in left], iter([found[i] for i in left])
        combination, weights = self._combination.subset(places, self.weights_)
        dtypes = set[np.dtype[Any]]()

        def noted() -> Iterator[Predictions]:
            for answer in said:
                dtypes.update(output.dtype for output in answer)
                yield answer

        if combination.outputs.n_outputs == 1:
            # Popped: joblib keeps a reference to each list while the next is computed.
            answer = combination([map(list.pop, noted())], weights)
        else:
            answer = combination(list(zip(*noted(), strict=True)), weights)
        if self.calibrator_ is not None:
            answer = self.calibrator_(answer)
        narrow = dtypes == {np.dtype(np.float32)}
        return [output.astype(np.float32) for output in answer] if narrow else answer
