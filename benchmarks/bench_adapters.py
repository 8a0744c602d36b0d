"""How much time and memory does a merge of LoRA adapters take, and is it exact?

Eight adapters of rank 16 for all linear layers of a model of 7B parameters are
averaged: exactly, with the rank of all of them together, and compressed to a rank. Each
way is a command of its own, measured from start to end; the ways take turns.

Updates of some modules are compared with the weighted sum of the updates in float64,
and compressed ones with the best approximation of the same rank.
"""  # noqa: D400  # a question

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import adapter_members as adapters
import measuring
import numpy as np
from bench_checkpoints import HERE, say
from measuring import Cost
from report import MIB, seconds

QUICK = {"hidden": 512, "layers": 2, "rounds": 1}
WAYS = {
    "ensemble": [],
    "ensemble --rank": ["--rank", "{rank}"],
    "ensemble --energy 0.99": ["--energy", "0.99"],
    "peft cat": ["cat"],
    "peft svd": ["svd"],
}
AIM_SECONDS, AIM_SIZES = 30, 4
N_CHECKED = 4  # modules
EXACT = 1e-6  # relative error of the sum, in float32


def main() -> None:
    """Measure, check, print and save the results."""
    options = parse()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        bench = AdapterBench(Path(folder), options)
        facts = bench.facts()
        facts["results"] = bench.rows()
    text = markdown(facts)
    print(text)
    if options.results:
        options.results.mkdir(exist_ok=True)
        (options.results / "adapters.md").write_text(text)
        (options.results / "adapters.json").write_text(json.dumps(facts, indent=1))


def parse() -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--adapters", type=int, default=8)
    add("--rank", type=int, default=16, help="of each adapter, and of compressed ones")
    add("--hidden", type=int, default=4096, help="width of the model")
    add("--layers", type=int, default=32, help="of the model")
    add("--rounds", type=int, default=5)
    add("--peer", metavar="PYTHON", help="interpreter that has peft")
    add("--folder", type=Path, help="where adapters are made, on a disk")
    add("--only", nargs="+", choices=WAYS, default=[*WAYS], metavar="WAY")
    add("--quick", action="store_true", help="a small model, one round")
    add("--results", type=Path, help="folder to keep results in")
    options = parser.parse_args()
    if options.quick:
        vars(options).update(QUICK)
    return options


