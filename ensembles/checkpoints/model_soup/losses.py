"""Default loss of a learned soup, and its convergence from pass to pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ensembles._sklearn import warn_user
from ensembles.checkpoints.formats.state_dict import import_torch, is_torch
from ensembles.checkpoints.model_soup.merged_estimator import Merged

# Relative decrease of the loss in a pass: learning stops below FLAT; above
# FALLING, the last pass causes a warning.
FLAT, FALLING = 1e-3, 1e-2


def usual_loss(merged: Merged, model: Callable[..., Any], X: Any, y: Any) -> Any:
    """Loss of the estimator, cross-entropy for class labels, or mean squared error.

    Parameters
    ----------
    merged : Merged
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
    torch = import_torch("weights='convex' of a module")
    estimator = merged.estimator
    like = next(iter(merged.module_of(estimator).parameters()))
    if isinstance(X, Mapping):
        answer = model(**{name: _given(X[name], like, torch) for name in X})
    else:
        answer = model(_given(X, like, torch))
    if y is None and is_torch(getattr(answer, "loss", None)):
        return answer.loss
    # Hugging Face models output several tensors, the logits among them.
    answer = getattr(answer, "logits", answer)
    if not is_torch(answer):
        raise ValueError(
            f"the module must answer with a tensor where no loss is given, found a "
            f"{type(answer).__name__}; give a loss in params"
        )
    targets = np.asarray(y)
    is_skorch = hasattr(estimator, "get_loss")  # with its criterion
    if not is_skorch:
        targets = _codes(targets, getattr(estimator, "classes_", None))
    wanted = torch.as_tensor(targets).to(answer.device)
    is_code = targets.dtype.kind in "iub"
    is_single = answer.numel() == wanted.numel()
    if is_single and is_code and not is_skorch:
        raise ValueError(
            "y must not be whole numbers where the module answers with as many: give "
            "floats for the squared error, or a loss in params"
        )
    if is_single or not is_code:
        wanted = wanted.to(answer.dtype)
        answer = answer.reshape(wanted.shape)
    else:
        wanted = wanted.long()
    if is_skorch:
        return estimator.get_loss(answer, wanted)
    if is_code:
        if answer.ndim == wanted.ndim + 1 > 2:  # classes last, as for tokens
            answer = answer.movedim(-1, 1)
        return torch.nn.functional.cross_entropy(answer, wanted)
    return torch.nn.functional.mse_loss(answer, wanted)


def _given(value: Any, like: Any, torch: Any) -> Any:
    """Samples as a tensor on the device of the parameters; floats in their dtype."""
    if is_torch(value):
        found = value.to(like.device)
    else:
        samples = np.asarray(value)
        if samples.dtype.kind not in "iubf":
            raise ValueError(
                f"X must be numbers where no loss is given, found {samples.dtype}; "
                "give a loss in params"
            )
        found = torch.as_tensor(samples).to(like.device)
    return found.to(like.dtype) if found.is_floating_point() else found


def _codes(targets: Any, labels: Any) -> Any:
    """Targets as class indices, if the estimator has classes."""
    if labels is None:
        if targets.dtype.kind not in "iubf":
            raise ValueError(
                "y must be numbers where the estimator knows no classes, found "
                f"{targets.dtype}; give a loss in params"
            )
        return targets
    unknown = targets[~np.isin(targets, labels)]
    if len(unknown):
        raise ValueError(
            f"y must hold labels that the estimator knows, {labels}, found "
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
    return len(losses) > 1 and _fall(losses) < FLAT


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
    if len(losses) > 1 and _fall(losses) > FALLING:
        warn_user(
            "the loss of the learned soup still fell in the last pass, from "
            f"{losses[-2]:.4g} to {losses[-1]:.4g}: raise n_passes above "
            f"{len(losses)}, or learning_rate, in params"
        )


def _fall(losses: Sequence[float]) -> float:
    """Relative decrease of the loss in the last pass."""
    before = abs(losses[-2])
    return (losses[-2] - losses[-1]) / before if before else 0.0
