"""Calibration of out-of-fold probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn import config_context
from sklearn.calibration import CalibratedClassifierCV
from sklearn.model_selection import StratifiedKFold

from ensembles._typing import Counts, Float64
from ensembles.predictions.calibration.matrix_scaling import MatrixScaling
from ensembles.predictions.members.out_of_fold import OutOfFold, Split
from ensembles.predictions.members.outputs import ClassOutputs, Predictions
from ensembles.predictions.members.precomputed import PrecomputedClassifier
from ensembles.predictions.members.sample_weight import scale_to_effective_size

METHODS = ("temperature", "matrix", "isotonic", "sigmoid")
N_FOLDS = 5  # at most, to calibrate samples that were held out in a single fold
# Output format without classes, to which the codes of one output are added.
SINGLE_OUTPUT = ClassOutputs(
    [], multioutput=False, multilabel=False, voting=False, missing_class="error"
)


def cross_calibrate(
    out_of_fold: OutOfFold, method: str
) -> tuple[list[Calibrator], OutOfFold]:
    """Calibrate each member, and cross-fit the calibration of its predictions.

    The returned predictions of each fold are calibrated with a model learned from the
    other folds; otherwise scores and weights would be computed on the samples that the
    calibration was fitted to. The folds are those in which the samples were held out.
    If there is only one, stratified folds are used, at most `N_FOLDS`. If a class has a
    single sample then, all samples are calibrated with a model learned from all.

    Parameters
    ----------
    out_of_fold : OutOfFold
        Probabilities of the members, with true labels and sample weights.
    method : {"temperature", "matrix", "isotonic", "sigmoid"}
        Calibration method, as in `Calibrator`.

    Returns
    -------
    calibrators : list of Calibrator
        One per member, learned from all samples.
    out_of_fold : OutOfFold
        Copy with the cross-fitted calibrated probabilities.
    """
    outputs: Any = out_of_fold.outputs
    sample_weight = out_of_fold.sample_weight
    calibrators = [
        Calibrator(method).fit(list(predictions), out_of_fold)
        for predictions in zip(*out_of_fold.stacks, strict=True)
    ]
    calibrated_stacks = []
    codes_per_output = outputs.encode(out_of_fold.y)
    for stack, codes in zip(out_of_fold.stacks, codes_per_output, strict=True):
        calibrated = np.empty(stack.shape)
        for train, test in _calibration_folds(codes, out_of_fold):
            weight = None if sample_weight is None else sample_weight[train]
            for member, y_proba in enumerate(stack):
                model = _fit_model(method, y_proba[train], codes[train], weight)
                calibrated[member, test] = _apply(model, y_proba[test])
        calibrated_stacks.append(calibrated)
    return calibrators, out_of_fold._replace(stacks=calibrated_stacks)


def _calibration_folds(codes: Counts, out_of_fold: OutOfFold) -> list[Split]:
    """Training and test samples; stratified over samples with positive weight."""
    rows, weight = np.arange(len(codes)), out_of_fold.sample_weight
    folds = out_of_fold.folds
    if folds is not None and len(np.unique(folds)) > 1:
        masks = [folds == fold for fold in np.unique(folds)]
        return [(rows[~mask], rows[mask]) for mask in masks]
    weighted = rows if weight is None else np.flatnonzero(weight)
    class_sizes = np.unique(codes[weighted], return_counts=True)[1]
    n_splits = min(N_FOLDS, class_sizes.min(initial=N_FOLDS))
    if n_splits < 2 or not len(weighted):
        return [(rows, rows)]
    splits = StratifiedKFold(n_splits).split(weighted, codes[weighted])
    unweighted = np.setdiff1d(rows, weighted)
    parts = [
        (np.append(weighted[train], unweighted), weighted[test])
        for train, test in splits
    ]
    return [*parts, (rows, unweighted)] if len(unweighted) else parts


class Calibrator:
    """Calibration of probabilities, learned for each output separately.

    Parameters
    ----------
    method : {"temperature", "matrix", "isotonic", "sigmoid"}
        Method of `sklearn.calibration.CalibratedClassifierCV`, or "matrix" for
        `MatrixScaling`.
    """

    def __init__(self, method: str) -> None:
        self.method = method

    def fit(self, predictions: Predictions, out_of_fold: OutOfFold) -> Calibrator:
        """Learn from out-of-fold probabilities, of a member or of the ensemble."""
        outputs: Any = out_of_fold.outputs
        pairs = zip(predictions, outputs.encode(out_of_fold.y), strict=True)
        self.models = [
            _fit_model(self.method, y_proba, codes, out_of_fold.sample_weight)
            for y_proba, codes in pairs
        ]
        return self

    def __call__(self, predictions: Predictions) -> Predictions:
        """Calibrated probabilities of each output."""
        pairs = zip(self.models, predictions, strict=True)
        return [_apply(model, y_proba) for model, y_proba in pairs]


def _fit_model(method: str, y_proba: Float64, codes: Counts, weight: Any) -> Any:
    """Calibration model of one output; None if a class is missing in ``codes``."""
    classes = np.arange(y_proba.shape[1])
    if len(classes) < 2 or len(np.unique(codes)) < len(classes):
        return None
    # Priors and penalties count samples; weights may sum to far less.
    weight = scale_to_effective_size(weight)
    if method == "matrix":
        return MatrixScaling().fit(_normalize(y_proba), codes, weight)
    # Codes, not labels: temperature scaling uses numeric labels as column indices.
    classifier = PrecomputedClassifier(SINGLE_OUTPUT._replace(classes=[classes]))
    rows = np.arange(len(codes))
    model = CalibratedClassifierCV(classifier, method=method, cv=[(rows, rows)])
    with config_context(enable_metadata_routing=False):
        return model.fit(_normalize(y_proba), codes, sample_weight=weight)


def _apply(model: Any, y_proba: Float64) -> Float64:
    """Calibrated probabilities; unchanged if there is no model."""
    if model is None:
        return y_proba
    return np.asarray(model.predict_proba(_normalize(y_proba)))


def _normalize(y_proba: Float64) -> Float64:
    # scikit-learn's temperature scaling treats a whole batch as logits if a single row
    # does not sum to 1: that row would change the probabilities of all others.
    dtype = np.promote_types(y_proba.dtype, np.float32)
    return SINGLE_OUTPUT.finalize(y_proba.astype(dtype))
