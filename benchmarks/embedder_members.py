"""Members for `bench_embedder_ensembles`: pairs, and fine-tunes that are kept."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

import measuring
import numpy as np
import soup_encoders

from ensembles.embeddings import read_similarity_pairs
from ensembles.embeddings.similarity.evaluation import Pairs

SHARE = 0.7  # of the training pairs, for fine-tuning; weights are chosen on the rest


class Task(NamedTuple):
    """Pairs of one data set: to fine-tune on, to choose weights on, to report."""

    tune: Pairs
    choose: Pairs
    report: Pairs


def tasks() -> dict[str, Task]:
    """Tasks by name; no pair is in two parts."""
    folder = measuring.data() / "sts"
    columns = ("6", "7", "5")
    sources = {
        "STS-B dev": (
            read_similarity_pairs(folder / "sts-train.csv", columns=columns),
            read_similarity_pairs(folder / "sts-dev.csv", columns=columns),
        ),
        "SICK trial": (
            read_similarity_pairs(folder / "SICK_train.txt"),
            read_similarity_pairs(folder / "SICK_trial.txt"),
        ),
    }
    found = {}
    for name, (train, report) in sources.items():
        order = np.random.default_rng(0).permutation(len(train.scores))
        cut = round(SHARE * len(order))
        found[name] = Task(rows(train, order[:cut]), rows(train, order[cut:]), report)
    return found


def rows(pairs: Pairs, chosen: np.ndarray) -> Pairs:
    """Some of the pairs."""
    chosen = np.sort(chosen)
    first, second = ([side[row] for row in chosen] for side in pairs[:2])
    return Pairs(first, second, pairs.scores[chosen])


def fine_tunes(
    base: Path, folder: Path, found: dict[str, Task], n_epochs: float
) -> list[Path]:
    """Directories of three fine-tunes, of one set each and of both; kept."""
    sts, sick = (task.tune for task in found.values())
    both = Pairs(
        [*sts.first, *sick.first],
        [*sts.second, *sick.second],
        np.concatenate([sts.scores, sick.scores]),
    )
    paths = []
    for seed, (name, pairs) in enumerate(
        {"sts": sts, "sick": sick, "both": both}.items()
    ):
        path = folder / f"tuned-{name}"
        if not (path / "modules.json").exists():
            print(time.strftime("%T"), "fine-tuning", name, flush=True)
            recipe = soup_encoders.Recipe(seed, 5e-5, n_epochs)
            encoder = soup_encoders.fine_tune(base, pairs, recipe)
            encoder.save(str(path), create_model_card=False)
        paths.append(path)
    return paths
