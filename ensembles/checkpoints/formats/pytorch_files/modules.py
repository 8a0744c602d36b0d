"""State dicts of modules that were pickled whole, and contents of other objects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ensembles.checkpoints.formats.pytorch_files.objects import (
    Global,
    Malformed,
    PickledObject,
)
from ensembles.checkpoints.formats.pytorch_files.tensors import StoredTensor

MOST_NAMES = 500_000
LONGEST_NAME = 4096  # characters; a module that contains itself has endless names
SCRIPT_OBJECT = Global("torch", "ScriptObject")  # packed weights of quantized modules
PACKED = (
    "is packed by a quantized module; save the state dict of the float model instead"
)
UNREAD = "is an object of {type}, which cannot be read; save the state dict instead"


def contents(value: Any) -> Mapping[Any, Any]:
    """Values inside of a value, by name or by position.

    Parameters
    ----------
    value : object
        Object from a pickle.

    Returns
    -------
    mapping
        The state dict of a module; the entries, elements, or attributes of another
        object; empty for a value without parts.
    """
    if isinstance(value, dict):
        return value
    if is_sequence(value):
        return {str(index): part for index, part in enumerate(value)}
    if not isinstance(value, PickledObject):
        return {}
    if is_module(value):
        return dict(_named_tensors(value))
    return value.entries or contents(value.elements) or value.attributes


def is_sequence(value: Any) -> bool:
    """Whether a value is a list or tuple, whose parts have no names."""
    return isinstance(value, list | tuple) and not isinstance(value, StoredTensor)


def is_module(value: Any) -> bool:
    """Whether an object is a module of PyTorch, by its attributes."""
    return (
        isinstance(value, PickledObject)
        and {"_parameters", "_buffers", "_modules"} <= value.attributes.keys()
    )


def _named_tensors(module: PickledObject) -> Iterator[tuple[str, StoredTensor]]:
    """Yield the tensors of ``state_dict()``: parameters and persistent buffers."""
    queue = [("", module)]
    n_names = 0
    while queue:
        prefix, current = queue.pop()
        attributes = current.attributes
        skipped = _elements(attributes.get("_non_persistent_buffers_set"))
        tensors = [*_entries(attributes.get("_parameters")).items()]
        for name, buffer in _entries(attributes.get("_buffers")).items():
            if name not in skipped:
                tensors.append((name, buffer))
        tensors += [
            (name, value)
            for name, value in attributes.items()
            if isinstance(value, PickledObject) and value.type == SCRIPT_OBJECT
        ]
        children = [*_entries(attributes.get("_modules")).items()]
        tensors += [(name, child) for name, child in children if not is_module(child)]
        for name, tensor in tensors:
            if tensor is not None:
                yield f"{prefix}{name}", _tensor(tensor)
        modules = [(name, child) for name, child in children if is_module(child)]
        for name, child in reversed(modules):
            queue.append((f"{prefix}{name}.", child))
        n_names += len(modules)
        if n_names > MOST_NAMES or len(prefix) > LONGEST_NAME:
            raise Malformed(
                f"module {prefix[:40]!r} must not contain itself, and have at most "
                f"{MOST_NAMES} submodules and names of {LONGEST_NAME} characters"
            )


def _tensor(value: Any) -> StoredTensor:
    """Tensor of a module; any other object becomes a tensor that cannot be read."""
    if isinstance(value, StoredTensor):
        return value
    kind = value.type if isinstance(value, PickledObject) else type(value).__name__
    problem = PACKED if kind == SCRIPT_OBJECT else UNREAD.format(type=kind)
    return StoredTensor(None, "", 0, (), (), problem)


def _entries(value: Any) -> Mapping[Any, Any]:
    if isinstance(value, PickledObject):
        return value.entries
    return value if isinstance(value, dict) else {}


def _elements(value: Any) -> list[Any]:
    """Elements of a pickled set."""
    if not isinstance(value, PickledObject):
        return []
    (first, *_) = (*value.args, [])
    return value.elements or (first if isinstance(first, list) else [])
