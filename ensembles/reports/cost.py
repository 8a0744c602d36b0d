"""Cost of a prediction: parameters, memory, floating-point operations and time."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from ensembles._sklearn import unwrap_frozen
from ensembles.checkpoints.formats.state_dict import is_torch
from ensembles.checkpoints.parameters.access import get_state, parameter_access

N_WARM_UP = 1  # calls before the first measured one
# Attributes with the matrices that a scikit-learn estimator multiplies a sample by.
MATRICES = ("coefs_", "coef_")
CPU_ATTENTION = "_scaled_dot_product_flash_attention_for_cpu"


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Cost of a model; None for each part that could not be measured.

    Parameters
    ----------
    n_models : int, default=1
        Number of models that compute a prediction: 1 for a member or a soup.
    parameters : int or None, default=None
        Number of learned parameters, without buffers.
    n_bytes : int or None, default=None
        Bytes of the learned parameters.
    peak_bytes : int or None, default=None
        Largest allocated GPU memory while the batch was predicted; None on a CPU.
    flops : float or None, default=None
        Floating-point operations per prediction in matrix products, convolutions and
        attention; a multiplication and an addition are two.
    seconds : float or None, default=None
        Median time per prediction over the repeats.
    seconds_low, seconds_high : float or None, default=None
        First and third quartile of the time per prediction.
    """

    n_models: int = 1
    parameters: int | None = None
    n_bytes: int | None = None
    peak_bytes: int | None = None
    flops: float | None = None
    seconds: float | None = None
    seconds_low: float | None = None
    seconds_high: float | None = None


def measure_cost(
    model: Any, predict: Callable[[], object], n_predictions: int, n_repeats: int
) -> Cost:
    """Cost of a model from its parameters and from predictions of one batch.

    Parameters
    ----------
    model : object
        Estimator, PyTorch module or sentence encoder.
    predict : callable
        Predicts the batch.
    n_predictions : int
        Number of samples in the batch.
    n_repeats : int
        Number of measured calls of ``predict``, after one for warming up.

    Returns
    -------
    Cost
    """
    module = module_of(model)
    parameters, n_bytes = _size(model, module)
    with _peak_memory(module) as peak:
        low, median, high = _time(predict, module, n_repeats) / n_predictions
    return Cost(
        parameters=parameters,
        n_bytes=n_bytes,
        peak_bytes=peak[0] if peak else None,
        flops=_flops_per_sample(model, module, predict, n_predictions),
        seconds=median,
        seconds_low=low,
        seconds_high=high,
    )


def total_cost(costs: Sequence[Cost]) -> Cost:
    """Cost of an ensemble: the sum over its members, which predict one by one.

    Parameters
    ----------
    costs : sequence of Cost
        Costs of the members.

    Returns
    -------
    Cost
        A part is None if it is None for a member.
    """
    values: dict[str, Any] = {}
    for field in fields(Cost):
        parts = [getattr(cost, field.name) for cost in costs]
        values[field.name] = None if None in parts else sum(parts)
    # One member computes at a time, so activations are in memory once.
    values["peak_bytes"] = None
    return Cost(**values)


def module_of(model: Any) -> Any:
    """PyTorch module that computes a model's predictions; None without one.

    Parameters
    ----------
    model : object
        Estimator, PyTorch module or sentence encoder.

    Returns
    -------
    torch.nn.Module or None
    """
    try:
        get_module = parameter_access(unwrap_frozen(model)).module
    except TypeError:  # a kind without registered parameters
        return None
    return None if get_module is None else get_module(unwrap_frozen(model))


def _size(model: Any, module: Any) -> tuple[int | None, int | None]:
    """Number and bytes of the parameters; None for unknown kinds."""
    if module is not None:
        tensors = list(module.parameters())
    else:
        try:
            tensors = list(get_state(unwrap_frozen(model)).values())
        except (TypeError, AttributeError):
            return None, None
    sizes = [t.numel() if is_torch(t) else t.size for t in tensors]
    return sum(sizes), sum(tensor.nbytes for tensor in tensors)


def _time(predict: Callable[[], object], module: Any, n_repeats: int) -> Any:
    """Quartiles of the seconds of a call."""
    wait = _synchronize(module)
    seconds = []
    for repeat in range(-N_WARM_UP, n_repeats):
        wait()
        started = time.perf_counter()
        predict()
        wait()
        if repeat >= 0:
            seconds.append(time.perf_counter() - started)
    return np.quantile(seconds, [0.25, 0.5, 0.75])


def _cuda_device(module: Any) -> Any:
    """GPU of a module; None on a CPU or without a module."""
    parameters = [] if module is None else module.parameters()
    devices = [parameter.device for parameter in parameters]
    return next((device for device in devices if device.type == "cuda"), None)


def _synchronize(module: Any) -> Callable[[], object]:
    device = _cuda_device(module)
    if device is None:
        return lambda: None
    return lambda: sys.modules["torch"].cuda.synchronize(device)


@contextmanager
def _peak_memory(module: Any) -> Iterator[list[int]]:
    """List that gets the largest allocated GPU memory at the end; empty on a CPU."""
    device, peak = _cuda_device(module), list[int]()
    if device is None:
        yield peak
        return
    cuda = sys.modules["torch"].cuda
    cuda.reset_peak_memory_stats(device)
    yield peak
    peak.append(int(cuda.max_memory_allocated(device)))


def _flops_per_sample(
    model: Any, module: Any, predict: Callable[[], object], n_predictions: int
) -> float | None:
    if module is not None:
        return count_flops(predict) / n_predictions
    parts = getattr(unwrap_frozen(model), "steps", [("", unwrap_frozen(model))])
    flops = [_matrix_flops(part) for _, part in parts]
    known = [count for count in flops if count is not None]
    return float(sum(known)) if len(known) == len(flops) and any(known) else None


def _matrix_flops(estimator: Any) -> int | None:
    """Operations in the matrix products of a step; None if they are unknown."""
    if hasattr(estimator, "transform") and hasattr(estimator, "scale_"):
        return 0  # a scaler has no matrix product
    for name in MATRICES:
        value = getattr(estimator, name, None)
        if value is not None:
            matrices = value if isinstance(value, list) else [value]
            return int(sum(2 * matrix.size for matrix in matrices))
    return None


def count_flops(predict: Callable[[], object]) -> int:
    """Floating-point operations of a call that uses PyTorch.

    Parameters
    ----------
    predict : callable
        Function without arguments.

    Returns
    -------
    int
        Operations in matrix products, convolutions and attention.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode, flop_registry

    # Without a formula, attention on a CPU counts as 0 in many versions of PyTorch.
    attention = getattr(torch.ops.aten, CPU_ATTENTION, None)
    formulas = {} if attention in flop_registry else {attention: _attention_flops}
    has_fast_path = torch.backends.mha.get_fastpath_enabled()
    # The fused layers of nn.TransformerEncoder have no formula and count as 0.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
            predict()
    finally:
        torch.backends.mha.set_fastpath_enabled(has_fast_path)
    return int(counter.get_total_flops())


def _attention_flops(
    query: Any, key: Any, value: Any, *args: Any, **kwargs: Any
) -> int:
    """Operations of attention, from the shapes of its arguments."""
    from torch.utils import flop_counter

    count: Any = flop_counter.sdpa_flop_count
    return int(count(query, key, value))
