"""Uncertainty of an ensemble, split by the disagreement of its members."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from sklearn import config_context

from ensembles._typing import Float64
from ensembles.predictions.members.outputs import OutputSpec, Predictions
from ensembles.weights import check_weights

ROW_SUM_TOLERANCE = 1e-3  # float16 rounds sums of many classes by about as much


class Uncertainty(NamedTuple):
    """Total uncertainty, which is the sum of the other two.

    Parameters
    ----------
    total : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        Uncertainty of the mixture of the members.
    aleatoric : ndarray of the same shape
        Mean uncertainty of single members: noise that they agree on.
    epistemic : ndarray of the same shape
        Disagreement of the members, which more training data would decrease.
    """

    total: Float64
    aleatoric: Float64
    epistemic: Float64


def decompose_entropy(
    predictions: ArrayLike, weights: ArrayLike | None = None
) -> Uncertainty:
    """Entropy of mixed class probabilities, split into noise and disagreement.

    The total is the entropy of the weighted mean of the probabilities, the aleatoric
    part the weighted mean of the members' entropies, and the epistemic part the mutual
    information of the class and the member.

    Parameters
    ----------
    predictions : array-like of shape (n_members, n_samples, n_classes)
        Class probabilities of the members; each row sums to 1.
    weights : array-like of shape (n_members,) or None, default=None
        Non-negative weights of the members, divided by their sum; None weights all
        members equally.

    Returns
    -------
    Uncertainty
        In nats, each of shape (n_samples,). The epistemic part of a single member is 0.

    Raises
    ------
    ValueError
        If a row does not sum to 1, or an entry is negative or not finite.

    References
    ----------
    Depeweg, Hernández-Lobato, Doshi-Velez & Udluft (2018), "Decomposition of
    uncertainty in Bayesian deep learning for efficient and risk-sensitive learning",
    ICML, section 3; Houlsby et al. (2011), "Bayesian active learning for
    classification and preference learning", arXiv:1112.5745.

    Examples
    --------
    >>> agree = decompose_entropy([[[0.5, 0.5]], [[0.5, 0.5]]])
    >>> [round(float(part[0]), 3) for part in agree]
    [0.693, 0.693, 0.0]
    >>> differ = decompose_entropy([[[1.0, 0.0]], [[0.0, 1.0]]])
    >>> [round(float(part[0]), 3) for part in differ]
    [0.693, 0.0, 0.693]
    """
    from scipy.special import entr, rel_entr

    stack = np.asarray(predictions, np.float64)
    if stack.ndim != 3:
        raise ValueError(
            "predictions must have the shape (n_members, n_samples, n_classes): found "
            f"{stack.shape}"
        )
    _check_probabilities(stack)
    shares = _shares(weights, len(stack))
    mixture = np.einsum("i,ijk->jk", shares, stack)
    aleatoric = np.einsum("i,ij->j", shares, entr(stack).sum(axis=2))
    divergence = rel_entr(stack, mixture).sum(axis=2)
    epistemic = np.maximum(np.einsum("i,ij->j", shares, divergence), 0)
    return Uncertainty(entr(mixture).sum(axis=1), aleatoric, epistemic)


def decompose_variance(
    means: ArrayLike,
    variances: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> Uncertainty:
    """Variance of a mixture, split into noise and disagreement.

    By the law of total variance, it is the weighted mean of the members' variances and
    the variance of their means.

    Parameters
    ----------
    means : array-like of shape (n_members, n_samples, ...)
        Predicted values.
    variances : array-like, broadcast to the shape of ``means``, or None, default=None
        Predicted variances; None means 0, for members that predict no noise.
    weights : array-like of shape (n_members,) or None, default=None
        Non-negative weights of the members, divided by their sum; None weights all
        members equally.

    Returns
    -------
    Uncertainty
        Variances, each of shape (n_samples, ...).

    References
    ----------
    Lakshminarayanan, Pritzel & Blundell (2017), "Simple and scalable predictive
    uncertainty estimation using deep ensembles", NeurIPS, section 2.4.

    Examples
    --------
    >>> parts = decompose_variance([[1.0], [3.0]], [[0.5], [1.5]])
    >>> [float(part[0]) for part in parts]
    [2.0, 1.0, 1.0]
    """
    stack = np.asarray(means, np.float64)
    shares = _shares(weights, len(stack))
    noise = np.broadcast_to(0 if variances is None else variances, stack.shape)
    if (noise < 0).any():
        raise ValueError(f"variances must not be negative: found {noise.min()}")
    mean = np.einsum("i,i...->...", shares, stack)
    aleatoric = np.einsum("i,i...->...", shares, noise)
    epistemic = np.einsum("i,i...->...", shares, (stack - mean) ** 2)
    return Uncertainty(aleatoric + epistemic, aleatoric, epistemic)


def _shares(weights: ArrayLike | None, n_members: int) -> Float64:
    values = check_weights(weights, n_members)
    return np.asarray(values / values.sum())


def _check_probabilities(stack: Float64) -> None:
    is_valid = np.isfinite(stack) & (stack >= 0)
    if not is_valid.all():
        member, row, _ = np.argwhere(~is_valid)[0]
        raise ValueError(
            "probabilities must be finite and non-negative: member "
            f"{member} has {stack[~is_valid][0]} in row {row}"
        )
    is_off = abs(stack.sum(axis=2) - 1) > ROW_SUM_TOLERANCE
    if is_off.any():
        member, row = np.argwhere(is_off)[0]
        raise ValueError(
            f"probabilities of a row must sum to 1: row {row} of member {member} sums "
            f"to {stack[member, row].sum():.6g}"
        )


def predict_moments(
    outputs: OutputSpec, name: str, member: Any, calibrator: None, X: Any
) -> Predictions:
    """Predicted values and variances of a regressor.

    Parameters
    ----------
    outputs : RegressionOutputs
        Format of the predictions.
    name : str
        Name of the member.
    member : regressor
        Fitted member; ``predict`` with ``return_std`` gives its standard deviations.
    calibrator : None
        Regressors are not calibrated.
    X : array-like of shape (n_samples, ...)
        Samples, passed to the member unchanged.

    Returns
    -------
    list of two ndarrays of shape (n_samples, n_outputs)
        Values and variances; the variances are NaN if the member has no ``return_std``.
    """
    (values,) = outputs.predict(name, member, X)
    if not _has_std(member):
        return [values, np.full(values.shape, np.nan)]
    with config_context(enable_metadata_routing=False):  # of pipelines, for return_std
        deviations = np.asarray(member.predict(X, return_std=True)[1], np.float64)
    return [
        values,
        np.broadcast_to(deviations.reshape(len(values), -1), values.shape) ** 2,
    ]


def _has_std(member: Any) -> bool:
    """Whether ``predict``, of a pipeline that of its last step, has return_std."""
    last = getattr(member, "_final_estimator", member)
    return "return_std" in inspect.signature(last.predict).parameters
