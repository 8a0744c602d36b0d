"""Which merge of fine-tunes on different tasks keeps the most of each of them?

Two backbones with eight tasks each: a small network on distorted digits and other
labels of digits, and all-MiniLM-L6-v2 on classifications of texts and of pairs. Each
task has its own head, whose vectors are never trained: fixed ones for digits, as in the
training of the base, and for texts the mean features of the classes in the base. So
the members differ in the backbone alone, as in merges of CLIP's image encoders. The
scale of a method is chosen by the mean accuracy on validation data; the other
parameters are those of the papers. Accuracies are those of test data, with five seeds.
"""  # noqa: D400  # a question

from __future__ import annotations

import argparse
import json
import os
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from types import ModuleType
from typing import Any

import measuring
import task_digits
import task_geometry
import task_report
import task_texts
import torch
from task_evaluation import Evaluation
from task_methods import METHODS, merges
from task_training import members_of

from ensembles.checkpoints.methods.builtin import RULES

N_SEEDS = 5
BACKBONES: dict[str, ModuleType] = {"digits": task_digits, "texts": task_texts}


def main() -> None:
    """Train the members that are missing, merge them, report."""
    options = parse()
    torch.set_num_threads(options.threads)
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for seed in options.seeds:
        for name in options.only:
            rows[name] += run(name, seed, options)
            if not options.train_only:
                report(name, rows[name], options)


def report(
    name: str, rows: Sequence[Mapping[str, Any]], options: argparse.Namespace
) -> None:
    """Print and write the results of a backbone so far, beside those of the other."""
    facts = {
        "date": date.today().isoformat(),
        "command": measuring.command(),
        "machine": measuring.machine(),
        "settings": described(name, options),
        "left_out": [name for name, m in METHODS.items() if m.rule not in RULES],
        "results": rows,
    }
    path = (options.results or options.folder) / "tasks.json"
    path.parent.mkdir(exist_ok=True)
    by_backbone = json.loads(path.read_text()) if path.exists() else {}
    by_backbone[name] = facts
    text = task_report.markdown({n: by_backbone[n] for n in sorted(by_backbone)})
    print(text)
    path.with_name("tasks.md").write_text(text)
    path.write_text(json.dumps(by_backbone, indent=1) + "\n")


def parse() -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--folder", type=Path, required=True, help="where the members are kept")
    add("--only", nargs="+", choices=BACKBONES, default=[*BACKBONES])
    add("--seeds", type=int, nargs="+", default=[*range(N_SEEDS)])
    add("--methods", nargs="+", choices=METHODS, default=[*METHODS], metavar="METHOD")
    add("--threads", type=int, default=1, help="of PyTorch")
    add("--train-only", action="store_true", help="train the missing members")
    add("--quick", action="store_true", help="few steps and texts, as a trial")
    add(
        "--results",
        type=Path,
        help="folder for tasks.md and tasks.json, that of the members if left out",
    )
    return parser.parse_args()


def described(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Settings of the members and sizes of the tasks, as results name them."""
    module = BACKBONES[name]
    settings = module.QUICK if options.quick else module.SETTINGS
    return {
        **settings._asdict(),
        **(module.QUICK_FACTS if options.quick else module.FACTS),
    }


def run(name: str, seed: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Results of all methods on the tasks with a seed, kept in a file."""
    module = BACKBONES[name]
    folder = options.folder / ("quick" if options.quick else "") / name / f"seed-{seed}"
    path = folder / "results.json"
    asked = {"settings": described(name, options), "methods": options.methods}
    if path.exists() and not options.train_only:
        finished = json.loads(path.read_text())
        if finished["asked"] == asked:
            return list(finished["results"])
    backbone, tasks = module.make(seed, folder, quick=options.quick)
    settings = module.QUICK if options.quick else module.SETTINGS
    members = members_of(backbone, tasks, settings, folder, seed)
    if options.train_only:
        return []
    evaluation = Evaluation(backbone, tasks, folder / "accuracies.json")
    run = {"backbone": name, "seed": seed, "tasks": [task.name for task in tasks]}
    results = [run | {"geometry": task_geometry.describe(members)}]
    for merged in merges(members, evaluation, options.methods):
        mean = sum(merged.accuracies) / len(tasks)
        print(
            f"{time.strftime('%T')} {name} {seed} {merged.name} {mean:.2f}", flush=True
        )
        results.append(run | merged._asdict())
    path.write_text(json.dumps({"asked": asked, "results": results}))
    return results


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    main()
