"""Calibration of probabilities by scikit-learn, on predictions that are at hand."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn import config_context
from sklearn.calibration import CalibratedClassifierCV

from ensembles.predictions.answers import Answer, Labels
from ensembles.predictions.held import Held
from ensembles.predictions.known import KnownClassifier
from ensembles.weighting import Counts, Floats

METHODS = ("temperature", "isotonic", "sigmoid")


def check_method(method: Any) -> None:
    """Raise unless it is None or one of `METHODS`.

    Parameters
    ----------
    method : str or None

    Raises
    ------
    ValueError
    """
    if method is not None and method not in METHODS:
        raise ValueError(
            f"calibrate must be None or one of {', '.join(METHODS)}, found {method!r}"
        )


def calibrated(held: Held, method: str) -> tuple[list[Calibrator], Held]:
    """Calibration of each member, and what members say after it.

    Parameters
    ----------
    held : Held
    method : {"temperature", "isotonic", "sigmoid"}

    Returns
    -------
    calibrators : list of Calibrator
    held : Held
    """
    answers = [list(answer) for answer in zip(*held.stacks, strict=True)]
    calibrators = [Calibrator(method).fit(answer, held) for answer in answers]
    pairs = zip(calibrators, answers, strict=True)
    found = [calibrator(answer) for calibrator, answer in pairs]
    stacks = [np.array(stack) for stack in zip(*found, strict=True)]
    return calibrators, held._replace(stacks=stacks)


class Calibrator:
    """Probabilities after calibration, each output by itself.

    Parameters
    ----------
    method : {"temperature", "isotonic", "sigmoid"}
        As in `sklearn.calibration.CalibratedClassifierCV`.
    """

    def __init__(self, method: str) -> None:
        self.method = method

    def fit(self, answer: Answer, held: Held) -> Calibrator:
        """Learn from an answer to held-out data, a member's or the combination's."""
        labels: Any = held.answers
        outputs = zip(answer, labels.codes(held.y), strict=True)
        self.models = [self._one(labels, *one, held.sample_weight) for one in outputs]
        return self

    def __call__(self, answer: Answer) -> Answer:
        """Calibrated probabilities of each output."""
        return [
            share if model is None else np.asarray(model.predict_proba(share))
            for model, share in zip(self.models, answer, strict=True)
        ]

    def _one(self, labels: Labels, share: Floats, codes: Counts, weight: Any) -> Any:
        # What was held out may lack a class, of which nothing can be learned then.
        positions = np.arange(share.shape[1])
        if len(positions) < 2 or len(np.unique(codes)) < len(positions):
            return None
        # Codes, not labels: temperature scaling takes any number for a column's place.
        one = KnownClassifier(labels._replace(classes=[positions], several=False))
        every = np.arange(len(codes))
        model = CalibratedClassifierCV(one, method=self.method, cv=[(every, every)])
        with config_context(enable_metadata_routing=False):
            return model.fit(share, codes, sample_weight=weight)
