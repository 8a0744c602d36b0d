"""How much time does averaging checkpoints take, compared with copying them?

Members are Llama-shaped checkpoints in bfloat16, three shards each. Every way to
average them is a command of its own, measured from start to end; the ways take turns,
so that what else the machine does falls on all of them. The floor reads all members
and writes the output's size, by two threads, without arithmetic.

What is beyond start-up is the command less the same command on two members of about
1 MB, in the same round; ratios are of that. `ensemble` ends with fsync, so that a
result is whole after a power cut; the floor is measured without and with it.
"""  # noqa: D400  # a question

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import llama
import measuring
import report
import ways
from measuring import Cost

HERE = Path(__file__).parent
MEAN = ("floor", "floor + fsync", "numpy loop", "torch loop", "ensemble mean")
EXTRA = {2: ("ensemble slerp",), 3: ("ensemble median",), 8: ("ensemble median",)}
PEER = {2: ("mergekit linear", "mergekit slerp")}
COLD = ("floor + fsync", "ensemble mean")
BIG = 4 << 30
SMALL = llama.layout(64, vocabulary=1536, n_layers=6)


def main() -> None:
    """Measure, print and save the results."""
    options = parse()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        bench = Bench(Path(folder), options)
        facts: dict[str, Any] = {
            "date": date.today().isoformat(),
            "command": measuring.command(),
            "machine": measuring.machine(),
            "parameters": llama.n_parameters(bench.shapes),
            "bytes_per_member": bench.n_bytes,
            "rounds": options.rounds,
        }
        if options.peer:
            facts["machine"]["mergekit"] = measuring.version_in(
                options.peer, "mergekit"
            )
        facts |= {"results": [], "elements_checked": 0}
        for n_members in sorted(options.members):
            facts["elements_checked"] += bench.check(n_members)
            for cache in ("warm",) if options.skip_cold else ("warm", "cold"):
                facts["results"] += bench.rows(n_members, cache)
        facts["cold"] = bench.dropped
        facts["start"] = bench.start()
        if options.big:
            facts["big"] = bench.big()
    text = report.markdown(facts)
    print(text)
    if options.results:
        options.results.mkdir(exist_ok=True)
        (options.results / "checkpoints.md").write_text(text)
        (options.results / "checkpoints.json").write_text(json.dumps(facts, indent=1))


def parse() -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--parameters", type=float, default=0.6e9, help="of each member")
    add("--members", type=int, nargs="+", default=[2, 3, 8])
    add("--rounds", type=int, default=5)
    add("--peer", metavar="PYTHON", help="interpreter that has mergekit")
    add("--folder", type=Path, help="where checkpoints are made, on a disk")
    add("--skip-cold", action="store_true", help="page cache warm only")
    add("--big", action="store_true", help="also one tensor of 4 GiB, needs 12 GiB")
    add("--results", type=Path, help="folder to keep results in")
    return parser.parse_args()


