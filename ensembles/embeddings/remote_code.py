"""Refusal of model directories that would load their own Python code.

Versions of sentence-transformers below 6 import the classes that a directory names,
from the directory itself. The check here does not depend on the version: every class
and function that a directory names must belong to one of the `TRUSTED` packages.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ensembles.regular_files import read_json

TRUSTED = ("sentence_transformers.", "transformers.", "torch.nn.")
# Keys whose values name classes or functions, e.g. "type", "types", "tokenizer_class".
NAMING = re.compile(r"(?:.*_)?(?:type|types|class|classes|function|fn)")
# Dotted name in a module, or "repository--name". The packages look up a plain name in
# their own tables, so it cannot import code.
IMPORTED = re.compile(r".*\.[A-Za-z_]\w*|.*--.*", re.DOTALL)
DEEPEST = 3  # levels of subdirectories that are searched for JSON files
# Skipped: these files are large and name no classes.
DATA = ("tokenizer.json", "vocab.json", ".index.json")
HINT = (
    "if you trust it, load it with SentenceTransformer(path, trust_remote_code=True) "
    "and pass the model to SentenceEncoder"
)

# Left to the user: remote code may differ from the architecture of the same name, e.g.
# that of gte-Qwen2, whose attention is bidirectional.
NATIVE = "if transformers has this architecture built in, remove auto_map from the file"


def check_no_remote_code(folder: Path) -> None:
    """Raise if a model directory names code outside the trusted packages.

    Parameters
    ----------
    folder : Path
        Model directory; its JSON files are searched, not its tensors.

    Raises
    ------
    ValueError
        If a JSON file names a class or a function outside `TRUSTED`, sets ``auto_map``
        or ``trust_remote_code``, or lists a module outside the directory; also if
        ``modules.json`` or ``config.json`` is not valid JSON.
    """
    for path in _json_files(folder):
        try:
            content = read_json(path)
        except ValueError:
            if path.parent == folder and path.name in ("modules.json", "config.json"):
                raise
            continue  # not a configuration file of the model
        if path.name == "modules.json":
            _check_paths(path, content)
        for key, value in _entries(content):
            if untrusted := _untrusted_code(key, value):
                native = f"; {NATIVE}" if key == "auto_map" else ""
                raise ValueError(
                    f"{path} must only name classes of {', '.join(TRUSTED)[:-1]}: "
                    f"{key!r} is {untrusted!r}, code of the model, which is not run; "
                    f"{HINT}{native}"
                )


def _json_files(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        if len(Path(root).relative_to(folder).parts) >= DEEPEST:
            folders.clear()
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.endswith(".json") and not name.endswith(DATA):
                yield Path(root) / name


def _check_paths(path: Path, modules: Any) -> None:
    entries = modules if isinstance(modules, list) else [modules]
    for module in entries:
        module_path = module.get("path", "") if isinstance(module, dict) else None
        if not isinstance(module_path, str) or Path(module_path).is_absolute():
            module_path = ".."
        if ".." in Path(module_path).parts:
            raise ValueError(
                f"{path} must list modules with a path inside the directory, found "
                f"{module!r}"
            )


def _entries(content: Any) -> Iterator[tuple[str, Any]]:
    """Keys and values of all objects in parsed JSON, at any depth."""
    stack = [content]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            yield from value.items()
            stack.extend(value.values())
        elif isinstance(value, list):
            stack.extend(value)


def _untrusted_code(key: str, value: Any) -> Any:
    """Untrusted code that a key requests, or None."""
    if key in ("auto_map", "trust_remote_code"):
        return value or None
    if not NAMING.fullmatch(key):
        return None
    names = value if isinstance(value, list) else [value]
    names = list(value.values()) if isinstance(value, dict) else names
    for name in names:
        is_imported = isinstance(name, str) and IMPORTED.fullmatch(name.strip())
        if is_imported and not name.startswith(TRUSTED):
            return name
    return None
