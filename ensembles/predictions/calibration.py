"""Calibration of held-out probabilities with scikit-learn's calibrators."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn import config_context
from sklearn.calibration import CalibratedClassifierCV
from sklearn.model_selection import StratifiedKFold

from ensembles._typing import Counts, Float64
from ensembles.predictions.members.fitting import Split
from ensembles.predictions.members.out_of_fold import OutOfFold
from ensembles.predictions.members.outputs import ClassOutputs, Predictions
from ensembles.predictions.members.precomputed import PrecomputedClassifier
from ensembles.predictions.members.repetitions import scale_to_effective_size

METHODS = ("temperature", "isotonic", "sigmoid")
N_FOLDS = 5  # at most, to calibrate samples that were held out in a single fold
PLAIN = ClassOutputs([], several=False, indicator=False, voting=False, missing="error")


def check_method(method: Any) -> None:
    """Raise unless ``method`` is None or one of `METHODS`.

    Parameters
    ----------
    method : str or None
        Value of the ``calibrate`` parameter; None means no calibration.

    Raises
    ------
    ValueError
        If ``method`` is anything else.
    """
    if method is not None and method not in METHODS:
        raise ValueError(
            f"calibrate must be None or one of {', '.join(METHODS)}, found {method!r}"
        )


def cross_calibrate(held: OutOfFold, method: str) -> tuple[list[Calibrator], OutOfFold]:
    """Calibrate each member, and cross-fit the calibration of its predictions.

    The returned predictions of each fold are calibrated with a model learned from the
    other folds; otherwise scores and weights would be computed on the samples that the
    calibration was fitted to. The folds are those in which the samples were held out.
    If there is only one, stratified folds are used, at most `N_FOLDS`. If a class has a
    single sample then, all samples are calibrated with a model learned from all.

    Parameters
    ----------
    held : OutOfFold
        Held-out probabilities of the members, with true labels and sample weights.
    method : {"temperature", "isotonic", "sigmoid"}
        Calibration method, as in `Calibrator`.

    Returns
    -------
    calibrators : list of Calibrator
        One per member, learned from all samples.
    held : OutOfFold
        Copy with the cross-fitted calibrated probabilities.
    """
    labels: Any = held.outputs
    outputs = [list(answer) for answer in zip(*held.stacks, strict=True)]
    calibrators = [Calibrator(method).fit(answer, held) for answer in outputs]
    stacks = [np.empty(stack.shape) for stack in held.stacks]
    triples = zip(stacks, held.stacks, labels.encode(held.y), strict=True)
    for made, stack, codes in triples:
        for train, test in _folds(codes, held):
            weight = None if held.sample_weight is None else held.sample_weight[train]
            for place, share in enumerate(stack):
                model = _learned(method, share[train], codes[train], weight)
                made[place, test] = _told(model, share[test])
    return calibrators, held._replace(stacks=stacks)


def _folds(codes: Counts, held: OutOfFold) -> list[Split]:
    """Training and test samples; stratified over samples with positive weight."""
    every, weight = np.arange(len(codes)), held.sample_weight
    if held.folds is not None and len(np.unique(held.folds)) > 1:
        masks = [held.folds == fold for fold in np.unique(held.folds)]
        return [(every[~mask], every[mask]) for mask in masks]
    heavy = every if weight is None else np.flatnonzero(weight)
    sizes = np.unique(codes[heavy], return_counts=True)[1]
    n_splits = min(N_FOLDS, sizes.min(initial=N_FOLDS))
    if n_splits < 2 or not len(heavy):
        return [(every, every)]
    splits = StratifiedKFold(n_splits).split(heavy, codes[heavy])
    light = np.setdiff1d(every, heavy)
    folds = [(np.append(heavy[train], light), heavy[test]) for train, test in splits]
    return [*folds, (every, light)] if len(light) else folds


class Calibrator:
    """Calibration of probabilities, learned for each output separately.

    Parameters
    ----------
    method : {"temperature", "isotonic", "sigmoid"}
        Method of `sklearn.calibration.CalibratedClassifierCV`.
    """

    def __init__(self, method: str) -> None:
        self.method = method

    def fit(self, answer: Predictions, held: OutOfFold) -> Calibrator:
        """Learn from held-out probabilities, of a member or of the combination."""
        labels: Any = held.outputs
        self.models = [
            _learned(self.method, share, codes, held.sample_weight)
            for share, codes in zip(answer, labels.encode(held.y), strict=True)
        ]
        return self

    def __call__(self, answer: Predictions) -> Predictions:
        """Calibrated probabilities of each output."""
        pairs = zip(self.models, answer, strict=True)
        return [_told(model, share) for model, share in pairs]


def _learned(method: str, share: Float64, codes: Counts, weight: Any) -> Any:
    # Held-out samples may lack a class, which then cannot be calibrated.
    positions = np.arange(share.shape[1])
    if len(positions) < 2 or len(np.unique(codes)) < len(positions):
        return None
    # Codes, not labels: temperature scaling uses numeric labels as column indices.
    labels = PLAIN._replace(classes=[positions])
    every = np.arange(len(codes))
    model = CalibratedClassifierCV(
        PrecomputedClassifier(labels), method=method, cv=[(every, every)]
    )
    with config_context(enable_metadata_routing=False):
        # Its priors and penalties count samples; weights may sum to far less.
        return model.fit(
            _scaled(share), codes, sample_weight=scale_to_effective_size(weight)
        )


def _told(model: Any, share: Float64) -> Float64:
    return share if model is None else np.asarray(model.predict_proba(_scaled(share)))


def _scaled(share: Float64) -> Float64:
    # scikit-learn's temperature scaling treats a whole batch as logits if a single row
    # does not sum to 1: that row would change the probabilities of all others.
    dtype = np.promote_types(share.dtype, np.float32)
    return PLAIN.finalize(share.astype(dtype))
