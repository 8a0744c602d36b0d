"""Weights that a model of transformers stores with inputs first, by their names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# Models whose linear layers are Conv1D, and the names of these.
CONV1D_MODELS = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")
CONV1D = re.compile(r"(.*\.)?(c_attn|c_proj|c_fc|q_attn)\.weight")
# Models whose experts are (n_experts, n_inputs, n_outputs): is_transposed=True of
# use_experts_implementation in transformers 5.
EXPERTS_MODELS = ("gpt_oss", "openai_privacy_filter")


def is_conv1d(config: Mapping[str, Any], name: str) -> bool:
    """Whether a weight is that of a Conv1D: (n_inputs, n_outputs).

    Parameters
    ----------
    config : mapping of str to value
        Configuration of the model.
    name : str
        Name of the weight.

    Returns
    -------
    bool
    """
    is_of_model = config.get("model_type") in CONV1D_MODELS
    return is_of_model and CONV1D.fullmatch(name) is not None


def has_transposed_experts(config: Mapping[str, Any]) -> bool:
    """Whether the experts of a model are (n_experts, n_inputs, n_outputs).

    Parameters
    ----------
    config : mapping of str to value
        Configuration of the model.

    Returns
    -------
    bool
    """
    return config.get("model_type") in EXPERTS_MODELS
