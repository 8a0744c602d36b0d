"""How do our ensemblers rank in TabArena's own simulation of ensembles?

The recorded members of `bench_tabular` become a repository of TabArena. Its simulation
fits each ensembler on the out-of-fold predictions and scores it on the test rows. Run
it in an environment that has the packages `tabarena` and this one.

On each split, our greedy selection must reach the validation error of TabArena's.
"""  # noqa: D400  # a question

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import measuring
import numpy as np
import tabular_members
from bencheval.evaluator import BenchmarkEvaluator
from recording import Recording
from sklearn.metrics import log_loss
from tabarena.predictions import TabularPredictionsInMemory
from tabarena.repository import EvaluationRepository
from tabarena.simulation import ensemble as tabarena_ensemble
from tabarena.simulation.ground_truth import GroundTruth
from tabarena.simulation.simulation_context import ZeroshotSimulatorContext
from tabarena_ensemblers import PoolEnsembler, SelectionEnsembler

N_ROUNDS = 50
AUTOGLUON_ROUNDING = 2e-6  # of scores, when the best round is chosen
GREEDY, OUR_GREEDY = "TabArena, greedy", "ours, greedy"
ENSEMBLERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "TabArena, single best": (tabarena_ensemble.SingleBestEnsembler, {}),
    GREEDY: (tabarena_ensemble.GreedyEnsembler, {"ensemble_size": N_ROUNDS}),
    "TabArena, hill climbing": (tabarena_ensemble.HillClimbingEnsembler, {}),
    "TabArena, stacking": (tabarena_ensemble.StackingEnsembler, {}),
    OUR_GREEDY: (SelectionEnsembler, {"n_rounds": N_ROUNDS}),
    "ours, default pool": (PoolEnsembler, {}),
    "ours, free weights": (PoolEnsembler, {"weights": "free"}),
}


def main() -> None:
    """Build the repository, run its simulation, and print the leaderboard."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--kept", type=Path, required=True, help="folder of recorded predictions")
    add("--only", nargs="*", default=[], help="names of the sets; all by default")
    add("--results", type=Path, help="folder to keep results in")
    options = parser.parse_args()
    started = time.time()
    records = read(options.kept, options.only)
    repository = simulation(records)
    rows = []
    for dataset in repository.datasets():
        for fold in repository.dataset_to_folds(dataset):
            rows += evaluate(repository, dataset, fold)
        print(dataset, flush=True)
    text = markdown(rows, (time.time() - started) / 60)
    print(text)
    if options.results:
        (options.results / "tabarena.md").write_text(text)


def read(kept: Path, only: Sequence[str]) -> dict[str, list[Recording]]:
    """Recorded members by the name of the set."""
    records: dict[str, list[Recording]] = {}
    for path in sorted(kept.glob("*.npz")):
        name = path.stem.rpartition(".")[0]
        if not only or name in only:
            records.setdefault(name, []).append(tabular_members.read(path))
    return records


def simulation(records: dict[str, list[Recording]]) -> EvaluationRepository:
    """Repository of TabArena with the recorded predictions."""
    import pandas as pd

    rows: list[dict[str, Any]] = []
    predictions: dict[str, Any] = {}
    labels: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    for tid, (name, splits) in enumerate(records.items()):
        predictions[name] = {}
        for part in labels:
            part[name] = {}
        for fold, split in enumerate(splits):
            held, test = split.held, split.full[:, split.n_train :]
            predictions[name][fold] = {
                f"pred_proba_dict_{part}": dict(zip(split.names, stack, strict=True))
                for part, stack in (("val", _stored(held)), ("test", _stored(test)))
            }
            labels[0][name][fold] = pd.Series(split.y_train)
            labels[1][name][fold] = pd.Series(split.y_test)
            rows += [
                {"dataset": name, "tid": tid, "fold": fold, **_model(split, member)}
                for member in range(len(split.names))
            ]
    metadata = {"dataset": list(records), "task_type": "Supervised Classification"}
    table = pd.DataFrame(rows)
    return EvaluationRepository(
        zeroshot_context=ZeroshotSimulatorContext(
            df_configs=table,
            df_metadata=pd.DataFrame(metadata),
            folds=sorted(set(table["fold"])),
        ),
        tabular_predictions=TabularPredictionsInMemory.from_dict(predictions),
        ground_truth=GroundTruth(*labels),
    )


def _stored(stack: Any) -> Any:
    """Probabilities as TabArena stores them: only the second class of two."""
    return stack[..., 1] if stack.shape[2] == 2 else stack


def _model(split: Recording, member: int) -> dict[str, Any]:
    """Row of a model in TabArena's table of results."""
    classes = np.arange(split.held.shape[2])
    test = split.full[member, split.n_train :]
    return {
        "framework": split.names[member],
        "problem_type": "binary" if len(classes) == 2 else "multiclass",
        "metric": "log_loss",
        "metric_error": log_loss(split.y_test, test, labels=classes),
        "metric_error_val": log_loss(split.y_train, split.held[member], labels=classes),
        "time_train_s": float(split.cpu[member]),
        "time_infer_s": 0.0,
    }


