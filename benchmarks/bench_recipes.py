"""How much time and memory does a recipe of mergekit take, here and in mergekit?

Members are the checkpoints of `bench_merging`: Llama-shaped, in bfloat16, three shards
each. The same YAML file is carried out by `ensemble merge` and by mergekit, as
commands of their own that are measured from start to end and take turns. Ratios are of
whole commands, start-up included.

Before anything is measured, results of `ensemble merge` are compared with the formulas
of the methods in float64: all tensors of small members, and some of the large ones.
"""  # noqa: D400  # a question

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import llama
import measuring
import numpy as np
import ways
from bench_checkpoints import SMALL, files, say
from bench_merging import LARGEST_CHECKED, N_CHECKED, check_results
from measuring import Cost
from recipe_workloads import WORKLOADS, recipe, tokens, write_tokenizer
from report import MIB, seconds

QUICK = {"parameters": 0.05e9, "rounds": 1}
FLOOR = "floor + fsync"  # of `ways`: reads all inputs, writes the bytes of one
TOOLS = (FLOOR, "ensemble", "mergekit")
AIM_CPU, AIM_MIB = 0.1, 200  # share of mergekit's CPU time; anonymous memory
VOCABULARIES = ("model.embed_tokens.weight", "lm_head.weight")


def main() -> None:
    """Check, measure, print and save the results."""
    options = parse()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        bench = RecipeBench(Path(folder), options)
        facts = bench.facts()
        for name in options.only:
            facts["elements_checked"] += bench.check(name)
            facts["results"] += bench.rows(name)
    text = markdown(facts)
    print(text)
    if options.results:
        options.results.mkdir(exist_ok=True)
        (options.results / "recipes.md").write_text(text)
        (options.results / "recipes.json").write_text(json.dumps(facts, indent=1))


def parse() -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--parameters", type=float, default=0.6e9, help="of each member")
    add("--rounds", type=int, default=5)
    add("--peer", metavar="PYTHON", help="interpreter that has mergekit")
    add("--folder", type=Path, help="where checkpoints are made, on a disk")
    add("--only", nargs="+", choices=WORKLOADS, default=[*WORKLOADS], metavar="RECIPE")
    add("--quick", action="store_true", help="small members, one round")
    add("--results", type=Path, help="folder to keep results in")
    options = parser.parse_args()
    if options.quick:
        vars(options).update(QUICK)
    return options


