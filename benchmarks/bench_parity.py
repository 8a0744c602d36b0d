"""Do recipes give the tensors that mergekit gives, and which of the two is exact?

Recipes in the shapes of mergekit's examples are carried out unchanged by `ensemble
merge` and by mergekit, on small random models. Tensors of both are compared with the
formula of the method in float64, in units of the last place. Errors of
mergekit are larger than half a unit because it computes in float32; what is beyond some
thousand units is another result.
"""  # noqa: D400  # a question

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import measuring
import numpy as np
from bench_checkpoints import HERE, say
from recipe_examples import EXAMPLES
from recipe_methods import METHODS
from recipe_models import Example, make_members, tensors_of, unit
from recipe_oracles import Array

ALL = EXAMPLES | METHODS

OURS, THEIRS = "ensemble", "mergekit"


def main() -> None:
    """Carry out the recipes, compare, print and save the results."""
    options = parse()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folders = {key: Path(name) / f"{n}" for n, key in enumerate(options.only)}
        for key, folder in folders.items():
            say(f"ensemble merge, {key}")
            prepare(folder, ALL[key])
        if options.peer:
            say(f"mergekit, {len(folders)} recipes")
            paths = map(str, folders.values())
            command = [options.peer, str(HERE / "recipe_peer.py"), *paths]
            offline = os.environ | {"HF_HUB_OFFLINE": "1"}
            subprocess.run(command, check=True, stdout=sys.stderr, env=offline)
        rows = [compare(key, folder) for key, folder in folders.items()]
    facts: dict[str, Any] = {
        "date": date.today().isoformat(),
        "command": measuring.command(),
        "machine": measuring.machine(),
        "results": rows,
    }
    if options.peer:
        facts["machine"]["mergekit"] = measuring.version_in(options.peer, "mergekit")
    text = markdown(facts)
    print(text)
    if options.results:
        options.results.mkdir(exist_ok=True)
        (options.results / "parity.md").write_text(text)
        (options.results / "parity.json").write_text(json.dumps(facts, indent=1))


def parse() -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--peer", metavar="PYTHON", help="interpreter that has mergekit")
    add("--folder", type=Path, help="where models are made")
    add("--only", nargs="+", choices=ALL, default=[*ALL], metavar="EXAMPLE")
    add("--results", type=Path, help="folder to keep results in")
    return parser.parse_args()


def prepare(folder: Path, example: Example) -> None:
    """Make the members and the recipe, and carry it out by ``ensemble merge``."""
    folder.mkdir()
    make_members(folder, example)
    (folder / "recipe.yml").write_text(example.recipe)
    command = [sys.executable, "-m", "ensembles_cli", "merge", "recipe.yml", "-o", OURS]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        (folder / f"{OURS}.txt").write_text(done.stderr)


def compare(key: str, folder: Path) -> dict[str, Any]:
    """Errors of both results, and the layout of ours."""
    example = ALL[key]
    members = {path: tensors_of(folder / path) for path in example.members}
    row: dict[str, Any] = {"example": key, "architecture": example.kind[1]}
    results: dict[str, dict[str, Array]] = {}
    for tool in (OURS, THEIRS):
        failure = folder / f"{tool}.txt"
        if failure.exists():
            row[tool] = {"error": failure.read_text().strip().splitlines()[-1]}
        elif (folder / tool).exists():
            results[tool] = tensors_of(folder / tool)
            row[tool] = errors(results, tool, example, members)
    if len(results) == 2:
        names = results[OURS].keys() ^ results[THEIRS].keys()
        row["in one only"] = sorted(names)
    return row


def errors(
    results: Mapping[str, Mapping[str, Array]],
    tool: str,
    example: Example,
    members: Mapping[str, Mapping[str, Array]],
) -> dict[str, Any]:
    """Largest error in units of the last place, and the tensor that has it.

    Without a formula, the errors are differences from our result.
    """
    worst: dict[str, Any] = {"units": 0.0, "tensor": ""}
    for name, array in results[tool].items():
        exact = results.get(OURS, {}).get(name, array)
        if example.formula is not None and name in (results.get(OURS) or {name}):
            exact = example.formula(name, members)
        if exact.shape != array.shape:
            return {"units": np.inf, "tensor": f"{name} has {array.shape}"}
        units = float(np.abs(array - exact).max(initial=0) / unit(exact, example.dtype))
        if units > worst["units"]:
            worst = {"units": units, "tensor": name}
    return worst


def markdown(facts: Mapping[str, Any]) -> str:
    """Results as Markdown."""
    machine = ", ".join(f"{name} {value}" for name, value in facts["machine"].items())
    lines = [
        f"# Recipes here and in mergekit, {facts['date']}",
        "",
        f"`{facts['command']}`",
        "",
        f"{machine}.",
        "",
        "Largest error of an entry, in units of the last place of the largest entry of "
        "its tensor. 0.5 is the error of rounding once. For single methods, errors of "
        "mergekit are its differences from `ensemble merge`.",
        "",
        "| recipe | architecture | ensemble | mergekit | mergekit's worst tensor "
        "| tensors in one only |",
        "|---|---|--:|--:|---|---|",
    ]
    for row in facts["results"]:
        cells = [row["example"], row["architecture"]]
        cells += [shown(row.get(OURS)), shown(row.get(THEIRS))]
        cells += [row.get(THEIRS, {}).get("tensor", "")]
        lines.append(
            f"| {' | '.join(cells)} | {', '.join(row.get('in one only', []))} |"
        )
    return "\n".join(lines) + "\n"


def shown(result: Mapping[str, Any] | None) -> str:
    """Error of a result, or why there is none."""
    if result is None:
        return ""
    return result.get("error") or f"{result['units']:.2f}"


if __name__ == "__main__":
    main()
