"""What the collectors share: batches, evaluation mode, names, descriptions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ensembles._typing import Array
from ensembles.checkpoints.averaging.model_tensors import unwrap, without_prefixes
from ensembles.checkpoints.compatibility.moments import sample_digest
from ensembles.checkpoints.formats import state_dict
from ensembles.checkpoints.formats.checkpoint import MemorySource
from ensembles.checkpoints.formats.checkpoint import Tensor as StoredTensor

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Forward = Callable[["nn.Module", Any], Any]
DTYPES = ("float32", "float64")
SAMPLE_MARGIN = 512  # elements that are copied from a device, more than a sample needs


def run(model: nn.Module, batch: Any) -> Any:
    """Output of a model for a batch.

    Parameters
    ----------
    model : Module
        Model to run.
    batch : mapping, tuple, list or Tensor
        A mapping is passed as keyword arguments, the first item of a tuple or list
        alone, and any other batch itself.

    Returns
    -------
    object
    """
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(batch[0] if isinstance(batch, tuple | list) else batch)


def unwrapped(model: Any) -> nn.Module:
    """Model without wrappers, whose parameters have values.

    Parameters
    ----------
    model : Module
        Model, perhaps compiled or wrapped for several devices.

    Returns
    -------
    Module

    Raises
    ------
    TypeError
        If it is not a torch module.
    """
    inner = unwrap(model)
    if isinstance(inner, Mapping):
        raise TypeError(f"model must be a torch module, found {type(model).__name__}")
    return inner  # type: ignore[no-any-return]


def parameters_of(model: nn.Module) -> tuple[dict[str, nn.Parameter], dict[str, str]]:
    """Parameters of a model by the first of their names, and their other names.

    Parameters
    ----------
    model : Module
        Model without wrappers.

    Returns
    -------
    parameters : dict of str to Parameter
        Each parameter once, by its first name.
    aliases : dict of str to str
        Additional names of tied parameters: alias to name.
    """
    parameters: dict[str, nn.Parameter] = {}
    aliases: dict[str, str] = {}
    first: dict[int, str] = {}
    for prefixed, parameter in model.named_parameters(remove_duplicate=False):
        name = without_prefixes(prefixed)
        known_name = first.setdefault(id(parameter), name)
        if known_name == name:
            parameters[name] = parameter
        else:
            aliases[name] = known_name
    return parameters, aliases


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Context in which a model is in evaluation mode; each module's mode is restored.

    Parameters
    ----------
    model : Module
        Model, all of whose modules are in evaluation mode in the context.
    """
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def on_device(batches: Iterable[Any], model: nn.Module) -> Iterator[Any]:
    """Batches with their tensors on the device of the model's first parameter.

    Parameters
    ----------
    batches : iterable
        Batches of tensors, or of mappings, tuples and lists with tensors.
    model : Module
        Model that is run on them.

    Yields
    ------
    object
        One batch after the other.

    Raises
    ------
    ValueError
        If there is no batch.
    """
    parameter = next(model.parameters(), None)
    n_batches = 0
    for n_batches, batch in enumerate(batches, 1):  # noqa: B007
        yield batch if parameter is None else _moved(batch, parameter.device)
    if not n_batches:
        raise ValueError(
            "batches must have at least one batch, found none; an iterator can be read "
            "only once"
        )


def _moved(batch: Any, device: torch.device) -> Any:
    import torch

    if isinstance(batch, torch.Tensor):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {key: _moved(value, device) for key, value in batch.items()}
    if is_collection(batch):
        return like(batch, [_moved(value, device) for value in batch])
    return batch


def is_collection(value: Any) -> bool:
    """Whether a part of a batch is a tuple, list or named tuple.

    Parameters
    ----------
    value : object
        Batch, or a part of one.

    Returns
    -------
    bool
    """
    return type(value) in (tuple, list) or hasattr(value, "_fields")


def like(collection: Any, items: list[Any]) -> Any:
    """Items in the type of a tuple, list or named tuple.

    Parameters
    ----------
    collection : tuple or list
        Value for which `is_collection` is true.
    items : list
        New items, as many as in ``collection``.

    Returns
    -------
    tuple or list
    """
    is_named = hasattr(collection, "_fields")
    return type(collection)(*items) if is_named else type(collection)(items)


def rounded(name: str, total: Tensor, dtype: str) -> Array:
    """Total of moments as an array of the dtype in which they are saved.

    Parameters
    ----------
    name : str
        Name of the tensor, for the message.
    total : Tensor
        Total in float64.
    dtype : {"float32", "float64"}
        Dtype of the result.

    Returns
    -------
    ndarray

    Raises
    ------
    ValueError
        If the total is not finite, or an entry is too large for the dtype.
    """
    import numpy as np

    with np.errstate(over="ignore"):
        array: Array = total.cpu().numpy().astype(dtype)
    if not np.isfinite(array).all():
        raise ValueError(
            f"moments of {name!r} must be finite in {dtype}, found infinity or NaN: "
            "the model overflows for a batch, or divides by zero; run it in float32 or "
            "bfloat16"
        )
    return array


def samples_of(parameters: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Dtypes of parameters, and digests of samples, which identify the member.

    Parameters
    ----------
    parameters : mapping of str to Tensor
        Parameters by name, on any device.

    Returns
    -------
    dict of str to [str, str]
    """
    return {
        name: _sample(name, parameter.detach())
        for name, parameter in parameters.items()
    }


def _sample(name: str, parameter: Tensor) -> list[str]:
    """Dtype and digest; only elements near the middle are copied from the device."""
    start = max(0, (parameter.numel() - SAMPLE_MARGIN) // 2)
    part = parameter.reshape(-1)[start : start + SAMPLE_MARGIN]
    array = state_dict.as_array(part, f"parameter {name!r}")
    # The digest reads the middle of the whole tensor; this is a part of it.
    source = _PartSource(array, start * array.itemsize)
    stored = StoredTensor(array.dtype, tuple(parameter.shape), source, 0)
    return [str(array.dtype), sample_digest(stored, array.dtype)]


class _PartSource(MemorySource):
    """Bytes of a part of an array, by their offsets in the whole array."""

    def __init__(self, part: Array, offset: int) -> None:
        super().__init__(part)
        self._offset = offset

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill the buffer with the bytes from ``offset`` on."""
        super().read_into(buffer, offset - self._offset)


def check_dtype(dtype: str) -> None:
    """Raise unless moments can be saved in a dtype.

    Parameters
    ----------
    dtype : str
        Name of the dtype.

    Raises
    ------
    ValueError
        If it is neither "float32" nor "float64".
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, found {dtype!r}")
