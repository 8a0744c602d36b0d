"""Predictions of members and their scores, as the displays draw them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ensembles._sklearn import check_mapping
from ensembles._typing import Float64
from ensembles.predictions.combiners.builtin import resolve_combiner
from ensembles.predictions.fitting.fitted_combiner import FittedCombiner
from ensembles.predictions.fitting.weight_fitting import (
    WeightFit,
    WeightSettings,
    fit_weights,
)
from ensembles.predictions.members.out_of_fold import OutOfFold
from ensembles.predictions.members.outputs import (
    ClassOutputs,
    OutputSpec,
    check_class_targets,
    check_regression_targets,
)
from ensembles.predictions.members.sample_weight import check_sample_weight
from ensembles.predictions.thresholds.learning import (
    check_thresholds,
    supports_thresholds,
)
from ensembles.reports.displays.figures import member_names

# Names of scorers that are not those of their metrics.
METRICS = {
    "f1": "F1",
    "f1_macro": "macro F1",
    "matthews_corrcoef": "MCC",
    "mcc": "MCC",
    "r2": "R²",
    "roc_auc": "AUC",
}
ROUNDING = 1e-6  # of float32 probabilities, whose largest can exceed 1
ONE_TARGET = "a display needs an ensemble with one target, found several"


class Metric(NamedTuple):
    """Name of a score as it is drawn, and its sign.

    Parameters
    ----------
    name : str
        Name, such as "log loss" for the scorer "neg_log_loss".
    lower_is_better : bool
        Whether the value is drawn with the opposite sign of the scorer.
    """

    name: str
    lower_is_better: bool

    def values(self, scores: Any) -> Float64:
        """Scores of the scorer with the sign that is drawn.

        Parameters
        ----------
        scores : array-like
            Values of the scorer.

        Returns
        -------
        ndarray, float64
        """
        values = np.asarray(scores, np.float64)
        return -values if self.lower_is_better else values


def metric_of(scoring: Any, *, is_classifier: bool) -> Metric:
    """Name and sign of a scorer, as they are drawn.

    Parameters
    ----------
    scoring : str, callable or None
        Scorer; None is the log-loss of classifiers and the mean squared error of
        regressors.
    is_classifier : bool
        Whether the scorer is of a classifier.

    Returns
    -------
    Metric

    Examples
    --------
    >>> metric_of("neg_log_loss", is_classifier=True)
    Metric(name='log loss', lower_is_better=True)
    """
    if scoring is None:
        scoring = "neg_log_loss" if is_classifier else "neg_mean_squared_error"
    name = (
        scoring if isinstance(scoring, str) else getattr(scoring, "__name__", "score")
    )
    text = "score" if name == "<lambda>" else name.removeprefix("neg_")
    return Metric(METRICS.get(text, text.replace("_", " ")), name.startswith("neg_"))


def metric_of_estimator(ensemble: Any) -> Metric:
    """Name and sign of the score of a fitted ensemble.

    Parameters
    ----------
    ensemble : EnsembleClassifier, EnsembleRegressor or QuantileEnsemble
        Fitted ensemble.

    Returns
    -------
    Metric
    """
    from sklearn.base import is_classifier

    if not hasattr(ensemble, "scoring"):
        return Metric("score of quantiles", lower_is_better=True)
    return metric_of(ensemble.scoring, is_classifier=is_classifier(ensemble))


def fitted_names(ensemble: Any, names: Sequence[str] | None) -> list[str]:
    """Names of the members of a fitted ensemble.

    Parameters
    ----------
    ensemble : EnsembleClassifier, EnsembleRegressor or QuantileEnsemble
        Fitted ensemble.
    names : sequence of str or None
        Names to use; None uses those of the ensemble, or letters.

    Returns
    -------
    list of str

    Raises
    ------
    ValueError
        If the number of names is not that of the members.
    """
    if names is None and hasattr(ensemble, "named_estimators_"):
        names = list(ensemble.named_estimators_)
    return member_names(list(ensemble.weights_), names)


class MemberPredictions(NamedTuple):
    """Predictions of all members for the same rows, with the true targets.

    Parameters
    ----------
    names : list of str
        Names of the members.
    out_of_fold : OutOfFold
        Predictions of rows that no member was fitted to, and the true targets.
    """

    names: list[str]
    out_of_fold: OutOfFold

    @property
    def is_classifier(self) -> bool:
        """Whether the members predict class probabilities."""
        return isinstance(self.out_of_fold.outputs, ClassOutputs)

    def combiner(self, rule: Any, rule_params: Any) -> FittedCombiner:
        """Rule with its parameters, for these predictions.

        Parameters
        ----------
        rule : str, Combiner or Rule
            Rule of the ensemble.
        rule_params : dict or None
            Parameters of the rule; None means its defaults.

        Returns
        -------
        FittedCombiner
        """
        params = check_mapping("rule_params", rule_params)
        combiner = resolve_combiner(
            rule, of="probabilities" if self.is_classifier else "values"
        )
        combiner.check(len(self.names), params)
        fitted = FittedCombiner(combiner, params, self.out_of_fold.outputs)
        return fitted.with_training_predictions(self.out_of_fold)

    def one_output(self, combined: Any) -> Float64:
        """Predictions of an ensemble in the shape of those of one member.

        Parameters
        ----------
        combined : array-like of shape (n_rows[, n_columns])
            Predictions of an ensemble for the same rows.

        Returns
        -------
        ndarray of shape (n_rows, n_columns)

        Raises
        ------
        ValueError
            If the shape is not that of the predictions of a member, an entry is not
            finite, or an entry of class probabilities is not between 0 and 1.
        """
        shape = self.out_of_fold.stacks[0].shape[1:]
        values = np.asarray(combined, np.float64)
        values = values[:, None] if values.ndim == 1 else values
        _check_entries("combined", values, is_classifier=self.is_classifier)
        if values.shape != shape:
            raise ValueError(
                f"combined must have the shape of a member's predictions, {shape}: "
                f"found {values.shape}"
            )
        return values


def check_predictions(
    y_true: Any,
    predictions: Any,
    *,
    names: Sequence[str] | None = None,
    classes: Any = None,
    sample_weight: Any = None,
    folds: Any = None,
) -> MemberPredictions:
    """Validate the predictions of members for rows that they were not fitted to.

    Parameters
    ----------
    y_true : array-like of shape (n_rows,)
        True labels or values.
    predictions : array-like of shape (n_members, n_rows[, n_classes])
        Class probabilities, with columns in the order of ``classes``; without the last
        axis, or with one column, predicted values of a regression. Rows that are NaN
        for all members, such as rows of ``oof_`` that no split holds out, are left out.
    names : sequence of str or None, default=None
        Names of the members; None uses letters.
    classes : array-like of shape (n_classes,) or None, default=None
        Sorted labels of the columns; None uses the labels in ``y_true``.
    sample_weight : array-like of shape (n_rows,) or None, default=None
        Sample weights; None weights all rows equally.
    folds : array-like of shape (n_rows,) or None, default=None
        Index of the split that each row was held out in; None draws folds.

    Returns
    -------
    MemberPredictions

    Raises
    ------
    ValueError
        If shapes do not match, a prediction is not finite, a class probability is not
        between 0 and 1, or a sample weight is negative or not finite.
    """
    stack = np.asarray(predictions, np.float64)
    if stack.ndim == 3 and stack.shape[2] == 1:
        stack = stack[:, :, 0]
    if stack.ndim not in (2, 3) or not stack.size:
        raise ValueError(
            "predictions must have the shape (n_members, n_rows, n_classes), or "
            f"(n_members, n_rows) for a regression: found {stack.shape}"
        )
    outputs, y = _check_targets(y_true, stack, classes)
    if stack.ndim == 2:
        stack = stack[:, :, None]
    if stack.shape[1] != len(y):
        raise ValueError(
            f"predictions must have a row for each of {len(y)} targets, found "
            f"{stack.shape[1]}"
        )
    weight = None
    if sample_weight is not None:
        weight = check_sample_weight(sample_weight, len(y))
    indices = None if folds is None else np.asarray(folds)
    out_of_fold = OutOfFold([stack], y, outputs, weight, indices)
    out_of_fold = out_of_fold.subset(out_of_fold.was_held_out)
    checked = out_of_fold.stacks[0] if len(out_of_fold.y) else stack
    is_classifier = isinstance(outputs, ClassOutputs)
    _check_entries("predictions", checked, is_classifier=is_classifier)
    return MemberPredictions(member_names(list(stack), names), out_of_fold)


def _check_entries(name: str, values: Float64, *, is_classifier: bool) -> None:
    """Raise if an entry is not finite, or is not a probability of a classifier."""
    n_missing = int((~np.isfinite(values)).sum())
    if n_missing:
        raise ValueError(
            f"{name} must be finite: found {n_missing} NaN or infinite values"
        )
    is_outside = (values < 0) | (values > 1 + ROUNDING)
    if is_classifier and is_outside.any():
        raise ValueError(
            f"{name} must be class probabilities between 0 and 1: found "
            f"{values[is_outside][0]:.6g}; convert logits with scipy.special.softmax"
        )


def _check_targets(y_true: Any, stack: Float64, classes: Any) -> tuple[OutputSpec, Any]:
    """Format of the predictions, and the validated targets of a single output."""
    if stack.ndim == 2:
        outputs, y = check_regression_targets(y_true, quantiles=False)
        if y.ndim != 1:
            raise ValueError(f"y_true must be one target, found shape {y.shape}")
        return outputs, y
    found, y = check_class_targets(y_true, [], voting=False, missing_class="error")
    if found.n_outputs > 1:
        raise ValueError(f"y_true must be one target, found {found.n_outputs} targets")
    labels = found.classes[0] if classes is None else np.asarray(classes)
    found = found._replace(classes=[labels])
    if stack.shape[2] != len(labels):
        raise ValueError(
            f"predictions must have a column for each of the classes "
            f"{labels.tolist()}: found {stack.shape[2]} columns; pass classes=[...] "
            "with all labels in sorted order"
        )
    found.encode(y)  # raises if a label is not among the classes
    return found, y


def predict_members(ensemble: Any, X: Any, y: Any) -> MemberPredictions:
    """Predictions of the members of a fitted ensemble, calibrated if it calibrates.

    Parameters
    ----------
    ensemble : EnsembleClassifier or EnsembleRegressor
        Fitted ensemble with a single target.
    X : array-like of shape (n_rows, ...)
        Rows that the ensemble was not fitted to.
    y : array-like of shape (n_rows,)
        True labels or values.

    Returns
    -------
    MemberPredictions

    Raises
    ------
    ValueError
        If the ensemble has several targets.
    """
    from sklearn.utils.validation import check_is_fitted

    check_is_fitted(ensemble)
    outputs: OutputSpec = ensemble._fitted_combiner.outputs
    if outputs.n_outputs > 1 or outputs.multioutput:
        raise ValueError(ONE_TARGET)
    stack = []
    for (name, member), calibrate in zip(
        ensemble.named_estimators_.items(), ensemble._calibrators, strict=True
    ):
        predicted = outputs.predict(name, member, X)
        stack.append((predicted if calibrate is None else calibrate(predicted))[0])
    classes = getattr(ensemble, "classes_", None)
    values = np.stack(stack)
    return check_predictions(
        y,
        values if classes is not None else values[:, :, 0],
        names=list(ensemble.named_estimators_),
        classes=classes,
    )


def learn_weights(
    members: MemberPredictions,
    *,
    rule: Any = None,
    weights: Any = "convex",
    rule_params: Any = None,
    weights_params: Any = None,
    scoring: Any = None,
    thresholds: Any = "auto",
) -> WeightFit:
    """Weights learned from predictions, as the estimators learn them out of fold.

    Parameters
    ----------
    members : MemberPredictions
        Predictions of the members for rows that they were not fitted to.
    rule : str, Combiner, Rule or None, default=None
        Rule that combines the predictions; None is the default of the estimators,
        "log_pool" for classifiers and "mean" for regressors.
    weights : array-like of shape (n_members,), str or None, default="convex"
        Weights, or the name of a selection, as in the estimators.
    rule_params, weights_params : dict or None, default=None
        Parameters of the rule and of the selection; None means their defaults.
    scoring : str, callable or None, default=None
        Score that selections maximize, as in the estimators.
    thresholds : {"auto"}, array-like of shape (n_classes,) or None, default="auto"
        Thresholds of the classes, as in `EnsembleClassifier`.

    Returns
    -------
    WeightFit
    """
    if rule is None:
        rule = "log_pool" if members.is_classifier else "mean"
    params = check_mapping("weights_params", weights_params)
    out_of_fold = members.out_of_fold
    outputs = out_of_fold.outputs
    combiner = members.combiner(rule, rule_params)
    if isinstance(outputs, ClassOutputs):
        given = check_thresholds(thresholds, outputs)
        combiner = replace(combiner, outputs=outputs._replace(thresholds=given))
    learns = isinstance(thresholds, str) and supports_thresholds(scoring, outputs)
    settings = WeightSettings(weights, params, scoring, learn_thresholds=learns)
    return fit_weights(
        settings,
        combiner,
        out_of_fold,
        out_of_fold.sample_weight,
        members.names,
    )
