"""Tensors in the pickles of ``torch.save``: dtype, shape, strides and storage."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from ensembles.checkpoints.formats.pytorch_files.objects import Global, PickledObject

# Typed storages of torch, by the names of their classes.
STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "UntypedStorage": "uint8",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "QInt8Storage": "qint8",
    "QUInt8Storage": "quint8",
    "QInt32Storage": "qint32",
    "QUInt4x2Storage": "quint4x2",
    "QUInt2x4Storage": "quint2x4",
}
MOST_DIMENSIONS = 64  # of torch


class Storage(NamedTuple):
    """Storage of one or several tensors, in an entry of the file.

    Parameters
    ----------
    key : str
        Name of the storage in the file.
    dtype : str
        Name of the dtype of its elements; "uint8" for untyped storages.
    size : int
        Number of elements.
    """

    key: str
    dtype: str
    size: int


class StoredTensor(NamedTuple):
    """Tensor as a pickle describes it.

    Parameters
    ----------
    storage : Storage or None
        Storage with its elements; None for a tensor that cannot be read.
    dtype : str
        Name of the dtype, without ``torch.``.
    offset : int
        Position of the first element in the storage, in elements.
    shape : tuple of int
        Shape.
    strides : tuple of int
        Distance between neighbors along each axis, in elements.
    problem : str
        Reason why the tensor cannot be read, and what to do; empty if it can.
    shard : tuple of (StoredTensor, PickledObject) or None
        For one rank's part of a DTensor, which has the shape of the whole: the part,
        and the description of the mesh and the placements.
    """

    storage: Storage | None
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    problem: str = ""
    shard: tuple[StoredTensor, PickledObject] | None = None

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def is_contiguous(self) -> bool:
        """Whether the elements lie one after the other, in C order."""
        step = 1
        for length, stride in zip(
            reversed(self.shape), reversed(self.strides), strict=True
        ):
            if length == 0:
                return True
            if length > 1 and stride != step:
                return False
            step *= length
        return True

    @property
    def stop(self) -> int:
        """Position in the storage behind the last element, in elements."""
        if not self.size:
            return self.offset
        steps = zip(self.shape, self.strides, strict=True)
        return self.offset + 1 + sum((length - 1) * stride for length, stride in steps)


def storage(persistent_id: Any) -> Any:
    """Storage that a pickle refers to, by its persistent id.

    Parameters
    ----------
    persistent_id : tuple
        ``("storage", class, key, device, size)``, in the legacy format followed by the
        view; or ``("module", class, file name, source code)``, where the class stands.

    Returns
    -------
    Storage or Global

    Raises
    ------
    ValueError
        If it has another form.
    """
    match persistent_id:
        case ("storage", Global(_, name), str(key), _, int(size), *view):
            if view and view[0] is not None:
                raise ValueError(
                    "views of storages, as before PyTorch 0.4, are not supported"
                )
            return Storage(key, STORAGES.get(name, name), _size(size))
        case ("module", Global() as module, *_):
            return module
    raise ValueError("a persistent id must be that of a storage")


def _size(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise ValueError(f"a size must be a non-negative integer, found {value!r:.40}")
    return value


def _strided(
    storage: Any,
    offset: Any,
    shape: Any,
    strides: Any,
    grad: Any = None,
    hooks: Any = None,
    metadata: Any = None,
) -> StoredTensor:
    """Make the tensor of ``_rebuild_tensor`` and ``_rebuild_tensor_v2`` of torch."""
    if not isinstance(storage, Storage):
        raise TypeError("a tensor must have a storage")
    sizes, steps = tuple(map(_size, shape)), tuple(map(_size, strides))
    if len(sizes) != len(steps) or len(sizes) > MOST_DIMENSIONS:
        raise ValueError("a tensor must have a stride for each axis")
    made = StoredTensor(storage, storage.dtype, _size(offset), sizes, steps)
    if isinstance(metadata, dict) and any(metadata.values()):
        # A view with other signs than its storage, such as {"neg": True}.
        return made._replace(storage=None, problem=LAZY)
    return made


def _untyped(
    storage: Any,
    offset: Any,
    shape: Any,
    strides: Any,
    grad: Any,
    hooks: Any,
    dtype: Any,
    metadata: Any = None,
) -> StoredTensor:
    """Make the tensor of ``_rebuild_tensor_v3``, whose storage has no dtype."""
    made = _strided(storage, offset, shape, strides, metadata=metadata)
    return made._replace(dtype=dtype_name(dtype))


def dtype_name(value: Any) -> str:
    """Name of a dtype of torch in a pickle, such as "float32".

    Parameters
    ----------
    value : Global
        Name of the dtype, such as ``torch.float32``.

    Returns
    -------
    str

    Raises
    ------
    ValueError
        If it is not the name of a dtype.
    """
    if type(value) is Global and value.module == "torch":
        return value.name
    raise ValueError(f"a dtype must be one of torch, found {value!r:.40}")


def _unread(problem: str) -> Callable[..., StoredTensor]:
    """Stand in for a function of torch that makes tensors of an unsupported kind."""
    return lambda *args, **kwargs: StoredTensor(None, "", 0, (), (), problem)


def _first(tensor: Any, *_: Any) -> Any:
    """Make the tensor of ``_rebuild_parameter``: the data of the parameter."""
    if not isinstance(tensor, StoredTensor | PickledObject):
        raise TypeError("a parameter must have a tensor")
    return tensor


def _subclass(function: Any, type_: Any, args: Any, state: Any) -> Any:
    """Make the tensor of ``_rebuild_from_type_v2``: of a subclass, or with state."""
    make = KNOWN.get(function) if isinstance(function, Global) else None
    if function == WRAPPER or make is None or not isinstance(args, tuple):
        attributes = PickledObject(WRAPPER, state=state).attributes
        match args, attributes:
            case (
                (_, dtype, shape, *_),
                {
                    "_local_tensor": StoredTensor() as part,
                    "_spec": PickledObject() as spec,
                },
            ):
                return _dtensor(dtype_name(dtype), tuple(map(_size, shape)), part, spec)
        return _wrapper(type_)
    return make(*args)


def _dtensor(
    dtype: str, shape: tuple[int, ...], part: StoredTensor, spec: PickledObject
) -> StoredTensor:
    problem = (
        "is one rank's part of a sharded tensor (DTensor); pass the directory with the "
        "files of all ranks"
    )
    strides = (0,) * len(shape)
    return StoredTensor(None, dtype, 0, shape, strides, problem, (part, spec))


def _wrapper(type_: Any, *_: Any, **__: Any) -> StoredTensor:
    name = type_.name if isinstance(type_, Global) else "unknown"
    problem = (
        f"has the class {type_}, which is not supported; convert it to a torch.Tensor "
        "and save it again"
    )
    if name in ("DTensor", "ShardedTensor"):
        problem = f"is one rank's part of a sharded tensor ({name})"
    return StoredTensor(None, "", 0, (), (), problem)


def _ordered_dict(*entries: Any, **kwargs: Any) -> dict[Any, Any]:
    """Make an ordered dict; its entries follow, or are pairs in a list."""
    made: dict[Any, Any] = {}
    for pairs in entries:
        for key, value in pairs if isinstance(pairs, list) else ():
            if not isinstance(key, str | int):
                raise TypeError("keys must be strings or integers")
            made[key] = value
    return made


def _default_dict(*_: Any) -> dict[Any, Any]:
    return {}


def _encoded(text: Any = "", encoding: Any = "latin1") -> bytes:
    """Make bytes, which protocol 2 stores as text."""
    if not isinstance(text, str) or encoding != "latin1":
        raise TypeError("bytes must be encoded in latin1")
    return text.encode("latin-1")


def _torch_size(*args: Any) -> tuple[int, ...]:
    return tuple(map(_size, args[0])) if args else ()


LAZY = "is a negated or conjugate view; save it with .resolve_neg().resolve_conj()"
DENSE = "is sparse; convert it with .to_dense() and save it again"
QUANTIZED = "is quantized; save the state dict of the float model instead"
WRAPPER = Global("torch._utils", "_rebuild_wrapper_subclass")
_MAKERS: dict[str, dict[str, Callable[..., Any]]] = {
    "torch._utils": {
        "_rebuild_tensor": _strided,
        "_rebuild_tensor_v2": _strided,
        "_rebuild_tensor_v3": _untyped,
        "_rebuild_parameter": _first,
        "_rebuild_parameter_with_state": _first,
        "_rebuild_device_tensor_from_cpu_tensor": _first,
        "_rebuild_wrapper_subclass": _wrapper,
        "_rebuild_sparse_tensor": _unread(DENSE),
        "_rebuild_sparse_csr_tensor": _unread(DENSE),
        "_rebuild_nested_tensor": _unread("is nested; save each of its parts"),
        "_rebuild_qtensor": _unread(QUANTIZED),
        "_rebuild_meta_tensor_no_storage": _unread(
            "has no data: it is a meta tensor; load the weights and save it again"
        ),
        "_rebuild_device_tensor_from_numpy": _unread(
            "is on a device such as XLA; save it with .cpu()"
        ),
        "_rebuild_xla_tensor": _unread("is an XLA tensor; save it with .cpu()"),
    },
    "torch._tensor": {
        "_rebuild_from_type": _subclass,
        "_rebuild_from_type_v2": _subclass,
    },
    "torch": {"Size": _torch_size},
    "collections": {"OrderedDict": _ordered_dict, "defaultdict": _default_dict},
    "builtins": {"dict": _ordered_dict},
    "__builtin__": {"dict": _ordered_dict, "bytes": _encoded},
    "_codecs": {"encode": _encoded},
}
KNOWN = {
    Global(module, name): make
    for module, makers in _MAKERS.items()
    for name, make in makers.items()
}
