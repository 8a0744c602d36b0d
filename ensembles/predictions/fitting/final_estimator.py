"""A second layer: an estimator that is fitted on the predictions of the members."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import clone, is_classifier, is_regressor

from ensembles._typing import Float64
from ensembles.predictions.members.out_of_fold import OutOfFold, Split
from ensembles.predictions.members.outputs import (
    ClassOutputs,
    OutputSpec,
    Predictions,
)
from ensembles.predictions.members.sample_weight import check_accepts_sample_weight

# Rows of a fold, on average. The mean prediction of a fold falls as the mean of its
# targets rises, because its members are fitted on the other targets: a final estimator
# predicts noise from it, in folds of 6 rows with an R2 of 0.13, of one row with 1.
MIN_FOLD_SIZE = 10


class FinalEstimator(NamedTuple):
    """Fitted estimators of a second layer, one per output.

    Parameters
    ----------
    models : list of n_outputs estimators
        Fitted on the columns of all members, side by side. Classifiers predict the
        index of a class. Of two probabilities that sum to 1 only the second is used.
    outputs : ClassOutputs or RegressionOutputs
        Format of the predictions.
    """

    models: list[Any]
    outputs: OutputSpec

    def __call__(self, stacks: Sequence[Iterable[Any]]) -> Predictions:
        """Predictions from those of the members.

        Parameters
        ----------
        stacks : sequence of n_outputs iterables of n_members arrays
            Predictions, each array of shape (n_samples, n_columns); iterated once.

        Returns
        -------
        list of n_outputs ndarrays of shape (n_samples, n_columns), float64
        """
        predictions = []
        for model, members in zip(self.models, stacks, strict=True):
            stack = np.stack(list(members)).astype(np.float64)
            features = features_of(stack, self.outputs)
            if not isinstance(self.outputs, ClassOutputs):
                values = np.asarray(model.predict(features), np.float64)
                predictions.append(values.reshape(len(features), -1))
                continue
            y_proba = np.zeros(stack.shape[1:])
            y_proba[:, model.classes_] = model.predict_proba(features)
            predictions.append(self.outputs.finalize(y_proba))
        return predictions


def fit_final_estimator(estimator: Any, out_of_fold: OutOfFold) -> FinalEstimator:
    """Fit clones of an estimator on out-of-fold predictions of the members.

    Parameters
    ----------
    estimator : classifier or regressor
        Estimator to clone.
    out_of_fold : OutOfFold
        Predictions of the members, true targets and sample weights.

    Returns
    -------
    FinalEstimator

    References
    ----------
    Wolpert (1992), "Stacked generalization", Neural Networks 5.
    """
    outputs, weight = out_of_fold.outputs, out_of_fold.sample_weight
    params = {} if weight is None else {"sample_weight": weight}
    if isinstance(outputs, ClassOutputs):
        targets: list[Any] = outputs.encode(out_of_fold.y)
    else:
        targets = [out_of_fold.y]
    models = [
        clone(estimator).fit(features_of(stack, outputs), target, **params)
        for stack, target in zip(out_of_fold.stacks, targets, strict=True)
    ]
    return FinalEstimator(models, outputs)


def features_of(stack: Float64, outputs: OutputSpec) -> Float64:
    """Columns of all members side by side, as features of a final estimator.

    Parameters
    ----------
    stack : ndarray of shape (n_members, n_samples, n_columns)
        Predictions of the members.
    outputs : ClassOutputs or RegressionOutputs
        Format of the predictions.

    Returns
    -------
    ndarray of shape (n_samples, n_features)
        The first of two class probabilities is left out.
    """
    if isinstance(outputs, ClassOutputs) and stack.shape[2] == 2:
        stack = stack[:, :, 1:]
    return stack.transpose(1, 0, 2).reshape(stack.shape[1], -1)


def check_final_estimator(
    estimator: Any, outputs: OutputSpec, *, has_weights: bool
) -> None:
    """Raise unless an estimator can be fitted on the members' predictions.

    Parameters
    ----------
    estimator : object
        Value of the parameter ``final_estimator``.
    outputs : ClassOutputs or RegressionOutputs
        Format of the predictions.
    has_weights : bool
        Whether it is fitted with sample weights.

    Raises
    ------
    TypeError
        If it is not an estimator of the right kind, or takes no sample weights.
    ValueError
        If the members predict quantiles.
    """
    kind = "classifier" if isinstance(outputs, ClassOutputs) else "regressor"
    is_kind = is_classifier if kind == "classifier" else is_regressor
    is_estimator = hasattr(estimator, "fit") and not isinstance(estimator, type)
    if not is_estimator or not is_kind(estimator):
        raise TypeError(f"final_estimator must be a {kind}, found {estimator!r}")
    if kind == "classifier" and not hasattr(estimator, "predict_proba"):
        raise TypeError(
            f"final_estimator must have predict_proba, which {estimator!r} has not; "
            "wrap it in CalibratedClassifierCV"
        )
    if not isinstance(outputs, ClassOutputs) and outputs.width is None:
        raise ValueError(
            "final_estimator must be None for members that predict quantiles; use "
            "weights instead"
        )
    if has_weights:
        check_accepts_sample_weight("final_estimator", estimator, {"sample_weight": 1})


def check_fold_sizes(splits: Sequence[Split], cv: Any) -> None:
    """Raise if folds are so small that their predictions reveal the targets.

    Parameters
    ----------
    splits : sequence of (train, test)
        Splits for out-of-fold predictions of the members.
    cv : object
        Value of the parameter ``cv``, for the message.

    Raises
    ------
    ValueError
        If the test parts have fewer than `MIN_FOLD_SIZE` rows on average.
    """
    size = float(np.mean([len(test) for _, test in splits]))
    if size < MIN_FOLD_SIZE:
        raise ValueError(
            f"final_estimator needs folds of at least {MIN_FOLD_SIZE} rows on average: "
            f"those of cv={cv!r} have {size:.3g}. In smaller folds, out-of-fold "
            "predictions of the members reveal the targets; use fewer folds or more "
            "rows, or final_estimator=None"
        )
