"""Paths of the models of a recipe, which may be names in the Hugging Face Hub."""

from __future__ import annotations

import os
import re
from pathlib import Path

NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")


def model_path(model: str) -> Path:
    """Path of a model of a recipe.

    Parameters
    ----------
    model : str
        A path, relative to the current directory, or the name of a model in the Hugging
        Face Hub that is in the local cache, optionally followed by ``@`` and a
        revision. ``+`` and an adapter in the same form may follow.

    Returns
    -------
    Path
        With the path of the adapter after a ``+``.

    Raises
    ------
    FileNotFoundError
        If it is neither; the message says how to download it.
    """
    if Path(model).exists():
        return Path(model)
    return Path("+".join(str(_path(part)) for part in model.split("+")))


def _path(model: str) -> Path:
    if Path(model).exists():
        return Path(model)
    name, _, revision = model.partition("@")
    if not NAME.fullmatch(name):
        raise FileNotFoundError(f"no model at {model}")
    cached = hub_cache() / f"models--{name.replace('/', '--')}"
    reference = cached / "refs" / (revision or "main")
    commit = reference.read_text().strip() if reference.is_file() else revision
    snapshot = cached / "snapshots" / commit
    if commit and snapshot.is_dir():
        return snapshot
    option = f" --revision {revision}" if revision else ""
    raise FileNotFoundError(
        f"no model at {model}, and none in the cache of the Hugging Face Hub, "
        f"{hub_cache()}; download it: hf download {name}{option}"
    )


def hub_cache() -> Path:
    """Folder of the local cache of the Hugging Face Hub.

    Returns
    -------
    Path
        As `huggingface_hub` determines it from the environment.
    """
    home = os.environ.get("HF_HOME") or Path(
        os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface"
    )
    cache = os.environ.get("HF_HUB_CACHE") or Path(home, "hub")
    return Path(cache).expanduser()
