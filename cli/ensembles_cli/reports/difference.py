"""Output of ``ensemble diff``: changes of tensors and modules, and of all tensors."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from ensembles_cli.console import CONTROLS, table
from ensembles_cli.reports.average import counted, print_notes

if TYPE_CHECKING:
    from ensembles.checkpoints import Difference, ModuleDifference, TensorDifference

SHOWN = 5


def print_difference(
    found: Difference, depth: int | None, all_tensors: bool, as_json: bool
) -> None:
    """Print the differences between two checkpoints, the largest change first."""
    if as_json:
        click.echo(json.dumps(_described(found, depth), indent=2))
        return
    print_notes(found.notes)
    if all_tensors:
        _print_tensors(found)
    else:
        _print_modules(found.modules(depth))
    _print_summary(found)


def _print_tensors(found: Difference) -> None:
    changed = [tensor for tensor in found.tensors if not tensor.is_identical]
    changed.sort(key=lambda tensor: -tensor.relative)
    if changed:
        header = ["tensor", "relative change", "cosine", "largest change"]
        table(header, [[t.name, *_numbers(t)] for t in changed])


def _print_modules(modules: Sequence[ModuleDifference]) -> None:
    changed = [m for m in modules if m.n_identical < m.n_tensors]
    if changed:
        header = ["module", "changed", "relative change", "cosine", "largest change"]
        table([*header, "in tensor"], list(map(_row, changed)))
    n_same = len(modules) - len(changed)
    if n_same:
        click.echo(f"{counted(n_same, 'module')} with identical tensors only")


def _row(module: ModuleDifference) -> list[str]:
    changed = f"{module.n_tensors - module.n_identical} of {module.n_tensors}"
    inside = module.largest_tensor.removeprefix(f"{module.name}.")
    return [module.name, changed, *_numbers(module), inside]


def _numbers(entry: ModuleDifference | TensorDifference) -> list[str]:
    cosine = "" if math.isnan(entry.cosine) else f"{entry.cosine:.9f}"
    return [f"{entry.relative:.3g}", cosine, f"{entry.largest:.3g}"]


def _print_summary(found: Difference) -> None:
    """Print totals, then tensors that cannot be compared."""
    whole = found.whole
    relative, cosine, largest = _numbers(whole)
    if found.is_identical:
        click.echo(f"identical: {counted(whole.n_tensors, 'tensor')}, byte for byte")
    elif not found.tensors:
        click.echo("no tensor compared: no name and shape is in both")
    else:
        text = (
            f"{counted(whole.n_tensors, 'tensor')} compared, {whole.n_identical} "
            f"identical: relative change {relative}, cosine {cosine or 'undefined'}, "
            f"largest change {largest} in {whole.largest_tensor}"
        )
        click.echo(_safe(text))
    for name, only in ((found.a, found.only_a), (found.b, found.only_b)):
        _print_list(f"only in {name}", only)
    _print_list(
        "shapes differ, not compared",
        [f"{name} {a} {b}" for name, (a, b) in found.shapes.items()],
    )
    _print_list(
        "dtypes differ", [f"{name} {a} {b}" for name, (a, b) in found.dtypes.items()]
    )
    _print_list(
        "NaN or infinity, left out",
        [f"{t.name} ({t.n_nonfinite})" for t in found.tensors if t.n_nonfinite],
    )


def _print_list(what: str, names: list[str]) -> None:
    if names:
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        shown = ", ".join(names[:SHOWN]) + more
        click.echo(_safe(f"{what}: {counted(len(names), 'tensor')}: {shown}"))


def _described(found: Difference, depth: int | None) -> dict[str, Any]:
    """Return the differences as JSON values; a number that is not finite is null."""
    whole = _numbers_of(found.whole._asdict())
    del whole["name"]
    return {
        "a": found.a,
        "b": found.b,
        "identical": found.is_identical,
        **whole,
        "modules": [_numbers_of(m._asdict()) for m in found.modules(depth)],
        "tensors": [
            _numbers_of(
                {
                    "name": tensor.name,
                    "size": tensor.size,
                    "identical": tensor.is_identical,
                    "relative": tensor.relative,
                    "cosine": tensor.cosine,
                    "largest": tensor.largest,
                    "n_nonfinite": tensor.n_nonfinite,
                }
            )
            for tensor in sorted(found.tensors, key=lambda tensor: -tensor.relative)
        ],
        "only_a": found.only_a,
        "only_b": found.only_b,
        "shapes": {name: list(map(list, pair)) for name, pair in found.shapes.items()},
        "dtypes": {name: list(pair) for name, pair in found.dtypes.items()},
        "notes": [*found.notes],
    }


def _numbers_of(facts: dict[str, Any]) -> dict[str, Any]:
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in facts.items()
    }


def _safe(text: str) -> str:
    """Text with the characters escaped that control a terminal."""
    return text.translate(CONTROLS)
