"""What does averaging along a training run bring, against decaying the learning rate?

A small GPT is trained on the characters of tinyshakespeare and of WikiText-2, with five
seeds and equal numbers of tokens: with a constant rate, whose snapshots are averaged;
with branches that decay the rate over the last fifth (WSD); and with a cosine decay
over the whole run. The window, half-life or width of an average is chosen for each seed
on one part of the held-out text and reported on the other.
"""  # noqa: D400  # a question

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from datetime import date
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import measuring
import run_averages
import run_checks
import run_picture
import run_report
import run_training
import torch
from run_averages import Average
from run_training import Run, Settings, Windows

from ensembles_cli.demo.nanogpt import next_token_loss

N_SEEDS = 5
N_POINTS = 10  # of each long run that are evaluated
RATES = (2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2)  # peaks
DEVELOPMENT_SEED = 100


class Unit(NamedTuple):
    """All runs of one text and one seed."""

    kept: Path
    settings: Settings
    text: str
    seed: int

    @property
    def folder(self) -> Path:
        """Folder of the recorded runs."""
        return self.kept / self.text / f"seed-{self.seed}"

    @property
    def losses(self) -> Path:
        """File of the recorded losses."""
        return self.folder / "losses.json"


def main() -> None:
    """Train the runs, evaluate their averages, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kept", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--results", type=Path, help="folder for runs.md, .json, .svg")
    parser.add_argument("--jobs", type=int, default=2, help="processes, a thread each")
    parser.add_argument("--seeds", type=int, default=N_SEEDS)
    parser.add_argument("--steps", type=int, default=1600, help="multiple of 40")
    parser.add_argument("--rate", type=float, default=8e-3, help="peak learning rate")
    parser.add_argument("--report-only", action="store_true", help="train nothing")
    parser.add_argument("--development", action="store_true", help="compare rates")
    args = parser.parse_args()
    settings = Settings(args.steps, args.rate)
    if args.development:
        compare_rates(args.kept, settings.n_steps, args.jobs)
        return
    keep_settings(args.kept, settings)
    units = [
        Unit(args.kept, settings, text, seed)
        for text in run_training.TEXTS
        for seed in range(args.seeds)
    ]
    checks = run_checks.check()
    if not args.report_only:
        in_processes(complete, units, args.jobs)
    facts = collected(units, checks)
    print(run_report.markdown(facts))
    if args.results:
        write(args.results, facts)


def in_processes(function: Any, units: Iterable[Any], n_jobs: int) -> list[Any]:
    """Results of a function in processes of one thread each."""
    with ProcessPoolExecutor(n_jobs, get_context("spawn")) as pool:
        futures = [pool.submit(function, unit) for unit in units]
        return [future.result() for future in as_completed(futures)]


def keep_settings(kept: Path, settings: Settings) -> None:
    """Record the settings of a folder, and refuse runs with other ones."""
    path = kept / "settings.json"
    kept.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.write_text(json.dumps(settings._asdict()) + "\n")
    recorded = json.loads(path.read_text())
    if recorded != settings._asdict():
        raise SystemExit(f"{kept} has runs with {recorded}; name another folder")


def complete(unit: Unit) -> None:
    """Train and evaluate the runs of a unit that are not recorded yet."""
    torch.set_num_threads(1)
    if unit.losses.exists():
        return
    windows = run_training.windows(unit.text)
    run_training.train_all(unit.folder, unit.settings, windows.training, unit.seed)
    started = time.process_time()
    losses = evaluate(unit, windows)
    elapsed = round(time.process_time() - started, 1)
    unit.losses.write_text(
        json.dumps({"cpu_seconds": elapsed, "losses": losses}) + "\n"
    )
    print(time.strftime("%T"), unit.folder, "evaluated", elapsed, "s", flush=True)


def evaluate(unit: Unit, windows: Windows) -> list[dict[str, Any]]:
    """Losses of all averages of a unit; the same average is computed once."""
    rows, evaluated = [], {}
    for run in run_training.runs(unit.settings):
        path = unit.folder / run.name
        for step, _ in run_training.snapshots(path, run.n_steps):
            for kind in averages_after(run, path, step, unit.settings):
                key = (*kind.members, *kind.weights)
                if key not in evaluated:
                    evaluated[key] = losses_of(kind, windows)
                row = {"run": run.name, "step": step, "family": kind.family}
                rows.append(row | {"parameter": kind.parameter} | evaluated[key])
    return rows


def averages_after(
    run: Run, path: Path, step: int, settings: Settings
) -> Iterable[Average]:
    """Averages of a run to evaluate after a step."""
    if not run.start and step in equal_lengths(run, settings):
        return run_averages.averages_at_the_end(path, step, settings)
    if not run.start and step % (settings.n_steps // N_POINTS) == 0:
        return run_averages.averages_on_the_way(path, step)
    if step % (2 * settings.every) == 0:
        return run_averages.averages_on_the_way(path, step)[:1]
    return []


def equal_lengths(run: Run, settings: Settings) -> list[int]:
    """Steps after which a run is compared with others of the same length."""
    n_steps = settings.n_steps
    return [n_steps] if run.shape else [n_steps // 2, n_steps]


def losses_of(kind: Average, windows: Windows) -> dict[str, float]:
    """Losses of an average on both parts of the held-out text."""
    model = run_training.load(run_averages.tensors(kind))
    with torch.no_grad():
        return {
            name: round(next_token_loss(model, getattr(windows, name)).item(), 6)
            for name in ("validation", "test")
        }


def collected(units: Sequence[Unit], checks: str) -> dict[str, Any]:
    """Facts for the report: the losses of all units that are complete, by text."""
    settings = units[0].settings
    complete = [unit for unit in units if unit.losses.exists()]
    texts = {}
    for text in dict.fromkeys(unit.text for unit in complete):
        parts = [unit for unit in complete if unit.text == text]
        losses = [json.loads(unit.losses.read_text()) for unit in parts]
        texts[text] = {
            "n_seeds": len(parts),
            "losses": joined([part["losses"] for part in losses]),
        }
    return {
        "date": str(date.today()),
        "command": measuring.command().replace(" --report-only", ""),
        "machine": measuring.machine(),
        "settings": settings._asdict(),
        "parameters": run_checks.n_parameters(),
        "cpu_minutes": sum(seconds(unit) for unit in complete) / 60,
        "checks": checks,
        "post_hoc_error": max(
            run_checks.post_hoc_error(unit.folder / "constant", settings)
            for unit in complete
        ),
        "texts": texts,
    }


def joined(parts: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Rows of all seeds as one row with lists of losses."""
    rows = []
    for same in zip(*parts, strict=True):
        row = {key: same[0][key] for key in ("run", "step", "family", "parameter")}
        assert all(row.items() <= other.items() for other in same)
        rows.append(
            row
            | {key: [other[key] for other in same] for key in ("validation", "test")}
        )
    return rows


