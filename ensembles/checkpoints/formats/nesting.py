"""Find the state dict in the nested mappings of a PyTorch checkpoint."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

NESTED = ("state_dict", "model_state_dict", "model", "ema", "module")
PREFIXES = ("module.", "_orig_mod.")
SHOWN = 8
SHARED = " (shares memory with the averaged tensors)"
# Training state (optimizer, scheduler, metrics): its tensors are not parameters.
TRAINING = re.compile(
    r"optim|sched|scaler|rng|random|callback|loop|sampler|loss|meter|metric|history"
    r"|hparam|hyper|config|args|stats|grad|moment|exp_avg",
    re.IGNORECASE,
)

AVERAGES = re.compile(r"(^|[._])(ema|shadow|avg|swa)", re.IGNORECASE)


class SelectionResult(NamedTuple):
    """A state dict, its tensors and its key, with notes on skipped contents.

    ``state`` is the mapping itself. ``tensors`` has its tensors in the same order,
    without wrapper prefixes such as ``module.`` in their names. ``key`` is None if the
    file is a single state dict; ``notes`` are messages, one sentence each.
    """

    state: Any
    tensors: dict[str, Any]
    key: str | None
    notes: list[str]


def state_dict_in(content: Any, key: str | None, path: Path) -> SelectionResult:
    """State dict in an object loaded by ``torch.load``.

    Parameters
    ----------
    content : object
        Content of the file: a state dict, or a mapping that contains one.
    key : str or None
        Key of the state dict, with dots between nested keys. None takes
        ``content`` itself or the one obvious state dict among its values.
    path : Path
        Path of the file, for messages.

    Returns
    -------
    SelectionResult

    Raises
    ------
    ValueError
        If ``key`` does not exist, no state dict is found, several are candidates, the
        state dict has nested tensors, or a tensor name is not a string.
    """
    chosen_key = key
    notes: list[str] = []
    state = content
    if key is not None:
        state = _descend(content, key, path)
    elif not _is_state_dict(content) or any(map(_is_state_dict, content.values())):
        # Tensors may be stored next to a state dict: a random generator state, a loss.
        chosen_key = _obvious(content, path)
        state = content[chosen_key]
        notes = [*_beside(content, chosen_key), *_unnamed(content, chosen_key)]
    if not _is_state_dict(state):
        raise ValueError(
            f"{path} has no tensors at key {key!r}: found {type(state).__name__}"
        )
    deeper = _deeper(state)
    if deeper is not None:
        raise ValueError(
            f"{path} has nested tensors at {deeper!r}, which would be left out; choose "
            "the state dict with key=NAME"
        )
    at = None if chosen_key is None else str(chosen_key)
    return SelectionResult(state, _tensors(state, path), at, notes)


def contents_beside(
    content: Any, chosen: SelectionResult, storage_of: Callable[[Any], Any]
) -> list[str]:
    """Names of the contents of a file other than the tensors of its state dict.

    Parameters
    ----------
    content : object
        Content of the file.
    chosen : SelectionResult
        State dict in it, see `state_dict_in`.
    storage_of : callable (tensor) -> hashable
        Identifies the storage of a tensor.

    Returns
    -------
    list of str
        Keys such as "optimizer", with dots between nested keys. One that shares a
        storage with the state dict, and changes with it, has an addition that says so.
    """
    beside: list[tuple[str, Any]] = []
    prefix, rest = "", chosen.key
    while rest:
        entries = {str(name): value for name, value in _entries(content)}
        inner = max((n for n in entries if f"{rest}.".startswith(f"{n}.")), key=len)
        beside += [(prefix + n, v) for n, v in entries.items() if n != inner]
        content, prefix = entries[inner], f"{prefix}{inner}."
        rest = rest[len(inner) + 1 :]
    others = [(n, v) for n, v in _entries(content) if not is_tensor(v)]
    beside += [(f"{prefix}{name}", value) for name, value in others]
    storages = {storage_of(t) for t in chosen.tensors.values() if t.numel()}
    return [
        name + SHARED * any(storage_of(t) in storages for t in _tensors_in(value))
        for name, value in beside
    ]


def _tensors_in(value: Any) -> Iterator[Any]:
    """Tensors at any depth of a value."""
    if is_tensor(value):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for _, container in [("", value), *_containers(value)]:
            yield from (v for _, v in _entries(container) if is_tensor(v))


def is_tensor(value: Any) -> bool:
    """Whether a value is a torch tensor, checked without importing torch."""
    return hasattr(value, "untyped_storage") or hasattr(value, "is_sparse")


def _tensors(state: Mapping[Any, Any], path: Path) -> dict[str, Any]:
    tensors = {name: value for name, value in state.items() if is_tensor(value)}
    for name in tensors:
        if not isinstance(name, str):
            raise ValueError(f"{path}: tensors must be named by str, found {name!r}")
    for prefix in PREFIXES * 2:  # in either order
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): v for name, v in tensors.items()}
    return tensors


def _descend(content: Any, key: str, path: Path) -> Any:
    """Value at a dotted key path; the keys may contain dots themselves."""
    steps = key.split(".")
    while steps:
        if isinstance(content, list | tuple) and steps[0].isdecimal():
            content = dict(enumerate(content)).get(int(steps.pop(0)))
            continue
        inside = content if isinstance(content, Mapping) else {}
        names = {".".join(steps[: n + 1]): n + 1 for n in range(len(steps))}
        chosen_key = next((name for name in reversed(names) if name in inside), None)
        if chosen_key is None:
            keys = sorted(map(str, inside))
            raise ValueError(
                f"{path} has no key {key!r}: {steps[0]!r} is not among {keys[:20]}"
            )
        content, steps = inside[chosen_key], steps[names[chosen_key] :]
    return content


def _obvious(content: Any, path: Path) -> Any:
    """Key of the single plausible state dict in a mapping."""
    if not isinstance(content, Mapping):
        raise ValueError(
            f"{path} must contain a state dict, found {type(content).__name__}"
        )
    inside = [name for name, value in content.items() if _is_state_dict(value)]
    usual = [name for name in NESTED if name in inside]
    loose = sum(map(is_tensor, content.values()))
    for names in (inside, usual):
        # A small state dict among many loose tensors is probably not the model.
        if len(names) == 1 and (names == usual or loose < len(content[names[0]])):
            return names[0]
    key_paths = inside or [key_path for key_path, _ in _state_dicts(content)]
    more = f" and {len(key_paths) - SHOWN} more" if len(key_paths) > SHOWN else ""
    listed = ", ".join(map(str, key_paths[:SHOWN])) or "none"
    raise ValueError(
        f"{path} must have one obvious state dict (found: {listed}{more}); choose one "
        "with key=NAME"
    )


def _beside(content: Mapping[Any, Any], chosen_key: Any) -> Iterator[str]:
    """Notes on other state dicts in the file: copies, and models left out."""
    names = {_bare(name) for name, v in content[chosen_key].items() if is_tensor(v)}
    for key_path, state in _state_dicts(content):
        if key_path == str(chosen_key) or key_path.startswith(f"{chosen_key}."):
            continue
        others = {_bare(name) for name, value in state.items() if is_tensor(value)}
        if 2 * len(names & others) >= len(names):
            if not re.search(r"optim|grad|moment|exp_avg", key_path, re.IGNORECASE):
                yield (
                    f"took {chosen_key!r}; {key_path!r} has the same tensor names "
                    f"(key={key_path!r})"
                )
        elif not TRAINING.search(key_path) and _is_model(state):
            yield (
                f"took {chosen_key!r}; {key_path!r} has other tensors, which are left "
                f"out (key={key_path!r})"
            )


def _unnamed(content: Mapping[Any, Any], chosen_key: Any) -> Iterator[str]:
    """Notes on tensors outside of state dicts: at the top level, or in lists.

    A moving average is often a list, in the order of the parameters.
    """
    loose = [
        str(name)
        for name, value in content.items()
        if is_tensor(value) and value.numel() > 1 and not TRAINING.search(str(name))
    ]
    if loose:
        more = f" and {len(loose) - SHOWN} more" if len(loose) > SHOWN else ""
        yield (
            f"took {chosen_key!r}; tensors next to it are left out: "
            f"{', '.join(loose[:SHOWN])}{more}"
        )
    n_named = sum(map(is_tensor, content[chosen_key].values()))
    for key_path, values in _containers(content):
        n_listed = 0 if isinstance(values, Mapping) else sum(map(is_tensor, values))
        if (
            n_listed > 1
            and 2 * n_listed >= n_named
            and (AVERAGES.search(key_path) or not TRAINING.search(key_path))
        ):
            yield (
                f"took {chosen_key!r}; {key_path!r} has {n_listed} tensors without "
                "names, which are left out"
            )


def _bare(name: Any) -> str:
    bare = str(name)
    for prefix in PREFIXES * 2:
        bare = bare.removeprefix(prefix)
    return bare


def _is_model(state: Mapping[Any, Any]) -> bool:
    """Whether a mapping has a named tensor with more than one element."""
    return any(
        isinstance(name, str) and is_tensor(value) and value.numel() > 1
        for name, value in state.items()
    )


def _state_dicts(content: Mapping[Any, Any]) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Mappings that contain tensors, at any depth, with their dotted key paths."""
    for key_path, value in _containers(content):
        if isinstance(value, Mapping) and _is_state_dict(value):
            yield key_path, value


def _containers(content: Any) -> Iterator[tuple[str, Any]]:
    """Mappings, lists and tuples at any depth, with their dotted key paths."""
    queue = deque([("", content)])
    seen = set()
    while queue:
        key_path, value = queue.popleft()
        if id(value) in seen:  # a pickled object may contain itself
            continue
        seen.add(id(value))
        if key_path:
            yield key_path, value
        for name, inner in _entries(value):
            if isinstance(inner, Mapping | list | tuple):
                queue.append((f"{key_path}.{name}" if key_path else str(name), inner))


def _entries(value: Any) -> Iterable[tuple[Any, Any]]:
    """Keys and values of a mapping, indices and elements of a list."""
    return value.items() if isinstance(value, Mapping) else enumerate(value)


def _deeper(content: Mapping[Any, Any]) -> str | None:
    """Key path of a nested mapping that contains tensors, None if there is not any."""
    return next((key_path for key_path, _ in _state_dicts(content)), None)


def _is_state_dict(value: Any) -> bool:
    return isinstance(value, Mapping) and any(map(is_tensor, value.values()))
