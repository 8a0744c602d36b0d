"""Base class of the classifier and regressor ensembles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from sklearn import get_config
from sklearn.base import MetaEstimatorMixin, is_classifier
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import get_scorer
from sklearn.utils import Bunch
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping
from sklearn.utils.validation import check_is_fitted

from ensembles._sklearn import (
    check_bool,
    check_choice,
    check_mapping,
    check_n_jobs,
    warn_caller,
)
from ensembles.predictions.calibration.calibrator import Calibrator
from ensembles.predictions.combiners.combiner import Combiner
from ensembles.predictions.fitting.final_estimator import (
    check_final_estimator,
    check_fold_sizes,
)
from ensembles.predictions.fitting.fitted_combiner import FittedCombiner, as_float32
from ensembles.predictions.fitting.preconditions import (
    check_param_names,
    check_selection,
    check_weights_parameter,
    learns_pool,
    selection_params,
    warn_if_only_reported,
)
from ensembles.predictions.fitting.weight_fitting import (
    WeightFit,
    WeightSettings,
    fit_weights,
)
from ensembles.predictions.members.fitting import (
    FittedMember,
    Named,
    call_member,
    drop_failed,
    fit_clone,
    fit_members,
    run_tasks,
    with_callbacks,
    with_probabilities,
)
from ensembles.predictions.members.named_estimators import (
    NamedEstimators,
    check_features,
    check_member_types,
    check_training_data,
    contains_frozen,
)
from ensembles.predictions.members.out_of_fold import (
    OutOfFold,
    Split,
    fold_indices,
    make_splits,
    stack_folds,
)
from ensembles.predictions.members.outputs import OutputSpec, Predictions
from ensembles.predictions.members.sample_weight import (
    check_accepts_sample_weight,
    check_sample_weight,
)
from ensembles.predictions.metrics.table import check_score, resolve_scoring
from ensembles.selection.choose import SelectionResult
from ensembles.selection.table import generator_of


class BaseEnsemble(MetaEstimatorMixin, NamedEstimators):
    """Base class of estimators that combine the predictions of their members."""

    rule: Any
    weights: Any
    rule_params: Any
    weights_params: Any
    cv: Any
    scoring: Any
    on_error: Any
    keep_oof: Any
    memory: Any
    n_jobs: Any
    random_state: Any
    final_estimator: Any = None
    scores_: Any  # None if no data were held out
    oof_score_: Any

    @with_callbacks  # type: ignore[untyped-decorator]
    def fit(
        self, X: Any, y: Any, sample_weight: Any = None, **fit_params: Any
    ) -> BaseEnsemble:
        """Fit the members, and learn weights and calibration out of fold.

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
        self : estimator
            The fitted ensemble.

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
        combiner, named_members = self._resolve_combiner(), self._members()
        check_member_types(named_members, classifiers=is_classifier(self))
        rule_params = check_mapping("rule_params", self.rule_params)
        settings = self._check_parameters(combiner, rule_params)
        X = check_training_data(self, X, y)
        outputs, y = self._check_targets(
            y, combiner, self._already_fitted(named_members)
        )
        if sample_weight is not None:
            sample_weight = check_sample_weight(sample_weight, len(y))
            fit_params = {**fit_params, "sample_weight": sample_weight}
        routed = self._routed(fit_params)
        score_weight = self._score_weight(routed, sample_weight)
        settings = self._with_thresholds(settings, outputs)
        if not settings.learn_thresholds:
            warn_if_only_reported(settings.scoring, settings.weights, combiner)
        if self.final_estimator is not None:
            has_weights = sample_weight is not None
            check_final_estimator(
                self.final_estimator, outputs, has_weights=has_weights
            )
        fitted_combiner = FittedCombiner(combiner, rule_params, outputs)
        linked = {name for name, member in named_members if outputs.needs_link(member)}
        learns = self._learns(settings, combiner)
        splits = self._splits(X, y, named_members, routed) if learns or linked else []
        if self.final_estimator is not None:
            check_fold_sizes(splits, self.cv)
        prefit = self._is_prefit()
        params = {name: {} if prefit else routed[name].fit for name, _ in named_members}
        if self.on_error == "raise":  # "drop" leaves out failing members later
            for name, member in named_members:
                outputs.check_methods(name, member)
                check_accepts_sample_weight(name, member, params[name])
        if learns:
            check_score(fitted_combiner, y, splits, score_weight, settings.scoring)
        members = fit_members(
            self,
            named_members,
            X,
            y,
            params=params,
            outputs=outputs,
            splits=splits,
            on_splits={name for name, _ in named_members} if learns else linked,
            fit=None if prefit else fit_clone,
        )
        members = [
            with_probabilities(member, splits, y, outputs, sample_weight)
            if member.name in linked
            else member
            for member in members
        ]
        names = [member.name for member in members]
        if isinstance(settings.weights, np.ndarray):
            fitted_combiner, settings = self._without_dropped(
                fitted_combiner, settings, names
            )
        if not learns:
            fit = _unscored(settings, fitted_combiner, len(members))
            self._set_fitted(members, fit, None, X)
            return self
        stacks = stack_folds([member.folds for member in members], splits, len(y))
        folds = fold_indices(splits, len(y))
        out_of_fold = OutOfFold(stacks, y, outputs, sample_weight, folds)
        fit = fit_weights(settings, fitted_combiner, out_of_fold, score_weight, names)
        self._set_fitted(members, fit, out_of_fold, X)
        return self

    def _resolve_combiner(self) -> Combiner:
        """Combiner of the ``rule`` parameter."""
        raise NotImplementedError

    def _check_targets(
        self, y: Any, combiner: Combiner, fitted: Named
    ) -> tuple[OutputSpec, Any]:
        """Prediction format of the targets, and the validated targets."""
        raise NotImplementedError

    def _calibration_method(self) -> str | None:
        """Validated calibration method; None if the estimator has none."""
        return None

    def _with_thresholds(
        self, settings: WeightSettings, outputs: OutputSpec
    ) -> WeightSettings:
        """Settings with the choice whether to learn thresholds of the classes."""
        return settings

    def _is_prefit(self) -> bool:
        return isinstance(self.cv, str) and self.cv == "prefit"

    def _check_parameters(
        self, combiner: Combiner, rule_params: dict[str, Any]
    ) -> WeightSettings:
        """Validate all parameters but ``estimators``, ``rule`` and ``cv``."""
        check_choice("on_error", self.on_error, ("raise", "drop"))
        check_bool("keep_oof", self.keep_oof)
        check_n_jobs(self.n_jobs)
        if not isinstance(self.random_state, np.random.RandomState):
            generator_of(self.random_state)  # of a RandomState it would draw a seed
        calibrate = self._calibration_method()
        scoring = resolve_scoring(self.scoring)
        n_members = len(self.estimators)
        weights = check_weights_parameter(self.weights, combiner, n_members)
        weights_params = check_mapping("weights_params", self.weights_params)
        check_param_names(combiner, self.weights, rule_params, weights_params)
        combiner.check(n_members, rule_params)
        if isinstance(weights, str) and not learns_pool(weights, combiner):
            if "random_state" in selection_params(weights, combiner):
                weights_params.setdefault("random_state", self.random_state)
            check_selection(weights, len(self._members()), weights_params)
        return WeightSettings(
            weights, weights_params, scoring, calibrate, self.final_estimator
        )

    def _already_fitted(self, named_members: Named) -> Named:
        """Members that are not fitted again: all if prefit, else the frozen ones."""
        if not self._is_prefit():
            return [(n, m) for n, m in named_members if isinstance(m, FrozenEstimator)]
        for name, member in named_members:
            check_is_fitted(
                member,
                msg=f"member {name!r} must be fitted for cv='prefit'; wrap it in "
                "FrozenEstimator if the ensemble is cloned, as in GridSearchCV",
            )
        return named_members

    def _splits(self, X: Any, y: Any, named_members: Named, routed: Any) -> list[Split]:
        """Splits that hold data out; a single split with all rows as test if prefit."""
        if self._is_prefit() or any(
            contains_frozen(member) for _, member in named_members
        ):
            warn_caller(
                "weights and calibration are learned from the data passed to fit: "
                "members that are already fitted must not have seen these data"
            )
        if self._is_prefit():
            return [(np.arange(0), np.arange(len(y)))]
        params = routed.cv.split if hasattr(self.cv, "get_metadata_routing") else {}
        return make_splits(
            self.cv,
            X,
            y,
            classifier=is_classifier(self),
            params=params,
            may_overlap=all(isinstance(m, FrozenEstimator) for _, m in named_members),
        )

    def _score_weight(self, routed: Any, sample_weight: Any) -> Any:
        """Sample weights of the score; with routing, only if requested."""
        if self.scoring is None or not get_config()["enable_metadata_routing"]:
            return sample_weight
        return routed.scoring.score.get("sample_weight")

    def _add_to_router(self, router: MetadataRouter) -> MetadataRouter:
        """Route the metadata of ``fit`` to the members, the splitter and the scorer."""
        if not self._is_prefit():
            super()._add_to_router(router)
        if hasattr(self.cv, "get_metadata_routing"):
            mapping = MethodMapping().add(caller="fit", callee="split")
            router.add(cv=self.cv, method_mapping=mapping)
        if self.scoring is not None:
            mapping = MethodMapping().add(caller="fit", callee="score")
            scorer = get_scorer(resolve_scoring(self.scoring))
            router.add(scoring=scorer, method_mapping=mapping)
        return router

    def _without_dropped(
        self, combiner: FittedCombiner, settings: WeightSettings, fitted: list[str]
    ) -> tuple[FittedCombiner, WeightSettings]:
        """Restrict given weights to the members that were fitted."""
        names = [name for name, _ in self._pairs()]
        indices = [names.index(name) for name in fitted]
        combiner, weights = combiner.subset(indices, settings.weights)
        return combiner, settings._replace(weights=weights)

    def _set_fitted(
        self,
        members: list[FittedMember],
        fit: WeightFit,
        out_of_fold: OutOfFold | None,
        X: Any,
    ) -> None:
        """Set the fitted attributes: at the end of ``fit``, which may fail before."""
        self.named_estimators_ = Bunch(**{m.name: m.estimator for m in members})
        self.estimators_ = [member.estimator for member in members]
        self.oof_: Any = None
        if out_of_fold is not None and self.keep_oof:
            stacks = out_of_fold.stacks
            self.oof_ = stacks if len(stacks) > 1 else stacks[0]
        self._fitted_combiner = fit.combiner
        self._calibrators, self._calibrator = fit.calibrators, fit.calibrator
        self.weights_, self.scores_ = fit.selected.weights, fit.selected.scores
        self.best_index_, self.history_ = fit.selected.best_index, fit.selected.history
        self.oof_score_ = fit.score
        final = fit.combiner.final
        models = None if final is None else final.models
        self.final_estimator_: Any = models
        if models is not None and len(models) == 1:
            self.final_estimator_ = models[0]

    def _member_predictions(
        self, X: Any, predict: Callable[..., Predictions] | None = None
    ) -> tuple[list[int], Iterator[Predictions]]:
        """Indices of the members with nonzero weight, and the predictions of each.

        Predictions are calibrated. A member that fails is left out if ``on_error`` is
        "drop"; then all predictions are made before the first is returned.
        """
        check_features(self, X)
        # Members with weight 0 do not affect the result, so they do not predict.
        indices = np.flatnonzero(self.weights_).tolist() or [0]
        if self._fitted_combiner.final is not None:
            indices = list(range(len(self.weights_)))
        names = list(self.named_estimators_)
        tasks = (
            (
                self.on_error,
                names[i],
                predict or predict_member,
                self._member_args(i, X),
            )
            for i in indices
        )
        results = run_tasks(self.n_jobs, call_member, tasks)
        if self.on_error == "raise":
            return indices, results
        finished = list(results)
        kept = drop_failed([names[i] for i in indices], [[r] for r in finished])
        return [indices[k] for k in kept], iter([finished[k] for k in kept])

    def _member_args(self, index: int, X: Any) -> tuple[Any, ...]:
        """Arguments of `predict_member`, without the ensemble: workers get a copy."""
        name, member = list(self.named_estimators_)[index], self.estimators_[index]
        outputs = self._fitted_combiner.outputs
        return outputs, name, member, self._calibrators[index], X

    def _combined_predictions(self, X: Any) -> Predictions:
        """Combined predictions; with one output, members are combined one at a time."""
        indices, results = self._member_predictions(X)
        combiner, weights = self._fitted_combiner.subset(indices, self.weights_)
        dtypes = set[np.dtype[Any]]()

        def noted() -> Iterator[Predictions]:
            for predictions in results:
                dtypes.update(output.dtype for output in predictions)
                yield predictions

        if combiner.outputs.n_outputs == 1:
            # Popped: joblib keeps a reference to each list while the next is computed.
            combined = combiner([map(list.pop, noted())], weights)
        else:
            combined = combiner(list(zip(*noted(), strict=True)), weights)
        if self._calibrator is not None:
            combined = self._calibrator(combined)
        return as_float32(combined, dtypes)

    def _learns(self, settings: WeightSettings, combiner: Combiner) -> bool:
        """Whether weights, calibration, thresholds or ranks are learned."""
        has_selection = isinstance(settings.weights, str)
        has_final = settings.final_estimator is not None
        return bool(
            has_selection
            or has_final
            or settings.calibrate
            or settings.learn_thresholds
            or combiner.needs_training_predictions
        )


def predict_member(
    outputs: OutputSpec, name: str, member: Any, calibrator: Calibrator | None, X: Any
) -> Predictions:
    """Predictions of a fitted member, calibrated.

    Parameters
    ----------
    outputs : ClassOutputs or RegressionOutputs
        Format of the predictions.
    name : str
        Name of the member.
    member : estimator
        Fitted member.
    calibrator : Calibrator or None
        Calibrator of the predictions; None leaves them unchanged.
    X : array-like of shape (n_samples, ...)
        Samples, passed to the member unchanged.

    Returns
    -------
    list of n_outputs ndarrays of shape (n_samples, n_columns)
    """
    predictions = outputs.predict(name, member, X)
    return predictions if calibrator is None else calibrator(predictions)


def _unscored(
    settings: WeightSettings, combiner: FittedCombiner, n_members: int
) -> WeightFit:
    """Given or equal weights, without out-of-fold predictions."""
    weights = settings.weights
    if weights is None:
        weights = combiner.combiner.equal_weights(n_members)
    return WeightFit(combiner, SelectionResult(weights), None, [None] * n_members)