def seconds(unit: Unit) -> float:
    """CPU seconds of training and evaluating a unit."""
    records = unit.folder.glob("*/finished.json")
    training = sum(json.loads(path.read_text())["cpu_seconds"] for path in records)
    return float(training + json.loads(unit.losses.read_text())["cpu_seconds"])


def write(folder: Path, facts: dict[str, Any]) -> None:
    """Save the table, its numbers and the picture."""
    (folder / "runs.md").write_text(run_report.markdown(facts))
    (folder / "runs.json").write_text(compact(facts))
    run_picture.draw(facts, folder / "runs.svg")


def compact(facts: dict[str, Any]) -> str:
    """JSON with a line for each average."""
    head = {key: value for key, value in facts.items() if key != "texts"}
    lines = [json.dumps(head, indent=1)[:-2] + ',\n "texts": {']
    texts = []
    for text, entry in facts["texts"].items():
        rows = ",\n   ".join(json.dumps(row) for row in entry["losses"])
        texts.append(
            f'  {json.dumps(text)}: {{"n_seeds": {entry["n_seeds"]}, "losses": [\n'
            f"   {rows}]}}"
        )
    return "\n".join([*lines, ",\n".join(texts)]) + "}}\n"


def compare_rates(kept: Path, n_steps: int, n_jobs: int) -> None:
    """Print losses of the cosine decay with several peak rates, for a seed not used."""
    units = [
        Unit(kept / f"rate-{rate}", Settings(n_steps, rate), text, DEVELOPMENT_SEED)
        for text in list(run_training.TEXTS)[:1]
        for rate in RATES
    ]
    for line in sorted(in_processes(rate_line, units, n_jobs)):
        print(line)


def rate_line(unit: Unit) -> str:
    """Validation losses at the end of the cosine decay of a unit."""
    torch.set_num_threads(1)
    windows = run_training.windows(unit.text)
    path, n_steps = unit.folder / "cosine", unit.settings.n_steps
    run_training.train_all(
        unit.folder, unit.settings, windows.training, unit.seed, ["cosine"]
    )
    last, *_ = run_averages.averages_on_the_way(path, n_steps)
    loss = losses_of(last, windows)["validation"]
    return f"{unit.text}, rate {unit.settings.rate}: {loss:.4f}"


if __name__ == "__main__":
    main()
