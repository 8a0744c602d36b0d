"""Default loss of a learned soup, and its convergence from pass to pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ensembles._sklearn import warn_caller
from ensembles.checkpoints.formats.state_dict import import_torch, is_torch
from ensembles.checkpoints.model_soup.merged_estimator import MergedEstimator

# Relative decrease of the loss in a pass: learning stops below FLAT; above
# FALLING, the last pass causes a warning.
FLAT, FALLING = 1e-3, 1e-2


def default_loss(
    merged: MergedEstimator, model: Callable[..., Any], X: Any, y: Any
) -> Any:
    """Loss of the estimator, cross-entropy for class labels, or mean squared error.

    Parameters
    ----------
    merged : MergedEstimator
        Members whose estimator holds a PyTorch module.
    model : callable
        Function with the arguments and outputs of the module.
    X : array-like of shape (n_samples, ...), or mapping of str to such
        Samples. The arrays of a mapping, such as the output of a Hugging Face
        tokenizer, are passed as keyword arguments.
    y : array-like of shape (n_samples, ...) or None
        Targets; None takes the loss in the output of the module.

    Returns
    -------
    scalar tensor
        The loss of a skorch net is its own, ``get_loss``. Integer targets and class
        labels take the cross-entropy of logits, floats the mean squared error.

    Raises
    ------
    ValueError
        If the samples, the targets or the output of the module do not fit any of
        these losses.
    """
    torch = import_torch("weights='convex' of a PyTorch module")
    estimator = merged.estimator
    parameter = next(iter(merged.module_of(estimator).parameters()))
    if isinstance(X, Mapping):
        output = model(**{name: _as_tensor(X[name], parameter, torch) for name in X})
    else:
        output = model(_as_tensor(X, parameter, torch))
    if y is None and is_torch(getattr(output, "loss", None)):
        return output.loss
    # Hugging Face models output several tensors, the logits among them.
    output = getattr(output, "logits", output)
    if not is_torch(output):
        raise ValueError(
            "the output of the module must be a tensor for the default loss, found "
            f"{type(output).__name__}; pass loss in weights_params"
        )
    targets = np.asarray(y)
    is_skorch = hasattr(estimator, "get_loss")  # with its criterion
    if not is_skorch:
        targets = _class_indices(targets, getattr(estimator, "classes_", None))
    expected = torch.as_tensor(targets).to(output.device)
    is_integer = targets.dtype.kind in "iub"
    is_single = output.numel() == expected.numel()
    if is_single and is_integer and not is_skorch:
        raise ValueError(
            "y must not be integers if the module outputs one number for each target: "
            "pass floats for the squared error, or loss in weights_params"
        )
    if is_single or not is_integer:
        expected = expected.to(output.dtype)
        output = output.reshape(expected.shape)
    else:
        expected = expected.long()
    if is_skorch:
        return estimator.get_loss(output, expected)
    if is_integer:
        if output.ndim == expected.ndim + 1 > 2:  # classes last, as for tokens
            output = output.movedim(-1, 1)
        return torch.nn.functional.cross_entropy(output, expected)
    return torch.nn.functional.mse_loss(output, expected)


def _as_tensor(samples: Any, parameter: Any, torch: Any) -> Any:
    """Samples as a tensor on the device of a parameter; floats in its dtype."""
    if not is_torch(samples):
        array = np.asarray(samples)
        if array.dtype.kind not in "iubf":
            raise ValueError(
                f"X must be numbers for the default loss, found {array.dtype}; pass "
                "loss in weights_params"
            )
        samples = torch.as_tensor(array)
    tensor = samples.to(parameter.device)
    return tensor.to(parameter.dtype) if tensor.is_floating_point() else tensor


def _class_indices(targets: Any, labels: Any) -> Any:
    """Targets as class indices, if the estimator has classes."""
    if labels is None:
        if targets.dtype.kind not in "iubf":
            raise ValueError(
                "y must be numbers if the estimator has no classes_, found "
                f"{targets.dtype}; pass loss in weights_params"
            )
        return targets
    unknown = targets[~np.isin(targets, labels)]
    if len(unknown):
        raise ValueError(
            f"y must contain only classes of the estimator, {labels}, found "
            f"{unknown[0]!r}"
        )
    return np.searchsorted(labels, targets)


def is_flat(losses: Sequence[float]) -> bool:
    """Whether the last pass lowered the loss too little to continue.

    Parameters
    ----------
    losses : sequence of float
        Mean loss of each pass, in order.

    Returns
    -------
    bool
    """
    return len(losses) > 1 and _relative_decrease(losses) < FLAT


def warn_if_falling(losses: Sequence[float]) -> None:
    """Warn if the loss still decreased in the last pass.

    Parameters
    ----------
    losses : sequence of float
        Mean loss of each pass, in order.

    Warns
    -----
    UserWarning
        If the last pass lowered the loss by more than a hundredth.
    """
    if len(losses) > 1 and _relative_decrease(losses) > FALLING:
        warn_caller(
            "the loss of the learned soup still fell in the last pass, from "
            f"{losses[-2]:.4g} to {losses[-1]:.4g}: raise n_passes above "
            f"{len(losses)}, or learning_rate, in weights_params"
        )


def _relative_decrease(losses: Sequence[float]) -> float:
    """Relative decrease of the loss in the last pass."""
    before = abs(losses[-2])
    return (losses[-2] - losses[-1]) / before if before else 0.0
