"""How much longer do PyTorch files and distributed checkpoints take than safetensors?

The same tensors, Llama-shaped in bfloat16, as safetensors, as PyTorch files, and as
distributed checkpoints (DCP) of several ranks. Each format is averaged into its own,
distributed checkpoints into safetensors; results are compared before anything is
measured. Beside them: the loop of torch over PyTorch files, and torch's consolidation
of one distributed checkpoint, which other tools need first. Then the commands that
inspect, verify and compare checkpoints, against programs that only read the files.

Every way is a command of its own, from start to exit, and the ways take turns. What a
command takes on tensors of 1 MB is its start, and is subtracted.
"""  # noqa: D400  # a question

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import llama
import measuring
from measuring import Cost

from ensembles.checkpoints import convert, diff

HERE = Path(__file__).parent
MIB = 1 << 20
N_MEMBERS = 3
SUFFIXES = {"safetensors": ".safetensors", "PyTorch": ".pt", "DCP": ""}
# Each way, and the way that its ratio refers to, with the ratio that was aimed at.
RATIOS = {
    "PyTorch": ("safetensors", 1.3),
    "DCP": ("safetensors", 1.5),
    "torch loop over PyTorch": ("safetensors", None),
    "dcp_to_torch of one member": ("safetensors", None),
    "verify": ("read once", 1.2),
    "diff": ("read both", 1.5),
    "inspect": ("read once", None),
}
# References first, because `verify` reads the average of safetensors files.
WAYS = dict.fromkeys([*SUFFIXES, *(name for name, _ in RATIOS.values()), *RATIOS])
READ = """
import sys
def read(path):
    buffer = bytearray(1 << 20)
    with open(path, "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
for path in sys.argv[1:]:
    read(path)
"""
LOOP = """
import sys, torch
out, *paths = sys.argv[1:]
states = [torch.load(path, weights_only=True) for path in paths]
mean = {}
for name, first in states[0].items():
    total = sum(state[name].float() for state in states)
    mean[name] = (total / len(states)).to(first.dtype)
torch.save(mean, out)
"""


def main() -> None:
    """Measure, print and save the results."""
    options = parse()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        large = Members(Path(folder), "large", options.parameters, options.ranks)
        small = Members(Path(folder), "small", 0.5e6, options.ranks)
        check(large)
        costs: dict[str, list[tuple[Cost, Cost]]] = defaultdict(list)
        for index in range(options.rounds):
            for way in WAYS:
                say(f"round {index + 1}: {way}")
                costs[way].append((large.cost(way), small.cost(way)))
        facts = {
            "date": date.today().isoformat(),
            "command": measuring.command(),
            "machine": measuring.machine(),
            "bytes_per_member": large.n_bytes,
            "ranks": options.ranks,
            "rounds": options.rounds,
            "results": [row(way, costs) for way in costs],
        }
    text = markdown(facts)
    print(text)
    if options.results:
        options.results.mkdir(exist_ok=True)
        (options.results / "formats.md").write_text(text)
        (options.results / "formats.json").write_text(json.dumps(facts, indent=1))


def parse() -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--parameters", type=float, default=0.15e9, help="of each member")
    add("--ranks", type=int, default=4, help="of each distributed checkpoint")
    add("--rounds", type=int, default=5)
    add("--folder", type=Path, help="where checkpoints are made, on a disk")
    add("--results", type=Path, help="folder to keep results in")
    return parser.parse_args()


class Members:
    """Three members in each format, and the costs of the ways to read them."""

    def __init__(self, folder: Path, name: str, size: float, n_ranks: int) -> None:
        self.folder = folder / name
        self.folder.mkdir()
        shapes = llama.layout_of_size(size)
        self.n_bytes = 2 * llama.n_parameters(shapes)
        for index in range(N_MEMBERS):
            say(f"making {name} member {index}")
            made = llama.make(
                self.folder / f"made-{index}", shapes, member=index, n_shards=1
            )
            convert(made, self.path("safetensors", index))
            convert(made, self.path("PyTorch", index))
            maker = [sys.executable, str(HERE / "distributed_members.py")]
            measuring.run(
                [*maker, str(self.path("DCP", index)), str(made), str(n_ranks)]
            )
            shutil.rmtree(made)

    def path(self, kind: str, index: int | str) -> Path:
        """Path of a member, or of the result "out"."""
        return self.folder / f"{index}-{kind}{SUFFIXES[kind]}"

    def paths(self, kind: str) -> list[Path]:
        """Paths of all members in a format."""
        return [self.path(kind, index) for index in range(N_MEMBERS)]

    def out(self, kind: str) -> Path:
        """Path of the average of members in a format."""
        return self.path("safetensors" if kind == "DCP" else kind, f"out-{kind}")

    def average(self, kind: str) -> list[str]:
        """Command that averages the members in a format."""
        words = ["avg", *map(str, self.paths(kind)), "-o", str(self.out(kind))]
        return [*ENSEMBLE, *words, "--force", "--threads", "2"]

    def command(self, way: str) -> tuple[list[str], Sequence[Path]]:
        """Command of a way, and the files that it reads."""
        first, second, _ = self.paths("safetensors")
        if way in SUFFIXES:
            return self.average(way), self.paths(way)
        if way == "torch loop over PyTorch":
            paths = self.paths("PyTorch")
            out = self.folder / "loop.pt"
            return [sys.executable, "-c", LOOP, str(out), *map(str, paths)], paths
        if way == "dcp_to_torch of one member":
            source = self.path("DCP", 0)
            module = "torch.distributed.checkpoint.format_utils"
            line = [sys.executable, "-W", "ignore", "-m", module, "dcp_to_torch"]
            return [*line, str(source), str(self.folder / "joined.pt")], [source]
        result = self.out("safetensors")
        if way == "read once":
            return [sys.executable, "-c", READ, str(result)], [result]
        if way == "read both":
            both = [first, second]
            return [sys.executable, "-c", READ, *map(str, both)], both
        if way == "diff":
            words = ["diff", str(first), str(second), "--threads", "2"]
            return [*ENSEMBLE, *words], [first, second]
        words = ["verify", str(result), "--threads", "2"]
        if way == "inspect":
            words = ["inspect", str(result)]
        return [*ENSEMBLE, *words], [result]

    def cost(self, way: str) -> Cost:
        """Cost of a way, with its files in the page cache."""
        line, paths = self.command(way)
        measuring.settle(self.folder / "scratch", self.n_bytes)
        measuring.warm(
            file
            for path in paths
            for file in (sorted(path.iterdir()) if path.is_dir() else [path])
        )
        return measuring.run(line)


