"""Which merge of fine-tunes on different tasks keeps the most of each of them?

Two backbones with eight tasks each.
"""  # noqa: D400  # a question

from __future__ import annotations

import argparse
import os
from pathlib import Path
from types import ModuleType

import task_digits
import task_texts
import torch
from task_training import members_of

N_SEEDS = 5
BACKBONES: dict[str, ModuleType] = {"digits": task_digits, "texts": task_texts}


def main() -> None:
    """Train the members that are missing, merge them, report."""
    options = parse()
    torch.set_num_threads(options.threads)
    for seed in range(options.seeds):
        for name, module in BACKBONES.items():
            if options.only not in (None, name):
                continue
            backbone, tasks = module.make(seed)
            folder = options.folder / name / f"seed-{seed}"
            members_of(backbone, tasks, module.SETTINGS, folder, seed)


def parse() -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--folder", type=Path, required=True, help="where the members are kept")
    add("--only", choices=BACKBONES)
    add("--seeds", type=int, default=N_SEEDS)
    add("--threads", type=int, default=1, help="of PyTorch")
    add("--train-only", action="store_true", help="train the missing members")
    add("--results", type=Path, help="folder for tasks.md and tasks.json")
    return parser.parse_args()


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    main()
