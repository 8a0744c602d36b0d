"""Sample weights: validation, effective sample size, and support by members."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn import get_config
from sklearn.pipeline import Pipeline
from sklearn.utils import check_array

from ensembles._typing import Float64


def check_sample_weight(sample_weight: Any, n_samples: int) -> Float64:
    """Validate sample weights and convert them to float64.

    Parameters
    ----------
    sample_weight : array-like of shape (n_samples,)
        Finite, non-negative, at least one positive.
    n_samples : int
        Number of samples.

    Returns
    -------
    ndarray of shape (n_samples,), float64

    Raises
    ------
    ValueError
        If the shape differs, a weight is negative or not finite, or all are zero.
    """
    weight: Float64 = check_array(
        sample_weight, ensure_2d=False, dtype=np.float64, input_name="sample_weight"
    )
    if weight.shape != (n_samples,):
        raise ValueError(
            f"sample_weight must have the shape ({n_samples},), one number per sample: "
            f"found {weight.shape}"
        )
    if (weight < 0).any() or not weight.any():
        raise ValueError(
            "sample_weight must be non-negative and not zero for all samples: "
            f"found a minimum of {weight.min()} and a maximum of {weight.max()}"
        )
    return weight


def check_accepts_sample_weight(
    name: str, member: Any, params: Mapping[str, Any]
) -> None:
    """Raise if ``params`` has sample weights and the member's ``fit`` takes none.

    Parameters
    ----------
    name : str
        Name of the member, for the message.
    member : estimator
        Fitted or not; the signature of its ``fit`` is checked.
    params : mapping of str to value
        Keyword arguments of ``fit``.

    Raises
    ------
    TypeError
        If ``fit`` does not accept ``sample_weight``. A pipeline accepts it only with
        metadata routing.
    """
    if "sample_weight" not in params:
        return
    fix = "fit without sample_weight, or leave this member out"
    arguments = inspect.signature(member.fit).parameters.values()
    accepts = any(
        argument.name == "sample_weight" or argument.kind == argument.VAR_KEYWORD
        for argument in arguments
    )
    if isinstance(member, Pipeline) and not get_config()["enable_metadata_routing"]:
        accepts = False
        fix += ", or route them to its steps: set_config(enable_metadata_routing=True)"
    if not accepts:
        raise TypeError(
            f"member {name!r} must accept sample_weight in fit: "
            f"{type(member).__name__} does not; {fix}"
        )


def effective_size(sample_weight: Float64) -> float:
    """Effective sample size: the sum of the weights or Kish's size, if that is larger.

    With the sum, integer weights are equivalent to repeated samples. Kish's size does
    not depend on the scale of the weights, so weights that sum to 1 do not count as a
    single sample.

    Parameters
    ----------
    sample_weight : ndarray of shape (n_samples,), non-negative, not all zero
        Sample weights of any scale.

    Returns
    -------
    float
        In samples, at least 1.

    References
    ----------
    Kish (1965), "Survey sampling", section 8.2.
    """
    scaled = sample_weight / sample_weight.max()  # squares of tiny weights underflow
    kish = math.fsum(scaled) ** 2 / math.fsum(scaled * scaled)
    return max(math.fsum(sample_weight), kish)


def scale_to_effective_size(sample_weight: Float64 | None) -> Float64 | None:
    """Scale sample weights up so that their sum is the `effective_size`.

    For learners with a fixed penalty, such as ``LogisticRegression``, where the penalty
    would dominate a loss with small weights. Integer weights do not change.

    Parameters
    ----------
    sample_weight : ndarray of shape (n_samples,) or None
        Non-negative weights, not all zero; None weights all samples equally.

    Returns
    -------
    ndarray of shape (n_samples,) or None
        None if ``sample_weight`` is None.
    """
    if sample_weight is None:
        return None
    total, size = math.fsum(sample_weight), effective_size(sample_weight)
    return sample_weight if size <= total else sample_weight * (size / total)