class RecipeBench:
    """Members on a disk, and the costs of recipes with them."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.folder = folder
        self.out = folder / "out"
        self.options = options
        self.shapes = llama.layout_of_size(options.parameters)

    def facts(self) -> dict[str, Any]:
        """What the results depend on."""
        machine = measuring.machine()
        if self.options.peer:
            machine["mergekit"] = measuring.version_in(self.options.peer, "mergekit")
        return {
            "date": date.today().isoformat(),
            "command": measuring.command(),
            "machine": machine,
            "parameters": llama.n_parameters(self.shapes),
            "bytes_per_member": 2 * llama.n_parameters(self.shapes),
            "rounds": self.options.rounds,
            "elements_checked": 0,
            "results": [],
        }

    def members(self, name: str, shapes: llama.Layout) -> dict[int, Path]:
        """Members of a recipe by their number; 0 is the base."""
        workload = WORKLOADS[name]
        size = "small" if shapes is SMALL else "large"
        paths = {}
        for number in workload.members:
            path = self.folder / f"{size}-{number}"
            if workload.has_vocabularies:
                path = path.with_name(f"{path.name}-tokens")
            if not path.exists():
                say(f"making {path.name}")
                member = number - 1 if number else None
                n_shards = 1 if shapes is SMALL else 3
                llama.make(path, shapes, member=member, n_shards=n_shards)
                if workload.has_vocabularies:
                    n_tokens = shapes["lm_head.weight"][0]
                    write_tokenizer(path, tokens(number, n_tokens))
            paths[number] = path
        return paths

    def write_recipe(self, name: str, shapes: llama.Layout) -> tuple[Path, list[Path]]:
        """Path of the YAML file, and its members."""
        members = self.members(name, shapes)
        paths = [members.get(number, Path()) for number in range(4)]
        path = self.folder / "recipe.yml"
        path.write_text(recipe(WORKLOADS[name], paths, n_layers_of(shapes)))
        return path, [*members.values()]

    def command(self, tool: str, path: Path) -> list[str]:
        """Command line that carries out a recipe."""
        if tool == "ensemble":
            run = [sys.executable, "-m", "ensembles_cli", "merge", str(path)]
            return [*run, "-o", str(self.out), "--force"]
        has_stages = "\n---\n" in path.read_text()
        script = "multimerge" if has_stages else "run_yaml"
        run = [self.options.peer, "-m", f"mergekit.scripts.{script}", str(path)]
        stages = str(self.folder / "stages")
        run += ["--out-path", str(self.out), "-I", stages] if has_stages else []
        run += [] if has_stages else [str(self.out)]
        return run + ["--no-copy-tokenizer"] * ("tokenizer" not in path.read_text())

    def cost(self, tool: str, path: Path, members: Sequence[Path] = ()) -> Cost:
        """Cost of a recipe; its output is at ``self.out`` until the next one."""
        for folder in (self.out, self.folder / "stages"):
            shutil.rmtree(folder, ignore_errors=True)
        n_bytes = 2 * llama.n_parameters(self.shapes)
        measuring.settle(self.out.with_name("scratch"), n_bytes)
        if tool == FLOOR:
            return measuring.run(ways.command(FLOOR, self.out, members, None))
        return measuring.run(self.command(tool, path))

    def check(self, name: str) -> int:
        """Number of elements that were found right; also fills numba's cache."""
        say(f"checking {name}")
        n_checked = 0
        for shapes in (SMALL, self.shapes):
            path, _ = self.write_recipe(name, shapes)
            self.cost("ensemble", path)
            for tensor, out in checked_tensors(self.out, shapes):
                exact = self.formula(name, tensor, shapes)
                check_results(f"{name}, {tensor}", out, [exact])
                n_checked += out.size
        return n_checked

    def formula(self, name: str, tensor: str, shapes: llama.Layout) -> llama.Array:
        """Tensor of the result in float64."""
        workload, members = WORKLOADS[name], self.members(name, shapes)

        def read(number: int, tensor: str) -> llama.Array:
            flat = llama.tensor_of(members[number], tensor).astype(np.float64)
            array = flat.reshape(shapes[tensor])
            if not workload.has_vocabularies or tensor not in VOCABULARIES:
                return array
            other = llama.tensor_of(members[3 - number], tensor).astype(np.float64)
            return self.rows_of_result(number, array, other.reshape(array.shape))

        return workload.formula(tensor, read, n_layers_of(shapes))

    def rows_of_result(
        self, number: int, array: llama.Array, other: llama.Array
    ) -> llama.Array:
        """Rows of a member by the tokens of the result; the other has what it lacks."""
        mine, theirs = tokens(number, len(array)), tokens(3 - number, len(array))
        vocabulary = vocabulary_of(self.out)
        rows = np.empty((len(vocabulary), array.shape[1]))
        for token, index in vocabulary.items():
            rows[index] = array[mine[token]] if token in mine else other[theirs[token]]
        return rows

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Measure both tools in turns."""
        path, members = self.write_recipe(name, self.shapes)
        costs: dict[str, list[Cost]] = defaultdict(list)
        for index in range(self.options.rounds):
            for tool in TOOLS if self.options.peer else TOOLS[:2]:
                say(f"round {index + 1}: {name}, {tool}")
                measuring.warm(files(members))
                costs[tool].append(self.cost(tool, path, members))
        make = partial(_row, name, len(members))
        return [make(tool, of_tool, costs) for tool, of_tool in costs.items()]


def _row(
    name: str,
    n_members: int,
    tool: str,
    of_tool: Sequence[Cost],
    costs: Mapping[str, Sequence[Cost]],
) -> dict[str, Any]:
    row: dict[str, Any] = {"recipe": name, "inputs": n_members, "tool": tool}
    for kind in ("wall", "cpu"):
        row[kind] = measuring.spread([getattr(cost, kind) for cost in of_tool])
    row["anonymous_mib"] = max(cost.anonymous for cost in of_tool) / MIB
    if tool != "mergekit" and "mergekit" in costs:
        pairs = zip(of_tool, costs["mergekit"], strict=True)
        row["share of cpu"] = measuring.spread([a.cpu / b.cpu for a, b in pairs])
    return row


def n_layers_of(shapes: llama.Layout) -> int:
    """Number of layers of a layout."""
    return sum(name.endswith("q_proj.weight") for name in shapes)


def checked_tensors(
    out: Path, shapes: llama.Layout
) -> Iterator[tuple[str, llama.Array]]:
    """Tensors of a result: all of small members, else some."""
    names = [name for name, shape in shapes.items() if np.prod(shape) < LARGEST_CHECKED]
    if shapes is not SMALL:
        names = names[:: max(len(names) // N_CHECKED, 1)][:N_CHECKED]
    for name in names:
        yield name, llama.tensor_of(out, name)


def vocabulary_of(folder: Path) -> dict[str, int]:
    """Tokens of a tokenizer and their numbers."""
    from tokenizers import Tokenizer

    path = str(folder / "tokenizer.json")
    return dict(Tokenizer.from_file(path).get_vocab(with_added_tokens=True))


def markdown(facts: Mapping[str, Any]) -> str:
    """Results as Markdown."""
    machine = ", ".join(f"{name} {value}" for name, value in facts["machine"].items())
    lines = [
        f"# Recipes, {facts['date']}",
        "",
        f"`{facts['command']}`",
        "",
        f"{facts['parameters']:,} parameters in bfloat16, "
        f"{facts['bytes_per_member']:,} bytes per checkpoint in three shards. "
        f"{facts['rounds']} rounds, page cache warm. {facts['elements_checked']:,} "
        "elements were compared with float64 results, rounded once.",
        "",
        f"{machine}.",
        "",
        "Medians (minimum to maximum) of whole commands. The aims are "
        f"{AIM_CPU:g} of mergekit's CPU time and {AIM_MIB} MiB of anonymous memory; "
        "`ensemble` waits until its result is on the disk, mergekit does not. "
        "The floor reads all inputs once and writes as many bytes as a member has: "
        "where its share of the CPU time is near the aim, no tool can meet it.",
        "",
        "| recipe | inputs | tool | wall s | CPU s | MiB | CPU / mergekit | aims met |",
        "|---|--:|---|--:|--:|--:|--:|---|",
    ]
    for row in facts["results"]:
        share = row.get("share of cpu")
        cells = [row["recipe"], str(row["inputs"]), row["tool"]]
        cells += [seconds(row["wall"]), seconds(row["cpu"])]
        cells += [f"{row['anonymous_mib']:.0f}", seconds(share)]
        is_met = row["anonymous_mib"] <= AIM_MIB
        is_met &= share is None or share["median"] <= AIM_CPU
        is_rated = share and row["tool"] == "ensemble"
        cells.append({True: "yes", False: "no"}[is_met] if is_rated else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
