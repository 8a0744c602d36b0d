"""Compare the configurations, tokenizers and other auxiliary files of members."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ensembles.checkpoints.compatibility.grouping import MEMBER, grouped, listed
from ensembles.checkpoints.directories.directory import CONFIG as CONFIG
from ensembles.checkpoints.directories.directory import TOKENIZERS
from ensembles.checkpoints.formats.checkpoint import Checkpoint
from ensembles.regular_files import read_json

# Keys of a configuration that do not affect the meaning of the parameters.
IDLE_KEYS = {"_name_or_path", "transformers_version", "dtype", "torch_dtype"}
IDLE_KEYS |= {"architectures", "problem_type", "use_cache"}
IDLE_SIDE_KEYS = {"name_or_path", "tokenizer_file", "special_tokens_map_file"}
IDLE_SIDE_KEYS |= {"__version__", "_commit_hash", "_diffusers_version", *IDLE_KEYS}
# Keys that change the output for the same tensors, such as the number of heads.
GRAVE = re.compile(
    r"(?!.*(?:max_|drop|_impl)).*(?:model_type|head|group|rope|theta|act$|activation"
    r"|_fn$|eps|norm|window|position|scal|id2|2id|pool|stride|patch|layer_types"
    r"|attention_type|experts|top_k|causal|kernel|dilation).*"
)
CARD = "README.md"
IS_CARD = re.compile(r"(readme|model_?card)([._-][\w-]+)*\.(md|rst|txt)", re.I)
CARDS = re.compile(r".*licen[sc]e.*|notice.*|.*\.(png|jpe?g|gif|svg)", re.I)


def differences(members: Sequence[Checkpoint]) -> Iterator[str]:
    """Notes on auxiliary files that differ from those of the first member.

    Parameters
    ----------
    members : sequence of Checkpoint
        Members to compare with the first; state dicts in memory have no files.

    Yields
    ------
    str
        One message for each difference, with the names of all members that have it.
    """
    first = members[0]
    others = [member for member in members[1:] if member is not first]
    for compared in (_of_configs, _of_tokenizers, _of_files):
        yield from grouped(
            (member.name, note) for member in others for note in compared(first, member)
        )


def config_differences(first: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Keys of two configurations with different values, except irrelevant ones.

    Parameters
    ----------
    first, other : mapping of str to value
        Configurations, as in ``config.json``; only keys in both are compared.

    Returns
    -------
    list of str
        Sorted, without dropout rates and keys such as ``transformers_version``.
    """
    keys = sorted((first.keys() & other.keys()) - IDLE_KEYS)
    return [
        key for key in keys if "drop" not in key and _differ(first[key], other[key])
    ]


def is_card(name: str) -> bool:
    """Whether a file name is that of a model card, in any folder."""
    return IS_CARD.fullmatch(Path(name).name) is not None


def has_card(members: Sequence[Checkpoint]) -> bool:
    """Whether a member has a model card, so that the average needs a new one."""
    return any(is_card(name) for member in members for name in member.files)


def _of_configs(first: Checkpoint, member: Checkpoint) -> Iterator[str]:
    source = CONFIG if first.is_directory else "metadata"
    pairs = dict(_differing(first.config, member.config))
    shown = {key: f"{key} ({a!r:.30} and {b!r:.30})" for key, (a, b) in pairs.items()}
    grave = [shown[key] for key in pairs if GRAVE.fullmatch(key)]
    minor = [k for k in pairs if shown[k] not in grave and "drop" not in k]
    if grave:
        yield (
            f"{source} of {MEMBER} differs from that of {first.name}, the first, in "
            f"{listed(grave)}: these are different models, in which the same tensors "
            f"compute something else; the result has the first's {source}, and is to "
            "be tested"
        )
    if minor:
        yield (
            f"{source} of {MEMBER} differs from that of {first.name}, "
            f"the first, in {', '.join(minor)}"
        )


def _differing(
    one: Mapping[str, Any], other: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Keys and values that differ, among keys in both; nested keys have dots."""
    for key in sorted((one.keys() & other.keys()) - IDLE_KEYS):
        pair = one[key], other[key]
        if all(isinstance(value, dict) for value in pair):
            yield from _differing(*pair, f"{prefix}{key}.")
        elif _differ(*pair):
            yield f"{prefix}{key}", pair


def _of_tokenizers(first: Checkpoint, member: Checkpoint) -> Iterator[str]:
    if None in (first.path, member.path):
        return
    own, others = (sorted(filter(_is_tokenizer, m.files)) for m in (first, member))
    shared = [name for name in own if name in others]
    if own and others and not shared:
        yield (
            f"the tokenizers cannot be compared: {first.name} has {', '.join(own)}, "
            f"{MEMBER} has {', '.join(others)}; rows of their embeddings may mean "
            "different words"
        )
    for name in shared:
        if not _is_same_file(first, member, name):
            yield (
                f"the tokenizers differ: {name} of {MEMBER} is not that of "
                f"{first.name}; rows of their embeddings may mean different words"
            )


def _of_files(first: Checkpoint, member: Checkpoint) -> Iterator[str]:
    """Compare other files: modules, templates, generation settings, preprocessors."""
    if None in (first.path, member.path):
        return
    shared = [
        name
        for name in first.files
        if name in member.files
        and name != CONFIG
        and not _is_tokenizer(name)
        and not is_card(name)
        and not CARDS.fullmatch(Path(name).name)
    ]
    differing = []
    for name in sorted(shared):
        if not _is_same_file(first, member, name):
            keys = _changed(_contents(first, name), _contents(member, name))
            if keys is None:
                differing.append(name)
            elif keys:
                differing.append(f"{name} (in {listed(keys)})")
    if differing:
        yield (
            f"{listed(differing)} of {MEMBER} differ from those of {first.name}, "
            "the first, which the result has"
        )
    more = [name for name in member.files if _says_something(name)]
    more = sorted(set(more) - set(first.files))
    if more and first.is_directory and member.is_directory:
        yield (
            f"{listed(more)} of {MEMBER} are not in the result, as {first.name}, "
            "the first, has no such file"
        )


def _says_something(name: str) -> bool:
    own = Path(name).name
    return own.endswith(("config.json", "_map.json", ".jinja", "template.json"))


def _is_tokenizer(name: str) -> bool:
    return TOKENIZERS.fullmatch(Path(name).name) is not None


def _is_same_file(first: Checkpoint, member: Checkpoint, name: str) -> bool:
    one, other = Path(str(first.path)) / name, Path(str(member.path)) / name
    if one.stat().st_size != other.stat().st_size:
        return False
    return one.samefile(other) or one.read_bytes() == other.read_bytes()


def _contents(member: Checkpoint, name: str) -> Any:
    if not name.endswith(".json"):
        return None
    try:
        return read_json(Path(str(member.path)) / name)
    except ValueError:
        return None


def _changed(one: Any, other: Any) -> list[str] | None:
    """Keys in which two JSON objects differ; None if either is not an object."""
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return None
    first, second = _flat(one), _flat(other)
    return [
        key
        for key in sorted(first.keys() | second.keys())
        if not IDLE_SIDE_KEYS & set(key.split("."))
        and _differ(first.get(key), second.get(key))
    ]


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested objects to one mapping with dotted keys."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict) and value:
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _differ(one: Any, other: Any) -> bool:
    try:
        return bool(one != other)
    except (ValueError, RuntimeError):  # arrays and tensors have no single truth value
        return False
