"""Elo ratings of bencheval, TabArena's package, for errors on standard input.

Input and output are JSON: ``{metric: {set: {way: error}}}``, and
``{metric: {way: [rating, upper distance, lower distance]}}``, 95 % intervals of 200
bootstrap samples of the sets. The mean rating is 1000.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def main() -> None:
    """Print the ratings."""
    tables = json.load(sys.stdin)
    print(json.dumps({metric: ratings(table) for metric, table in tables.items()}))


def ratings(table: dict[str, dict[str, float]]) -> dict[str, list[float]]:
    """Rating and interval of each way."""
    import pandas as pd
    from bencheval.evaluator import BenchmarkEvaluator

    rows = [
        {"task": task, "method": way, "metric_error": error}
        for task, errors in table.items()
        for way, error in errors.items()
    ]
    if len(table) < 2:
        return {}
    evaluator = BenchmarkEvaluator(columns_to_agg_extra=None)
    data: Any = pd.DataFrame(rows)
    per_task = evaluator.compute_results_per_task(data)
    found = evaluator.compute_elo(per_task, BOOTSTRAP_ROUNDS=200)
    columns = ["elo", "elo+", "elo-"]
    return {way: [float(row[c]) for c in columns] for way, row in found.iterrows()}


if __name__ == "__main__":
    main()
