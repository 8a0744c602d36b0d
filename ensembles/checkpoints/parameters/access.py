"""Read and write the learned parameters of an estimator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ensembles.checkpoints.parameters.pipeline_steps import (
    has_learned_parameters,
    iter_steps,
)
from ensembles.checkpoints.parameters.table import Parameters, parameter_access

__all__ = ["get_state", "parameter_access", "set_state"]


def get_state(estimator: Any) -> Parameters:
    """Learned parameters of a fitted estimator, by name.

    Parameters
    ----------
    estimator : object
        Fitted estimator of a registered kind: a PyTorch module (also from Hugging Face
        or sentence-transformers), a skorch net, a linear model, a multilayer
        perceptron, naive Bayes, a scaler, or a `sklearn.pipeline.Pipeline` of these.

    Returns
    -------
    dict of str to ndarray or torch.Tensor
        Parameters by name. Arrays may share memory with the estimator: do not write to
        them. ``average`` takes such dicts, and ``safetensors.numpy.save_file`` those of
        NumPy arrays.

    Raises
    ------
    TypeError
        If the kind is not registered, or has no parameters to average.
    """
    for _, part in iter_steps(estimator):
        if has_learned_parameters(part):
            # Raises for steps that are not averaged: only a soup can check that such a
            # step is equal in all members.
            parameter_access(part)
    return parameter_access(estimator).get(estimator)


def set_state(estimator: Any, state: Mapping[str, Any]) -> None:
    """Replace the learned parameters of a fitted estimator.

    Parameters
    ----------
    estimator : object
        Fitted estimator of a registered kind; changed in place.
    state : mapping of str to ndarray or torch.Tensor
        New parameters, with the names and shapes of `get_state`.

    Raises
    ------
    TypeError
        If the kind is not registered, or has no parameters to average.
    """
    parameter_access(estimator).set(estimator, dict(state))
