"""Compare the configurations, tokenizers and other auxiliary files of members."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ensembles.checkpoints.compatibility.grouping import MEMBER, grouped, listed
from ensembles.checkpoints.directories.directory import CONFIG as CONFIG
from ensembles.checkpoints.directories.directory import TOKENIZERS
from ensembles.checkpoints.directories.module_settings import comparable
from ensembles.checkpoints.directories.modules import MODULES
from ensembles.checkpoints.formats.checkpoint import Checkpoint

# Keys of a configuration that do not affect the meaning of the parameters.
IDLE_KEYS = {"_name_or_path", "transformers_version", "dtype", "torch_dtype"}
IDLE_KEYS |= {"architectures", "problem_type", "use_cache"}
IDLE_SIDE_KEYS = {"name_or_path", "tokenizer_file", "special_tokens_map_file"}
IDLE_SIDE_KEYS |= {"__version__", "_commit_hash", "_diffusers_version", *IDLE_KEYS}
# Keys that change the outputs for the same tensors, such as the number of heads.
GRAVE = re.compile(
    r"(?!.*(?:max_|drop|_impl)).*(?:model_type|head|group|rope|theta|act$|activation"
    r"|_fn$|eps|norm|window|position|scal|id2|2id|pool|stride|patch|layer_types"
    r"|attention_type|experts|top_k|causal|kernel|dilation"
    # Of modules of sentence-transformers, whose weights of words are not tensors.
    r"|vocab$|word_weight|cumulative|stop_words|lower_case|structure|module classes).*"
)
CARD = "README.md"
MATCHED = (
    "; a recipe with 'tokenizer_source: union' (ensemble merge) matches them by token"
)
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
    for compared in (_config_notes, _tokenizer_notes, _file_notes):
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


def _config_notes(first: Checkpoint, member: Checkpoint) -> Iterator[str]:
    source = CONFIG if first.is_directory else "metadata"
    pairs = dict(_differing(first.config, member.config))
    shown = {key: f"{key} ({a!r:.30} and {b!r:.30})" for key, (a, b) in pairs.items()}
    grave = [shown[key] for key in pairs if GRAVE.fullmatch(key)]
    minor = [k for k in pairs if shown[k] not in grave and "drop" not in k]
    if grave:
        yield (
            f"{source} of {MEMBER} differs from that of {first.name}, the first "
            f"member, in {listed(grave)}: models of these configurations compute "
            f"different outputs from the same tensors; the result has the {source} "
            "of the first member: test it"
        )
    if minor:
        yield (
            f"{source} of {MEMBER} differs from that of {first.name}, the first "
            f"member, in {', '.join(minor)}"
        )


def _differing(
    first: Mapping[str, Any], other: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Keys and values that differ, among keys in both; nested keys have dots."""
    for key in sorted((first.keys() & other.keys()) - IDLE_KEYS):
        pair = first[key], other[key]
        if all(isinstance(value, dict) for value in pair):
            yield from _differing(*pair, f"{prefix}{key}.")
        elif _differ(*pair):
            yield f"{prefix}{key}", pair


def _tokenizer_notes(first: Checkpoint, member: Checkpoint) -> Iterator[str]:
    if None in (first.path, member.path):
        return
    first_files, member_files = (
        sorted(filter(_is_tokenizer, m.files)) for m in (first, member)
    )
    shared = [name for name in first_files if name in member_files]
    if first_files and member_files and not shared:
        yield (
            f"the tokenizers cannot be compared: {first.name} has "
            f"{', '.join(first_files)}, {MEMBER} has {', '.join(member_files)}; rows "
            f"of their embeddings may mean different words{MATCHED}"
        )
    for name in shared:
        if not _is_same_file(first, member, name):
            yield (
                f"the tokenizers differ: {name} of {MEMBER} is not the same as that of "
                f"{first.name}; rows of their embeddings may mean different words"
                f"{MATCHED}"
            )


def _file_notes(first: Checkpoint, member: Checkpoint) -> Iterator[str]:
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
    grave, differing = [], []
    for name in sorted(shared):
        if not _is_same_file(first, member, name):
            keys = _changed(_contents(first, name), _contents(member, name))
            if keys is None:
                differing.append(name)
            elif keys and _is_of_module(first, name) and any(map(GRAVE.match, keys)):
                grave.append(f"{name} (in {listed(keys)})")
            elif keys:
                differing.append(f"{name} (in {listed(keys)})")
    end = f"of {MEMBER} differ from those of {first.name}, the first member"
    if grave:
        yield (
            f"{listed(grave)} {end}: modules of these configurations compute different "
            "outputs from the same tensors; the result has those of the first member: "
            "test it"
        )
    if differing:
        yield f"{listed(differing)} {end}, which the result has"
    additional = sorted(set(filter(_affects_use, member.files)) - set(first.files))
    if additional and first.is_directory and member.is_directory:
        yield (
            f"{listed(additional)} of {MEMBER} are not in the result, because "
            f"{first.name}, the first member, does not have them"
        )


def _affects_use(name: str) -> bool:
    base_name = Path(name).name
    return base_name.endswith(("config.json", "_map.json", ".jinja", "template.json"))


def _is_tokenizer(name: str) -> bool:
    return TOKENIZERS.fullmatch(Path(name).name) is not None


def _is_same_file(first: Checkpoint, member: Checkpoint, name: str) -> bool:
    if name not in first.contents and name not in member.contents:
        first_path = Path(str(first.path)) / name
        member_path = Path(str(member.path)) / name
        if first_path.stat().st_size != member_path.stat().st_size:
            return False
        if first_path.samefile(member_path):
            return True
    return first.read_file(name) == member.read_file(name)


def _contents(member: Checkpoint, name: str) -> Any:
    if not name.endswith(".json"):
        return None
    try:
        return comparable(json.loads(member.read_file(name)))
    except ValueError:
        return None


def _is_of_module(first: Checkpoint, name: str) -> bool:
    """Whether a file has settings of a module of sentence-transformers."""
    base_name = Path(name).name
    is_config = name == MODULES or base_name.endswith("config.json")
    return is_config and MODULES in first.files


def _changed(one: Any, other: Any) -> list[str] | None:
    """Keys in which two JSON objects differ; None if either is not an object."""
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return None
    first, second = _flatten(one), _flatten(other)
    return [
        key
        for key in sorted(first.keys() | second.keys())
        if not IDLE_SIDE_KEYS & set(key.split("."))
        and _differ(first.get(key), second.get(key))
    ]


def _flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested objects to one mapping with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict) and value:
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _differ(first: Any, second: Any) -> bool:
    try:
        return bool(first != second)
    except (ValueError, RuntimeError):  # arrays and tensors have no single truth value
        return False