class Bench:
    """Members on a disk, and the costs of all ways to average them."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.out = folder / "out"
        self.options = options
        self.dropped: str | None = None
        self.shapes = llama.layout_of_size(options.parameters)
        self.n_bytes = 2 * llama.n_parameters(self.shapes)
        self.folder = folder
        self.made: list[Path] = []
        self.small = [
            self._make(folder / f"small-{index}", SMALL, index, 1) for index in range(2)
        ]

    @staticmethod
    def _make(folder: Path, shapes: llama.Layout, index: int, n_shards: int) -> Path:
        say(f"making {folder.name}")
        return llama.make(folder, shapes, member=index, n_shards=n_shards)

    def members(self, n_members: int) -> list[Path]:
        """Paths of members; more than needed would crowd the page cache."""
        for index in range(len(self.made), n_members):
            folder = self.folder / f"member-{index}"
            self.made.append(self._make(folder, self.shapes, index, 3))
        return self.made[:n_members]

    def check(self, n_members: int) -> int:
        """Number of verified elements of the result; also fills numba's cache."""
        members = self.members(n_members)
        self.cost("ensemble mean", members)
        n_checked = llama.check(self.out, members)
        for way in ("ensemble median", "ensemble slerp"):
            self.cost(way, self.small)
        return n_checked

    def cost(self, way: str, members: Sequence[Path]) -> Cost:
        """Cost of a way; its output is at ``self.out`` until the next one."""
        shutil.rmtree(self.out, ignore_errors=True)
        measuring.settle(self.out.with_name("scratch"), self.n_bytes)
        return measuring.run(self.command(way, members))

    def command(self, way: str, members: Sequence[Path]) -> list[str]:
        """Command line of a way, which writes to ``self.out``."""
        return ways.command(way, self.out, members, self.options.peer)

    def small_members(self, n_members: int) -> list[Path]:
        """Members of 1 MB, whose cost is start-up."""
        return self.small

    def ways_for(self, n_members: int, cache: str) -> Iterator[str]:
        """Ways to measure with a number of members."""
        if cache == "cold":
            yield from COLD
            return
        yield from MEAN
        yield from EXTRA.get(n_members, ())
        if self.options.peer:
            yield from PEER.get(n_members, ("mergekit linear",))

    def rows(self, n_members: int, cache: str) -> list[dict[str, Any]]:
        """Measure all ways in turns."""
        whole: dict[tuple[int, str], list[Cost]] = defaultdict(list)
        start: dict[tuple[int, str], list[Cost]] = defaultdict(list)
        members = self.members(n_members)
        for index in range(self.options.rounds):
            for way in self.ways_for(n_members, cache):
                say(f"{cache} round {index + 1}: {n_members} members, {way}")
                if not self.prepare(cache, members):
                    return []
                whole[n_members, way].append(self.cost(way, members))
                few = self.small_members(n_members)
                start[n_members, way].append(self.cost(way, few))
        return [report.row(cache, *key, whole, start) for key in sorted(whole, key=str)]

    def prepare(self, cache: str, members: Sequence[Path]) -> bool:
        """Warm or drop the page cache; returns whether this was possible."""
        if cache == "warm":
            measuring.warm(files(members))
            return True
        self.dropped = measuring.drop(files(members))
        return self.dropped is not None

    def start(self) -> dict[str, Any]:
        """Seconds of ``ensemble --help``, and of averaging two files of 1 MB."""
        single = [next(iter(files([member]))) for member in self.small]
        out = self.out.with_suffix(".safetensors")
        helping = [sys.executable, "-m", "ensembles_cli", "--help"]
        averaging = ways.command("ensemble mean", out, single, None)
        return {
            name: measuring.spread([measuring.run(line).wall for _ in range(10)])
            for name, line in (("help", helping), ("two_small_files", averaging))
        }

    def big(self) -> dict[str, Any]:
        """Peak memory for two members of one tensor of 4 GiB."""
        shutil.rmtree(self.out, ignore_errors=True)
        shapes: llama.Layout = {"model.embed_tokens.weight": (BIG // 2 // 1024, 1024)}
        folders = [self.out.with_name(f"big-{index}") for index in range(2)]
        for index, folder in enumerate(folders):
            folder.mkdir()
            llama.write_one(folder / "model.safetensors", shapes, member=index)
        files_of_one = [folder / "model.safetensors" for folder in folders]
        out = self.out.with_suffix(".safetensors")
        cost = measuring.run(ways.command("ensemble mean", out, files_of_one, None))
        return {"bytes_per_member": BIG, **cost._asdict()}


def files(members: Sequence[Path]) -> Iterator[Path]:
    """Files of weights."""
    for member in members:
        yield from sorted(member.glob("*.safetensors"))


def say(words: str) -> None:
    """Print progress to stderr."""
    print(f"{time.strftime('%H:%M:%S')} {words}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
