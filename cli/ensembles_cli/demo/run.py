"""Both parts of the demo, run in one folder."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from ensembles_cli.demo.console import DemoConsole
from ensembles_cli.demo.encoder import INSTALL

PACKAGES = ("torch", "sentence_transformers", "sklearn", "scipy", "safetensors")
N_THREADS = 2  # fixed, because the rounding of sums depends on the thread count


def run(folder: Path, console: DemoConsole) -> None:
    """Run both parts; the checkpoints are kept in ``folder``.

    Parameters
    ----------
    folder : Path
        Output directory, created if missing; files of an earlier run are replaced.
    console : DemoConsole
        Console output, and the function that runs the command ``ensemble``.

    Raises
    ------
    ImportError
        If a package of the extra ``demo`` is not installed.
    ValueError
        If the checksum of the encoder is wrong, or averaging fails.
    """
    check_installed()
    fix_arithmetic()
    # Slow imports; the language model requires PyTorch at import time.
    from ensembles_cli.demo.function_search import find_functions
    from ensembles_cli.demo.language_model import train_language_model

    find_functions(folder / "encoder", console)
    train_language_model(folder / "nanogpt", console)
    print_commands(folder, console)


def check_installed() -> None:
    """Raise an ImportError with the names of all missing packages."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f"the demo needs packages that are not installed: {', '.join(missing)}; "
            f"{INSTALL}"
        )


def fix_arithmetic() -> None:
    """Make PyTorch deterministic."""
    import torch

    torch.set_num_threads(N_THREADS)
    torch.use_deterministic_algorithms(True)
    # Filling uninitialized memory takes time and is not needed: it is never read here.
    deterministic: Any = torch.utils.deterministic  # its type stub lacks the setting
    deterministic.fill_uninitialized_memory = False


def print_commands(folder: Path, console: DemoConsole) -> None:
    """Print the path of the checkpoints, and commands to try with them."""
    encoder, run = folder / "encoder", folder / "nanogpt" / "run"
    members = sorted(str(member) for member in encoder.glob("member-?"))
    console.title("Commands to try")
    console.print(f"The checkpoints of the demo are in {folder}.")
    console.print_command("avg", *members, "--plan")
    console.print_command(
        "avg", *members, "--rule", "median", "-o", str(encoder / "median")
    )
    console.print_command(
        "avg", str(run), "--last", "3", "-o", str(folder / "last3.safetensors")
    )
