"""Carry out recipes by mergekit, in its environment and in one process.

Run as ``PYTHON recipe_peer.py FOLDER...``; each folder has recipe.yml, whose paths are
relative to it, and gets ``mergekit``, or mergekit.txt with an error.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path


def run(folder: Path) -> None:
    """Carry out the recipe of a folder by the command for one or several documents."""
    from mergekit.scripts import multimerge, run_yaml

    os.chdir(folder)
    command, arguments = run_yaml.main, ["recipe.yml", "mergekit"]
    if "\n---\n" in Path("recipe.yml").read_text():
        command = multimerge.main
        arguments = ["recipe.yml", "--out-path", "mergekit", "-I", "stages"]
    arguments.append("--no-write-model-card")  # it asks the hub for relative paths
    if not list(folder.glob("models/*/tokenizer.json")):
        arguments.append("--no-copy-tokenizer")
    try:
        command.main(arguments, standalone_mode=False)
    except Exception:  # reported, and the other recipes go on
        Path("mergekit.txt").write_text(traceback.format_exc())


if __name__ == "__main__":
    import mergekit.scripts.multimerge  # noqa: F401  # loaded once, before the forks

    for path in sys.argv[1:]:
        # mergekit keeps models by their paths, which are the same in all folders.
        child = os.fork()
        if child == 0:
            run(Path(path))
            os._exit(0)
        os.waitpid(child, 0)