class AdapterBench:
    """Adapters on a disk, and the costs of all ways to merge them."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.options = options
        self.out = folder / "out"
        self.layout = adapters.modules(options.hidden, options.layers)
        self.members = []
        for seed in range(options.adapters):
            say(f"making adapter {seed}")
            path = folder / f"adapter-{seed}"
            adapters.make(path, self.layout, rank=options.rank, seed=seed)
            self.members.append(path)
        self.weights = [1 / options.adapters] * options.adapters

    def facts(self) -> dict[str, Any]:
        """What the results depend on."""
        machine = measuring.machine()
        if self.options.peer:
            machine["peft"] = measuring.version_in(self.options.peer, "peft")
        return {
            "date": date.today().isoformat(),
            "command": measuring.command(),
            "machine": machine,
            "adapters": self.options.adapters,
            "rank": self.options.rank,
            "modules": len(self.layout),
            "bytes": sum(self.size(path) for path in self.members),
            "rounds": self.options.rounds,
        }

    @staticmethod
    def size(folder: Path) -> int:
        """Bytes of an adapter's tensors."""
        return (folder / adapters.FILE).stat().st_size

    def command(self, way: str) -> list[str]:
        """Command line of a way."""
        options, members = self.options, list(map(str, self.members))
        more = [word.format(rank=options.rank) for word in WAYS[way]]
        if way.startswith("ensemble"):
            run = [sys.executable, "-m", "ensembles_cli", "avg", *members]
            return [*run, "-o", str(self.out), "--force", *more]
        run = [options.peer, str(HERE / "adapter_peer.py"), *more, str(self.out)]
        sizes = [options.hidden, options.layers, options.rank]
        return [*run, *map(str, sizes), *members]

    def cost(self, way: str) -> Cost:
        """Cost of a way; its output is at ``self.out`` until the next one."""
        shutil.rmtree(self.out, ignore_errors=True)
        measuring.settle(self.out.with_name("scratch"), self.size(self.members[0]))
        return measuring.run(self.command(way))

    def result(self) -> Path:
        """Folder of the merged adapter; peft writes a folder for each."""
        inner = self.out / "merged"
        return inner if inner.exists() else self.out

    def errors(self) -> dict[str, float]:
        """Largest error of a module's update, and that of the best of its rank."""
        names = list(self.layout)[:: max(len(self.layout) // N_CHECKED, 1)]
        error, ranks, excess = 0.0, 0, 0.0
        for name in names:
            exact = adapters.weighted_sum(self.members, self.weights, name)
            merged = adapters.factors(self.result(), name)
            rank = merged[1].shape[0]
            squares = adapters.values(*exact) ** 2
            best = float(np.sqrt(squares[rank:].sum() / squares.sum()))
            error_of_module = adapters.difference(merged, exact)
            error, ranks = max(error, error_of_module), max(ranks, rank)
            excess = max(excess, error_of_module - best)
        return {"error": error, "excess": excess, "rank": ranks}

    def rows(self) -> list[dict[str, Any]]:
        """Measure all ways in turns; the first round checks their results."""
        costs: dict[str, list[Cost]] = defaultdict(list)
        found: dict[str, dict[str, float]] = {}
        ways = [w for w in self.options.only if self.options.peer or "peft" not in w]
        for index in range(self.options.rounds):
            for way in ways:
                say(f"round {index + 1}: {way}")
                measuring.warm(path / adapters.FILE for path in self.members)
                costs[way].append(self.cost(way))
                if index == 0:
                    found[way] = {**self.errors(), "bytes": self.size(self.result())}
                    check(way, found[way])
        return [
            {
                "way": way,
                **found[way],
                "wall": measuring.spread([cost.wall for cost in costs[way]]),
                "cpu": measuring.spread([cost.cpu for cost in costs[way]]),
                "anonymous": max(cost.anonymous for cost in costs[way]),
            }
            for way in ways
        ]


def check(way: str, row: Mapping[str, float]) -> None:
    """Check that our results are the sum, or its best approximation.

    Raises
    ------
    ValueError
        If they are not, up to rounding to float32.
    """
    if way.startswith("ensemble") and row["excess"] > EXACT:
        raise ValueError(
            f"{way}: the error {row['error']:.2e} exceeds that of the best "
            f"approximation of rank {row['rank']} by {row['excess']:.2e}"
        )


def markdown(facts: Mapping[str, Any]) -> str:
    """Results as Markdown."""
    machine = ", ".join(f"{name} {value}" for name, value in facts["machine"].items())
    size = facts["bytes"] / MIB
    lines = [
        f"# Adapters, {facts['date']}",
        "",
        f"`{facts['command']}`",
        "",
        f"{facts['adapters']} adapters of rank {facts['rank']} for {facts['modules']} "
        f"modules, in float32: {size:.0f} MiB together. {facts['rounds']} rounds, page "
        "cache warm.",
        "",
        f"{machine}.",
        "",
        "Medians (minimum to maximum) of whole commands. Memory is anonymous, also as "
        "a multiple of the size of all adapters. The error is the largest of "
        f"{N_CHECKED} modules: the norm of the difference from the float64 sum of the "
        "updates, relative to the norm of the sum; in parentheses how much more it is "
        "than that of the best approximation of the rank. The aims are "
        f"{AIM_SECONDS} s and {AIM_SIZES} times the size.",
        "",
        "| way | rank | error | wall s | CPU s | MiB | memory / size | result MiB |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in facts["results"]:
        cells = [row["way"], str(row["rank"])]
        cells += [f"{row['error']:.2g} ({row['excess']:.1e})"]
        cells += [seconds(row["wall"]), seconds(row["cpu"])]
        cells += [f"{row['anonymous'] / MIB:.0f}"]
        cells += [f"{row['anonymous'] / facts['bytes']:.2f}"]
        cells += [f"{row['bytes'] / MIB:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
