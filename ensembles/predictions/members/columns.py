"""Checks of member predictions and their alignment with the classes."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils.validation import _num_samples

from ensembles._typing import Counts, Float64


def member_classes(member: Any, *, several: bool, indicator: bool) -> list[Any] | None:
    """Classes of a fitted member, for each output.

    Parameters
    ----------
    member : classifier
        Fitted; its ``classes_`` attribute is read.
    several, indicator : bool
        Whether there are several targets, and whether they are multilabel; as in
        `ensembles.predictions.members.outputs.Labels`.

    Returns
    -------
    list of n_outputs ndarrays, or None
        None if the member has no ``classes_``, or if it predicts multilabel targets
        in one array: then the classes of every output are 0 and 1.
    """
    found = getattr(member, "classes_", None)
    if found is None or (indicator and not isinstance(found, list)):
        return None  # multilabel in one array: classes_ are column indices
    return [np.asarray(one) for one in (found if several else [found])]


def encode_labels(column: Any, classes: Any, owner: str) -> Counts:
    """Indices of labels in the sorted classes; a ValueError names the owner."""
    if classes.dtype.kind == column.dtype.kind == "i" and _follow_on(classes):
        # A subtraction: searchsorted takes longer than all other steps of a vote.
        codes: Counts = np.subtract(column, classes[0], dtype=np.int64)
    else:
        codes = np.searchsorted(classes, column)
    strange = classes.take(codes, mode="clip") != column
    if strange.any():
        raise ValueError(
            f"labels of {owner} must be among the classes {classes.tolist()}: found "
            f"{column[strange].tolist()[0]!r}"
        )
    return codes


def _follow_on(classes: Any) -> bool:
    """Whether sorted integers are consecutive."""
    return int(classes[-1]) - int(classes[0]) == len(classes) - 1


def one_hot(codes: Counts, n_classes: int) -> Any:
    """One-hot rows of the codes, bool of shape (n_samples, n_classes)."""
    one_hot = np.zeros((len(codes), n_classes), bool)
    firsts = np.arange(0, one_hot.size, n_classes)
    one_hot.reshape(-1)[firsts + codes] = True
    return one_hot


def to_dense(said: Any) -> Any:
    """Dense ndarray of an array-like or a sparse matrix."""
    return said.toarray() if hasattr(said, "toarray") else np.asarray(said)


def check_rows(name: str, said: Any, X: Any) -> None:
    """Raise ValueError unless there is one prediction for each row of X."""
    if len(said) != _num_samples(X):
        raise ValueError(
            f"member {name!r} must answer for each of {_num_samples(X)} rows, found "
            f"{len(said)} answers"
        )


def wrong_count_error(owner: str, n_outputs: int, found: int) -> ValueError:
    """ValueError for a wrong number of targets."""
    return ValueError(
        f"{owner} must answer for each of {n_outputs} targets, found {found}"
    )


def align_columns(name: str, share: Float64, known: Any, classes: Any) -> Float64:
    """Probabilities with one column per class; a class not in ``known`` gets 0."""
    if share.ndim != 2 or share.shape[1] != len(known):
        raise ValueError(
            f"member {name!r} must give a probability for each of its {len(known)} "
            f"classes, found an array of shape {share.shape}"
        )
    least, most = share.min(initial=0), share.max(initial=0)
    if not (least >= 0 and most < np.inf):
        raise ValueError(
            f"member {name!r} must give probabilities, found "
            f"{most if least >= 0 else least} among them"
        )
    if np.array_equal(known, classes):
        return share
    out = np.zeros((len(share), len(classes)), share.dtype)
    out[:, np.searchsorted(classes, known)] = share
    return out


def check_finite(name: str, said: Any) -> None:
    """Raise ValueError unless all predictions are finite numbers."""
    wrong = said[~np.isfinite(said)] if said.dtype.kind in "biuf" else said.ravel()
    if len(wrong):
        raise ValueError(
            f"member {name!r} must predict finite numbers, found {wrong.tolist()[0]!r}"
        )
