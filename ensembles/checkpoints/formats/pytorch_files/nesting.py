"""Find the state dict in the nested mappings of a PyTorch checkpoint."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ensembles.checkpoints.formats.checkpoint import Keys
from ensembles.checkpoints.formats.pytorch_files.modules import (
    contents,
    is_module,
    is_sequence,
)
from ensembles.checkpoints.formats.pytorch_files.objects import PickledObject
from ensembles.checkpoints.formats.pytorch_files.tensors import StoredTensor

# Keys of the model, in the order in which they are preferred, and who writes them.
MODEL_KEYS = {
    "state_dict": "Lightning, timm, MMEngine",
    "model_state_dict": "the tutorials of PyTorch",
    "model": "fairseq, OpenNMT, icefall, torchvision, nanoGPT",
    "module": "DeepSpeed",
    "model_state": "pytext, PyTorch examples of distributed training",
    "net": "research code",
    "params": "BasicSR",
}
# A key of the model, and the key of the rest of the same model.
PARTS = {"model": "generator"}  # OpenNMT stores the output layer apart
PREFIXES = ("module.", "_orig_mod.")
SHOWN = 8
SHARED = " (shares memory with the averaged tensors)"
# Training state (optimizer, scheduler, metrics): its tensors are not parameters.
TRAINING = re.compile(
    r"optim|sched|scaler|rng|random|callback|loop|sampler|loss|meter|metric|history"
    r"|hparam|hyper|config|args|stats|grad|moment|exp_avg",
    re.IGNORECASE,
)
# Averages of the parameters that were kept during training.
AVERAGES = re.compile(
    r"(^|[._])(ema|shadow|avg|swa|lawa|averaged|averages)([._]|$)", re.IGNORECASE
)


class StateDict(NamedTuple):
    """State dict in a PyTorch file, with its key and notes on skipped contents.

    Parameters
    ----------
    tensors : dict of str to StoredTensor
        Tensors in the order of the file, without wrapper prefixes such as ``module.``
        in their names. Names have the key as prefix if there are several keys.
    keys : tuple of str
        Keys of the state dict; empty if the file is a single state dict.
    notes : list of str
        Messages, one sentence each.
    """

    tensors: dict[str, StoredTensor]
    keys: tuple[str, ...]
    notes: list[str]


def state_dict_in(content: Any, key: Keys, path: Path) -> StateDict:
    """Find the state dict in the object of a PyTorch file.

    Parameters
    ----------
    content : object
        Content of the file: a state dict, a module, or a mapping that contains one.
    key : str, sequence of str or None
        Key of the state dict, with dots between nested keys, or several keys whose
        state dicts are parts of one model. None takes ``content`` itself or the one
        obvious state dict among its values.
    path : Path
        Path of the file, for messages.

    Returns
    -------
    StateDict

    Raises
    ------
    ValueError
        If a key does not exist, no state dict is found, several are candidates, the
        state dict has nested tensors, or a tensor name is not a string.
    """
    mapping = contents(content)
    notes: list[str] = []
    keys = (key,) if isinstance(key, str) else tuple(key or ())
    if not keys and (is_sequence(content) or _is_nested(mapping)):
        # Tensors may be stored next to a state dict: a random generator state, a loss.
        if not mapping or (is_sequence(content) and not _deeper(mapping)):
            raise ValueError(
                f"{path} must contain a state dict, found {_kind(content)}"
            )
        keys = _obvious(mapping, path)
        notes = [*_beside(mapping, keys), *_unnamed(mapping, keys)]
    tensors: dict[str, StoredTensor] = {}
    for chosen in keys or (None,):
        value = content if chosen is None else _descend(content, chosen, path)
        state = contents(value)
        if not _is_state_dict(state):
            raise ValueError(
                f"{path} has no tensors at key {chosen!r}: found {_kind(value)}"
            )
        deeper = _deeper(state)
        if deeper is not None:
            raise ValueError(
                f"{path} has nested tensors at {deeper!r}, which would be left out; "
                "pass key=NAME (--key NAME) to choose a state dict"
            )
        prefix = f"{chosen}." if len(keys) > 1 else ""
        tensors |= {prefix + name: v for name, v in _tensors(state, path).items()}
    return StateDict(tensors, keys, notes)


def tensors_by_key(content: Any) -> dict[str, dict[Any, StoredTensor]]:
    """Tensors of all state dicts in the object of a PyTorch file.

    Parameters
    ----------
    content : object
        Content of the file.

    Returns
    -------
    dict of str to dict
        Tensors by name, for the dotted key of each mapping that contains tensors; the
        key of ``content`` itself is empty.
    """
    mapping = contents(content)
    states = {"": mapping} if _is_state_dict(mapping) else {}
    states |= dict(_state_dicts(mapping))
    return {
        key: {name: value for name, value in state.items() if is_tensor(value)}
        for key, state in states.items()
    }


def contents_beside(content: Any, chosen: StateDict) -> list[str]:
    """Contents of a file other than the tensors of its state dict, for messages.

    Parameters
    ----------
    content : object
        Content of the file.
    chosen : StateDict
        State dict in it, see `state_dict_in`.

    Returns
    -------
    list of str
        Modules and prefixes of names around the state dict, then keys such as
        "optimizer", with dots between nested keys. One that shares a storage with the
        state dict, and changes with it, has an addition that says so.
    """
    storages = {tensor.storage for tensor in chosen.tensors.values() if tensor.size}
    return [
        *_form(content, chosen.keys),
        *(
            name + SHARED * any(t.storage in storages for t in tensors_in(value))
            for name, value in _others(content, "", chosen.keys)
        ),
    ]


def _form(content: Any, keys: tuple[str, ...]) -> Iterator[str]:
    """How state dicts are stored in a file, which a plain state dict loses."""
    for key in keys or (None,):
        value = content if key is None else _descend(content, key, Path())
        of_key = "" if key is None else f" at {key!r}"
        if is_module(value):
            yield f"the modules{of_key} with their attributes"
        prefix = _wrapper_prefix(n for n, v in contents(value).items() if is_tensor(v))
        if prefix:
            yield f"the prefix {prefix!r} of the tensor names{of_key}"


def _others(
    content: Any, prefix: str, keys: tuple[str, ...]
) -> Iterator[tuple[str, Any]]:
    """Contents outside of the state dicts at ``keys``, and other values in these."""
    for inner, value in contents(content).items():
        name = f"{prefix}{inner}"
        if name in keys:
            values = contents(value).items()
            yield from ((f"{name}.{n}", v) for n, v in values if not is_tensor(v))
        elif any(key.startswith(f"{name}.") for key in keys):
            yield from _others(value, f"{name}.", keys)
        elif keys or not is_tensor(value):
            yield name, value


def tensors_in(value: Any) -> Iterator[StoredTensor]:
    """Tensors at any depth of an object.

    Parameters
    ----------
    value : object
        Object in a PyTorch file.

    Yields
    ------
    StoredTensor
    """
    if is_tensor(value):
        yield value
    for _, container in [("", value), *_containers(value)]:
        yield from filter(is_tensor, contents(container).values())


def is_tensor(value: Any) -> bool:
    """Whether a value is a tensor of the file."""
    return isinstance(value, StoredTensor)


def _is_nested(mapping: Mapping[Any, Any]) -> bool:
    """Whether state dicts are among the values of a mapping, or it has no tensors."""
    inside = map(contents, mapping.values())
    return not _is_state_dict(mapping) or any(map(_is_state_dict, inside))


def _tensors(state: Mapping[Any, Any], path: Path) -> dict[str, Any]:
    tensors = {name: value for name, value in state.items() if is_tensor(value)}
    for name in tensors:
        if not isinstance(name, str):
            raise ValueError(
                f"{path}: names of tensors must be strings, found {name!r}; rename it "
                "and save the file again"
            )
    prefix = _wrapper_prefix(tensors)
    return {name.removeprefix(prefix): value for name, value in tensors.items()}


def _wrapper_prefix(names: Iterable[str]) -> str:
    """Prefix of wrapper modules that all names have, such as ``module.``."""
    names, prefix = [*names], ""
    for part in PREFIXES * 2:  # in either order
        if names and all(name.startswith(prefix + part) for name in names):
            prefix += part
    return prefix


def _descend(content: Any, key: str, path: Path) -> Any:
    """Value at a dotted key path; the keys may contain dots themselves."""
    steps = key.split(".")
    while steps:
        inside = {str(name): value for name, value in contents(content).items()}
        names = {".".join(steps[: n + 1]): n + 1 for n in range(len(steps))}
        chosen_key = next((name for name in reversed(names) if name in inside), None)
        if chosen_key is None:
            keys = sorted(map(str, inside))
            raise ValueError(
                f"{path} has no key {key!r}: {steps[0]!r} is not among {keys[:20]}"
            )
        content, steps = inside[chosen_key], steps[names[chosen_key] :]
    return content


def _obvious(content: Mapping[Any, Any], path: Path) -> tuple[str, ...]:
    """Keys of the single plausible state dict in a mapping."""
    states = {name: contents(value) for name, value in content.items()}
    inside = [name for name, state in states.items() if _is_state_dict(state)]
    usual = [name for name in MODEL_KEYS if name in inside]
    others = [name for name in inside if not TRAINING.search(str(name))]
    models = [name for name in others if not AVERAGES.search(str(name))]
    if len(models or others) == 1:
        (name,) = models or others
        n_loose = sum(map(is_tensor, content.values()))
        # A small state dict among many loose tensors is probably not the model.
        if name in MODEL_KEYS or n_loose < len(states[name]):
            return (str(name),)
    if len(usual) == 1:
        part = PARTS.get(usual[0])
        if (
            part
            and part in inside
            and not states[part].keys() & states[usual[0]].keys()
        ):
            return (usual[0], part)
        return (usual[0],)
    found = {str(name): states[name] for name in inside} or dict(_state_dicts(content))
    if not found:
        keys = ", ".join([*map(str, content)][:SHOWN])
        raise ValueError(
            f"{path} has no state dict: its contents ({keys}) have no named tensors"
        )
    listed = [f"{name} ({_size(state)})" for name, state in found.items()]
    more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    raise ValueError(
        f"{path} must have one obvious state dict, found "
        f"{', '.join(listed[:SHOWN])}{more}; pass key=NAME (--key NAME) to choose one, "
        "or several keys for the parts of one model"
    )


def _kind(value: Any) -> str:
    """Type of an object, by its name in the pickle."""
    if isinstance(value, PickledObject):
        return f"an object of {value.type}"
    is_container = is_sequence(value) or isinstance(value, dict)
    return f"{'empty ' * (is_container and not value)}{type(value).__name__}"


def _size(state: Mapping[Any, Any]) -> str:
    tensors = [value for value in state.values() if is_tensor(value)]
    n_parameters = sum(tensor.size for tensor in tensors)
    plural = "s" if len(tensors) > 1 else ""
    return f"{len(tensors)} tensor{plural}, {n_parameters:,} parameters"


def _beside(content: Mapping[Any, Any], keys: tuple[str, ...]) -> Iterator[str]:
    """Notes on other state dicts in the file: copies, and models left out."""
    names = {
        _bare(name)
        for key in keys
        for name, value in contents(content[key]).items()
        if is_tensor(value)
    }
    took = "took " + " and ".join(map(repr, keys))
    if len(keys) > 1:
        yield f"{took}, which are parts of one model"
    for key_path, state in _state_dicts(content):
        if key_path.startswith(tuple(f"{key}." for key in keys)) or key_path in keys:
            continue
        others = {_bare(name) for name, value in state.items() if is_tensor(value)}
        choose = f"pass key={key_path!r} (--key {key_path})"
        if 2 * len(names & others) >= len(names):
            kind = "has the same tensor names"
            if AVERAGES.search(key_path):
                kind = "is an average of the same tensors, kept during training"
            if not re.search(r"optim|grad|moment|exp_avg", key_path, re.IGNORECASE):
                yield f"{took}; {key_path!r} {kind}: {choose} to take it instead"
        elif not TRAINING.search(key_path) and _is_model(state):
            yield (
                f"{took}; {key_path!r} has other tensors, which are left out: {choose} "
                "to take them instead"
            )


def _unnamed(content: Mapping[Any, Any], keys: tuple[str, ...]) -> Iterator[str]:
    """Notes on tensors outside of state dicts: at the top level, or in lists.

    A moving average is often a list, in the order of the parameters.
    """
    took = "took " + " and ".join(map(repr, keys))
    loose = [
        str(name)
        for name, value in content.items()
        if is_tensor(value) and value.size > 1 and not TRAINING.search(str(name))
    ]
    if loose:
        more = f" and {len(loose) - SHOWN} more" if len(loose) > SHOWN else ""
        yield (
            f"{took}; tensors next to it are left out: {', '.join(loose[:SHOWN])}{more}"
        )
    n_named = sum(map(is_tensor, contents(content[keys[0]]).values()))
    for key_path, values in _containers(content):
        n_listed = sum(map(is_tensor, values)) if is_sequence(values) else 0
        if (
            n_listed > 1
            and 2 * n_listed >= n_named
            and (AVERAGES.search(key_path) or not TRAINING.search(key_path))
        ):
            yield (
                f"{took}; {key_path!r} has {n_listed} tensors without names, which are "
                "left out"
            )


def _bare(name: Any) -> str:
    bare = str(name)
    for prefix in PREFIXES * 2:
        bare = bare.removeprefix(prefix)
    return bare


def _is_model(state: Mapping[Any, Any]) -> bool:
    """Whether a mapping has a named tensor with more than one element."""
    return any(
        isinstance(name, str) and is_tensor(value) and value.size > 1
        for name, value in state.items()
    )


def _state_dicts(content: Mapping[Any, Any]) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Mappings that contain tensors, at any depth, with their dotted key paths."""
    for key_path, value in _containers(content):
        if not is_sequence(value) and _is_state_dict(contents(value)):
            yield key_path, contents(value)


def _containers(content: Any) -> Iterator[tuple[str, Any]]:
    """Yield containers at any depth, with their dotted key paths."""
    queue = deque([("", content)])
    seen = set()
    while queue:
        key_path, value = queue.popleft()
        if id(value) in seen:  # a pickled object may contain itself
            continue
        seen.add(id(value))
        if key_path:
            yield key_path, value
        for name, inner in contents(value).items():
            if is_sequence(inner) or isinstance(inner, dict | PickledObject):
                queue.append((f"{key_path}.{name}" if key_path else str(name), inner))


def _deeper(content: Mapping[Any, Any]) -> str | None:
    """Key path of a nested mapping that contains tensors, None if there is not any."""
    return next((key_path for key_path, _ in _state_dicts(content)), None)


def _is_state_dict(mapping: Mapping[Any, Any]) -> bool:
    return any(map(is_tensor, mapping.values()))
