"""The two acts of the demo, one after the other, in one folder."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from ensembles_cli.demo.console import Stage
from ensembles_cli.demo.encoder import INSTALL

NEEDED = ("torch", "sentence_transformers", "sklearn", "scipy", "safetensors")
N_THREADS = 2  # fixed: how sums are cut, and so their last bits, depends on it


def run(folder: Path, stage: Stage) -> None:
    """Play both acts; the checkpoints stay in ``folder``.

    Parameters
    ----------
    folder : Path
        Made if absent; files of an earlier demo in it are replaced.
    stage : Stage
        Where to speak and how to run the command ``ensemble``.

    Raises
    ------
    ImportError
        If a package is missing that the extra ``demo`` installs.
    ValueError
        If the packaged encoder is not the expected one, or averaging fails.
    """
    check_installed()
    fix_arithmetic()
    # Their imports are heavy, and one of them needs torch to define its module.
    from ensembles_cli.demo.function_search import find_functions
    from ensembles_cli.demo.language_model import train_language_model

    find_functions(folder / "encoder", stage)
    train_language_model(folder / "nanogpt", stage)
    close(folder, stage)


def check_installed() -> None:
    """Raise an ImportError that names every missing package."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f"the demo needs packages that are not installed: {', '.join(missing)}; "
            f"{INSTALL}"
        )


def fix_arithmetic() -> None:
    """Let torch compute the same bytes in every run."""
    import torch

    torch.set_num_threads(N_THREADS)
    torch.use_deterministic_algorithms(True)
    # Filling fresh memory for code that reads it unwritten costs time; none does here.
    deterministic: Any = torch.utils.deterministic  # typed without its one setting
    deterministic.fill_uninitialized_memory = False


def close(folder: Path, stage: Stage) -> None:
    """Say where the checkpoints are and what to try on them."""
    encoder, run = folder / "encoder", folder / "nanogpt" / "run"
    members = sorted(str(member) for member in encoder.glob("member-?"))
    stage.title("Yours to try")
    stage.say(f"All checkpoints are in {folder}.")
    stage.suggest("avg", *members, "--plan")
    stage.suggest("avg", *members, "--rule", "median", "-o", str(encoder / "median"))
    stage.suggest(
        "avg", str(run), "--last", "3", "-o", str(folder / "last3.safetensors")
    )
