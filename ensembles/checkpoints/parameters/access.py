"""Read and write the learned parameters of an estimator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xxhash

from ensembles.checkpoints.formats.state_dict import (
    as_array,
)
from ensembles.checkpoints.parameters.builtin import register_builtin
from ensembles.checkpoints.parameters.pipeline_steps import learns, parts_of
from ensembles.checkpoints.parameters.table import Parameters, state_of

__all__ = ["fingerprint", "get_state", "set_state", "state_of"]

register_builtin()


def get_state(estimator: Any) -> Parameters:
    """Learned parameters of a fitted estimator, by name.

    Parameters
    ----------
    estimator : object
        Of a kind that is registered: a torch module (those of Hugging Face and
        sentence-transformers among them), a net of skorch, a linear model, a multilayer
        perceptron, naive Bayes, a scaler, or a `sklearn.pipeline.Pipeline` of such.

    Returns
    -------
    dict of str to ndarray or torch.Tensor
        Arrays may be the estimator's own: do not write to them. ``average`` takes
        such dicts, and ``safetensors.numpy.save_file`` those of numpy arrays.

    Raises
    ------
    TypeError
        If the kind is not registered, or has no parameters to average.
    """
    for _, part in parts_of(estimator):
        if learns(part):
            state_of(part)  # raises: only a soup knows that a step is the same in all
    return state_of(estimator).get(estimator)


def set_state(estimator: Any, state: Mapping[str, Any]) -> None:
    """Put parameters into a fitted estimator.

    Parameters
    ----------
    estimator : object
    state : mapping of str to ndarray or torch.Tensor
        Of the names and shapes that `get_state` gives.

    Raises
    ------
    TypeError
        If the kind is not registered, or has no parameters to average.
    """
    state_of(estimator).set(estimator, dict(state))


def fingerprint(estimator: Any) -> str:
    """Digest of an estimator's parameters.

    Parameters
    ----------
    estimator : object
        Fitted.

    Returns
    -------
    str
    """
    whole = xxhash.xxh3_128()
    for name, value in sorted(state_of(estimator).get(estimator).items()):
        array = np.ascontiguousarray(as_array(value, name))
        whole.update(f"{name} {array.dtype} {array.shape}".encode())
        whole.update(array.reshape(-1).view(np.uint8).data)
    return whole.hexdigest()