ENSEMBLE = [sys.executable, "-m", "ensembles_cli"]


def check(members: Members) -> None:
    """Stop if a format gives other tensors than safetensors."""
    for kind in SUFFIXES:
        measuring.run(members.average(kind))
    for kind in ("PyTorch", "DCP"):
        found = diff(members.out("safetensors"), members.out(kind))
        if found.whole.n_identical != found.whole.n_tensors:
            raise SystemExit(f"{kind}: other tensors than those of safetensors")


def row(way: str, costs: dict[str, list[tuple[Cost, Cost]]]) -> dict[str, Any]:
    """Costs of a way, and its ratio to another one, round by round."""
    facts: dict[str, Any] = {
        "way": way,
        "wall": measuring.spread([large.wall for large, _ in costs[way]]),
        "cpu": measuring.spread([large.cpu for large, _ in costs[way]]),
        "anonymous_mib": max(large.anonymous for large, _ in costs[way]) / MIB,
    }
    if way in RATIOS:
        other, target = RATIOS[way]
        facts |= {"compared_with": other, "target": target}
        for kind in ("wall", "cpu"):
            pairs = zip(
                beyond(costs[way], kind), beyond(costs[other], kind), strict=True
            )
            facts[f"{kind} ratio"] = measuring.spread([a / b for a, b in pairs])
    return facts


def beyond(costs: Sequence[tuple[Cost, Cost]], kind: str) -> list[float]:
    """Seconds beyond the start, round by round."""
    return [
        max(getattr(large, kind) - getattr(small, kind), 1e-3) for large, small in costs
    ]


def markdown(facts: dict[str, Any]) -> str:
    """Results as Markdown."""
    machine = ", ".join(f"{name} {value}" for name, value in facts["machine"].items())
    lines = [
        f"# Formats, {facts['date']}",
        "",
        f"`{facts['command']}`",
        "",
        f"{N_MEMBERS} members of {facts['bytes_per_member']:,} bytes in bfloat16; "
        f"distributed checkpoints of {facts['ranks']} ranks; {facts['rounds']} rounds. "
        "The averages were equal, tensor by tensor, bit for bit.",
        "",
        machine + ".",
        "",
        "Seconds are those of whole commands: median (minimum to maximum). Ratios are "
        "those of the seconds beyond start-up, in the same round. Averages and the "
        "consolidation are compared with the average of safetensors files, with two "
        "threads; `verify` and `diff` have two threads too, and are compared with a "
        "program that reads the same files in one. Memory is the highest anonymous "
        "memory.",
        "",
        "| command | wall s | CPU s | MiB | compared with | wall ratio | CPU ratio | "
        "aim |",
        "|---|--:|--:|--:|---|--:|--:|--:|",
    ]
    for entry in facts["results"]:
        cells = [entry["way"], shown(entry["wall"]), shown(entry["cpu"])]
        cells.append(f"{entry['anonymous_mib']:.0f}")
        if "compared_with" in entry:
            cells += [entry["compared_with"]]
            cells += [shown(entry["wall ratio"]), shown(entry["cpu ratio"])]
            cells.append(str(entry["target"] or ""))
        else:
            cells += [""] * 4
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def shown(values: dict[str, float]) -> str:
    """Median, minimum and maximum."""
    return f"{values['median']:.2f} ({values['min']:.2f} to {values['max']:.2f})"


def say(words: str) -> None:
    """Print progress to stderr."""
    print(f"{time.strftime('%H:%M:%S')} {words}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