def evaluate(
    repository: EvaluationRepository, dataset: str, fold: int
) -> list[dict[str, Any]]:
    """Errors of all ensemblers on a task; the greedy ones must agree."""
    rows, validation = [], {}
    for name, (ensembler, params) in ENSEMBLERS.items():
        started = time.process_time()
        result, _ = repository.evaluate_ensemble(
            dataset,
            fold,
            ensemble_kwargs={
                "ensembler_cls": ensembler,
                "ensembler_kwargs": params,
                "use_fast_metrics": False,  # probabilities of all classes
            },
        )
        validation[name] = float(result["metric_error_val"].iloc[0])
        row = {"method": name, "task": dataset, "fold": fold}
        row["metric_error"] = float(result["metric_error"].iloc[0])
        row["cpu"] = time.process_time() - started
        rows.append(row)
    difference = abs(validation[GREEDY] - validation[OUR_GREEDY])
    if difference > AUTOGLUON_ROUNDING:
        raise AssertionError(
            f"validation errors of greedy selections differ by {difference:.3g} on "
            f"{dataset!r}, fold {fold}"
        )
    return rows


def markdown(rows: list[dict[str, Any]], minutes: float) -> str:
    """Leaderboard of bencheval as Markdown."""
    import pandas as pd

    table = pd.DataFrame(rows)
    evaluator = BenchmarkEvaluator(
        columns_to_agg_extra=["cpu"], groupby_columns=[], seed_column="fold"
    )
    board = evaluator.leaderboard(table, average_seeds=True, include_error=True)
    n_sets = table["task"].nunique()
    lines = [
        f"# TabArena's simulation of ensembles, {date.today().isoformat()}",
        "",
        f"`{measuring.command()}`, {minutes:.0f} minutes; tabarena "
        f"{version('tabarena')}, bencheval {version('bencheval')}.",
        "",
        f"{n_sets} sets, {len(table) // len(ENSEMBLERS)} splits, log-loss. On every "
        "split, our greedy selection reached the validation error of TabArena's. "
        "Improvability: mean percentage by which the best method of a set is better. "
        "CPU: seconds of an evaluation, with TabArena's own overhead.",
        "",
        "| ensembler | mean rank | Elo | win rate | improvability | log-loss | CPU s |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name, row in board.iterrows():
        rating = f"{row['elo']:.0f} +{row['elo+']:.0f} -{row['elo-']:.0f}"
        cells = f"{row['rank']:.2f} | {rating} | {row['winrate']:.1%}"
        cells += f" | {row['improvability']:.1%} | {row['metric_error']:.4f}"
        lines.append(f"| {name} | {cells} | {row['cpu']:.2f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
