"""Output of ``ensemble inspect``: modules, other contents and totals."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from ensembles_cli.console import CONTROLS, size, table
from ensembles_cli.reports.average import counted, print_notes

if TYPE_CHECKING:
    from ensembles.checkpoints import Inspection, Module
    from ensembles.checkpoints.formats.checkpoint import TensorInfo
    from ensembles.checkpoints.inspection.contents import StateDictInfo

SHOWN = 8  # tied tensors and values that are listed
LONGEST = 100  # characters of a value of the metadata
# Treatment of a file by an average.
ROLES = {
    "weights": "averaged",
    "copied": "copied",
    "rewritten": "written anew",
    "other": "left out",
}
Row = list[str]


def print_inspection(
    found: Inspection, depth: int, all_tensors: bool, as_json: bool
) -> None:
    """Print the contents of a checkpoint."""
    if as_json:
        click.echo(json.dumps(_described(found, depth), indent=2))
        return
    tree = found.tree
    kind = " ".join(filter(None, [found.format, "directory" * found.is_directory]))
    chosen = f", state dict {found.state_dict}" if found.state_dict else ""
    click.echo(_safe(f"{found.name}: {kind or 'unknown format'}{chosen}"))
    if all_tensors:
        rows = [[t.name, *_tensor_cells(t)] for t in found.tensors]
    else:
        rows = list(_rows(tree, depth, 0))
    total = ["total", *_module_cells(tree)]
    header = ["tensor" if all_tensors else "module", "shape", "parameters"]
    table([*header, "dtype", "size"], [*rows, total])
    _print_others(found)
    print_notes(found.notes)
    for reason in found.refusals:
        click.echo(_safe(f"cannot be averaged: {reason}"))


def _described(found: Inspection, depth: int) -> dict[str, Any]:
    """Return the contents as JSON values."""
    tree = found.tree
    return {
        "name": found.name,
        "format": found.format,
        "is_directory": found.is_directory,
        "state_dict": found.state_dict,
        "n_tensors": tree.n_tensors,
        "n_parameters": tree.n_parameters,
        "bytes": tree.nbytes,
        "dtypes": dict(tree.dtypes),
        "modules": [_module(child, depth) for child in tree.children],
        "tensors": [_tensor(tensor) for tensor in found.tensors],
        "tied": found.aliases,
        "state_dicts": [entry._asdict() for entry in found.state_dicts],
        "values": found.values,
        "files": [file._asdict() for file in found.files],
        "metadata": _metadata(found),
        "provenance": found.recipe,
        "averageable": not found.refusals,
        "refusals": [*found.refusals],
        "notes": [*found.notes],
    }


def _module(module: Module, depth: int) -> dict[str, Any]:
    children = [_module(child, depth - 1) for child in module.children]
    return {
        "name": module.name,
        "n_modules": module.n_modules,
        "n_tensors": module.n_tensors,
        "n_parameters": module.n_parameters,
        "bytes": module.nbytes,
        "dtypes": dict(module.dtypes),
        **({"modules": children} if depth > 1 and children else {}),
    }


def _tensor(tensor: TensorInfo) -> dict[str, Any]:
    facts = tensor._asdict()
    return {**facts, "shape": list(tensor.shape), "n_parameters": tensor.size}


def _rows(module: Module, depth: int, level: int) -> Iterator[Row]:
    """Rows of the tensors and modules inside a module, down to a depth."""
    indent = "  " * level
    for tensor in module.tensors:
        yield [indent + tensor.name, *_tensor_cells(tensor)]
    for child in module.children:
        name = indent + child.name
        if len(child.tensors) == 1 and not child.children and child.n_modules == 1:
            (only,) = child.tensors
            yield [f"{name}.{only.name}", *_tensor_cells(only)]
            continue
        yield [name, *_module_cells(child)]
        if level + 1 < depth:
            yield from _rows(child, depth, level + 1)


def _module_cells(module: Module) -> Row:
    """Cells of a module; those of one of several, with their number before them."""
    n_modules = module.n_modules
    times = f"{n_modules} x " if n_modules > 1 else ""
    dtypes = ", ".join(dtype for dtype, _ in module.dtypes.most_common())
    return [
        times + counted(module.n_tensors // n_modules, "tensor"),
        times + count(module.n_parameters // n_modules),
        dtypes,
        times + size(module.nbytes // n_modules),
    ]


def _tensor_cells(tensor: TensorInfo) -> Row:
    shape = str(list(tensor.shape)) if tensor.shape else "scalar"
    return [shape, count(tensor.size), tensor.dtype, size(tensor.nbytes)]


def count(number: int) -> str:
    """Format a number of parameters.

    Examples
    --------
    >>> count(70_553_706_496), count(1_234_567), count(999)
    ('70.6 B', '1.23 M', '999')
    """
    value, units = float(number), ["", "k", "M", "B", "T"]
    while value >= 1000 and len(units) > 1:
        value /= 1000
        units.pop(0)
    return f"{number}" if not units[0] else f"{value:.3g} {units[0]}"


def _print_others(found: Inspection) -> None:
    """Print everything besides the tensors."""
    for line in _listed([f"tied: {a} = {n}" for a, n in found.aliases.items()]):
        click.echo(_safe(line))
    if found.state_dicts:
        table(
            ["other state dict", "tensors", "parameters", "size"],
            [
                [
                    key or "(top level)",
                    str(sum(entry.n_tensors for entry in entries)),
                    count(sum(entry.n_parameters for entry in entries)),
                    size(sum(entry.nbytes for entry in entries)),
                ]
                for key, entries in _by_pattern(found.state_dicts).items()
            ],
        )
    for line in _listed([f"{key}: {value}" for key, value in found.values.items()]):
        click.echo(_safe(line))
    if found.files:
        table(
            ["file", "size", "in an average"],
            [
                [
                    file.name,
                    "" if file.nbytes is None else size(file.nbytes),
                    ROLES[file.role],
                ]
                for file in found.files
            ],
        )
    if found.recipe is not None:
        click.echo(_safe(_written_by(found.recipe)))
    for key, value in _metadata(found).items():
        click.echo(_safe(f"metadata {key}: {value}"[:LONGEST]))


def _by_pattern(entries: Iterable[StateDictInfo]) -> dict[str, list[StateDictInfo]]:
    """State dicts whose keys differ only in numbers, such as ``optimizer.state.*``."""
    groups: dict[str, list[StateDictInfo]] = {}
    for entry in entries:
        pattern = re.sub(r"(?<![^.])\d+(?![^.])", "*", entry.key)
        groups.setdefault(pattern, []).append(entry)
    return groups


def _written_by(recipe: Mapping[str, Any]) -> str:
    """Version, rule, members and weights, of a conversion those of its source."""
    version = f"ensembles {recipe.get('version')}"
    average = recipe.get("conversion", recipe)
    members = average.get("members") if isinstance(average, dict) else None
    if not isinstance(members, list):
        return f"converted by {version}"
    verb = "converted" if "conversion" in recipe else "written"
    return (
        f"{verb} by {version}: {average.get('rule')} of "
        f"{counted(len(members), 'member')}, weights {average.get('weights')}"
    )


def _metadata(found: Inspection) -> dict[str, str]:
    """Metadata without provenance and names of tied tensors."""
    return {
        key: value
        for key, value in found.metadata.items()
        if key.partition(".")[0] != "ensembles" and key not in found.aliases
    }


def _listed(lines: list[str]) -> list[str]:
    more = len(lines) - SHOWN
    return lines[:SHOWN] + [f"and {more} more"] * (more > 0)


def _safe(text: str) -> str:
    """Text with the characters escaped that control a terminal."""
    return text.translate(CONTROLS)
