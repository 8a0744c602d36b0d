"""Members of a comparison, of any kind, as predictors of scikit-learn's form."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ensembles._typing import Float64
from ensembles.checkpoints.formats.state_dict import is_torch
from ensembles.checkpoints.model_soup.merged_estimator import MergedEstimator
from ensembles.embeddings.similarity.evaluation import Pairs


class Data(NamedTuple):
    """Samples and targets.

    Parameters
    ----------
    X : object
        Samples in the format of the predictors.
    y : array-like of shape (n_samples, ...)
        Targets.
    """

    X: Any
    y: Any


@dataclass(kw_only=True)
class Members:
    """Members, loaded one at a time, and how they predict and are averaged.

    Parameters
    ----------
    names : list of str
        Name of each member.
    load : callable (index) -> object
        Returns a member; it may be replaced by the next call.
    predictor : callable (model) -> object
        Object with the ``predict_proba``, ``classes_`` or ``predict`` of a model.
    merge : callable () -> MergedEstimator
        Prepares averages of the parameters; raises TypeError or ValueError if the
        members cannot be averaged.
    first : callable (X, batch_size) -> (batch, n_samples)
        Returns the batch that costs are measured on.
    scoring : str or callable
        Default score.
    is_classifier : bool
        Whether the members predict classes.
    classes : sequence of (str, object)
        Predictors whose classes are those of the targets.
    prediction : str, default="sample"
        Noun for one prediction, in the notes.
    notes : list of str
        Choices made while the members were opened.
    """

    names: list[str]
    load: Callable[[int], Any]
    predictor: Callable[[Any], Any]
    merge: Callable[[], MergedEstimator]
    first: Callable[[Any, int], tuple[Any, int]]
    scoring: Any
    is_classifier: bool
    classes: Sequence[tuple[str, Any]] = ()
    prediction: str = "sample"
    notes: list[str] = field(default_factory=list)


def one_member(index: int, n_members: int) -> Float64:
    """Weights of a single member.

    Parameters
    ----------
    index : int
        Index of the member.
    n_members : int
        Number of members.

    Returns
    -------
    ndarray of shape (n_members,)
    """
    return np.asarray(np.eye(n_members)[index])


def sample_hashes(X: Any) -> list[int]:
    """Hash of each sample, by which equal samples of two data sets are recognized.

    Parameters
    ----------
    X : array-like, mapping of these, or Pairs
        Samples. Other data, such as a DataLoader or a sparse matrix, have no hashes.

    Returns
    -------
    list of int
    """
    if isinstance(X, Pairs):
        return list(map(hash, zip(X[0], X[1], strict=True)))
    if isinstance(X, Mapping):
        return list(map(hash, zip(*map(sample_hashes, X.values()), strict=False)))
    if is_torch(X):
        X = X.detach().cpu()
        X = (X if X.dtype.itemsize > 2 else X.double()).numpy()
    if not (hasattr(X, "shape") or isinstance(X, list | tuple)):
        return []
    array = np.asarray(X)
    if array.ndim == 0 or not array.size:
        return []
    if array.dtype.hasobject:
        return [hash(str(row)) for row in array.tolist()]
    return [hash(row.tobytes()) for row in array]


def name_members(members: Sequence[Any], names: Sequence[str] | None) -> list[str]:
    """Names of the members: as given, their paths, or their numbers.

    Parameters
    ----------
    members : sequence
        Members.
    names : sequence of str or None
        Names; None takes the paths, and numbers other members.

    Returns
    -------
    list of str

    Raises
    ------
    TypeError
        If the members are not in a sequence.
    ValueError
        If there are fewer than two members, or the names are not different.
    """
    if isinstance(members, str | os.PathLike) or not isinstance(members, Sequence):
        raise TypeError(
            f"members must be a sequence of models, found {type(members).__name__}"
        )
    if len(members) < 2:
        raise ValueError(
            f"a comparison needs at least two members, found {len(members)}"
        )
    if names is None:
        names = [
            str(member) if isinstance(member, str | os.PathLike) else f"member {index}"
            for index, member in enumerate(members)
        ]
    listed = list(map(str, names))
    if len(listed) != len(members) or len(set(listed)) < len(members):
        raise ValueError(
            f"names must be different, one for each of the {len(members)} members, "
            f"found {', '.join(listed)}"
        )
    return listed
