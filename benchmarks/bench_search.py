"""How fast and how exact are search and deduplication of half a million texts?

A file of 500 000 texts, of which a tenth are near-duplicates that were planted: words
of another text swapped, doubled, or replaced, so that most cosines are above the
threshold. `ensemble search` on an index is timed with its start, and its results are
compared with a loop in float64; `ensemble dedup` is timed. Of the planted texts that
reach the threshold, those must be dropped whose original is kept; a sample of all texts
is compared with brute force. Peers, in environments of their own, get the same vectors
or texts.
"""  # noqa: D400  # a question

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import distillation_texts
import measuring
import numpy as np

from ensembles.embeddings import SentenceEmbedder, paired_cosines

PLANTED = 0.1  # share of near-duplicates
THRESHOLD = 0.9
N_SAMPLED = 300  # texts that are compared with all others by brute force
QUERIES = ("a dog runs on the beach", "how can I sort a list", "the president resigned")
COMMAND = [sys.executable, "-m", "ensembles_cli"]
# Each prints JSON; the arguments are the vectors, the texts and the threshold.
PEERS = {
    "sentence-transformers semantic_search": """
import json, sys, time, numpy as np
from sentence_transformers.util import semantic_search
X = np.load(sys.argv[1]); Q = np.load(sys.argv[1] + ".queries.npy")
start = time.process_time(); wall = time.perf_counter()
hits = semantic_search(Q, X, top_k=10)
print(json.dumps({"seconds": time.perf_counter() - wall,
    "cpu": time.process_time() - start,
    "rows": [[hit["corpus_id"] for hit in found] for found in hits]}))
""",
    "sentence-transformers paraphrase_mining_embeddings": """
import json, sys, time, numpy as np
from sentence_transformers.util import paraphrase_mining_embeddings
X = np.load(sys.argv[1]); t = float(sys.argv[3])
start = time.process_time(); wall = time.perf_counter()
pairs = paraphrase_mining_embeddings(X, max_pairs=5_000_000, top_k=100)
rows = sorted({max(i, j) for score, i, j in pairs if score >= t})
print(json.dumps({"seconds": time.perf_counter() - wall,
    "cpu": time.process_time() - start, "dropped": rows}))
""",
    "semhash": """
import json, sys, time
from model2vec import StaticModel
from semhash import SemHash
texts = open(sys.argv[2], encoding="utf-8").read().split("\\n")[:-1]
start = time.process_time(); wall = time.perf_counter()
records = [{"row": str(row), "text": text} for row, text in enumerate(texts)]
model = StaticModel.from_pretrained(sys.argv[4])
hashed = SemHash.from_records(records, columns=["text"], model=model)
kept = hashed.self_deduplicate(threshold=float(sys.argv[3])).selected
rows = {int(record["row"]) for record in kept}
print(json.dumps({"seconds": time.perf_counter() - wall,
    "cpu": time.process_time() - start,
    "dropped": [row for row in range(len(texts)) if row not in rows]}))
""",
}


def main() -> None:
    """Measure, print and save the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="saved embedder")
    parser.add_argument("--n-texts", type=int, default=500_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="20 000 texts")
    parser.add_argument("--peer", type=Path, help="python of the peers' environment")
    parser.add_argument("--peer-texts", type=int, default=50_000, help="for the peers")
    parser.add_argument("--results", type=Path, help="folder to keep results in")
    options = parser.parse_args()
    n_texts = 20_000 if options.quick else options.n_texts
    facts: dict[str, Any] = {
        "date": date.today().isoformat(),
        "command": measuring.command(),
        "machine": measuring.machine(),
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        facts["ours"] = measured(options, folder, n_texts)
        if options.peer:
            facts["few"] = few = measured(options, folder, options.peer_texts)
            facts["peers"] = peers(options, folder, few.pop("truth"))
    for part in ("ours", "few"):
        facts.get(part, {}).pop("truth", None)
    text = markdown(facts)
    print(text)
    if options.results:
        (options.results / "search.md").write_text(text)
        path = options.results / "search.json"
        path.write_text(json.dumps(facts, indent=1) + "\n")


def planted(texts: list[str], n_texts: int) -> tuple[list[str], np.ndarray]:
    """Texts with near-duplicates after them, and the row of each one's original."""
    rng = np.random.default_rng(0)
    texts = list(dict.fromkeys(text for text in texts if len(text.split()) > 5))
    n_copies = int(PLANTED * n_texts)
    texts = [texts[row] for row in rng.permutation(len(texts))[: n_texts - n_copies]]
    words = sorted({word for text in texts[:2000] for word in text.split()})
    originals = rng.choice(len(texts), n_copies, replace=False)
    for row in originals:
        parts = texts[row].split()
        place, kind = int(rng.integers(len(parts) - 1)), rng.integers(3)
        if kind == 0:
            parts[place : place + 2] = parts[place + 1], parts[place]
        elif kind == 1:
            parts.insert(place, parts[place])
        else:
            parts[place] = words[rng.integers(len(words))]
        texts.append(" ".join(parts))
    return texts, originals


def measured(options: Any, folder: Path, n_texts: int) -> dict[str, Any]:
    """Times and exactness of both commands on a number of texts."""
    texts, originals = planted(distillation_texts.english(None), n_texts)
    paths = {name: folder / name for name in ("t.txt", "t.index", "u.txt", "r.jsonl")}
    paths["t.txt"].write_text("\n".join(texts) + "\n", "utf-8")
    embedder = SentenceEmbedder.load(options.model)
    vectors = embedder.transform(texts)
    np.save(folder / "X.npy", vectors)
    queries = embedder.transform(list(QUERIES))
    np.save(folder / "X.npy.queries.npy", queries)
    making = [*COMMAND, "embed", str(paths["t.txt"]), "-m", str(options.model)]
    facts: dict[str, Any] = {"texts": len(texts), "dim": vectors.shape[1]}
    facts["index"] = measuring.run(
        [*making, "-o", str(paths["t.index"]), "--force"]
    )._asdict()
    truth = [brute_force(vectors, query, 10) for query in queries]
    facts["search"] = searched(options.repeats, paths["t.index"], truth)
    dropping = [*COMMAND, "dedup", str(paths["t.txt"]), "-m", str(options.model)]
    dropping += ["--threshold", str(THRESHOLD), "-o", str(paths["u.txt"])]
    dropping += ["--report", str(paths["r.jsonl"]), "--force"]
    cost = measuring.run(dropping)
    report = [json.loads(line) for line in paths["r.jsonl"].open(encoding="utf-8")]
    dropped = np.array([one["row"] for one in report])
    facts["dedup"] = {**cost._asdict(), **judged(vectors, originals, dropped, texts)}
    facts["truth"] = {"vectors": vectors, "originals": originals, "texts": texts}
    facts["truth"]["hits"] = truth
    return facts


def brute_force(vectors: Any, query: Any, k: int) -> list[int]:
    """Rows of the highest cosines in float64."""
    cosines = paired_cosines(vectors, query[None])
    return np.lexsort((np.arange(len(cosines)), -cosines))[:k].tolist()


def searched(n_repeats: int, index: Path, truth: list[list[int]]) -> dict[str, Any]:
    """Seconds of the command with its start, and recall of its rows."""
    walls, cpus, found = [], [], []
    for _ in range(n_repeats):
        for query in QUERIES:
            cost = measuring.run([*COMMAND, "search", query, str(index)])
            walls.append(cost.wall)
            cpus.append(cost.cpu)
    for query in QUERIES:
        command = [*COMMAND, "search", query, str(index), "--json"]
        done = subprocess.run(command, capture_output=True, check=True, text=True)
        found.append([hit["row"] for hit in json.loads(done.stdout)[0]["hits"]])
    return {
        "seconds": round(float(np.median(walls)), 3),
        "slowest": round(max(walls), 3),
        "cpu": round(float(np.median(cpus)), 3),
        "recall": recall(found, truth),
    }


def recall(found: list[list[int]], truth: list[list[int]]) -> float:
    """Mean share of the best rows that were found."""
    pairs = zip(found, truth, strict=True)
    return float(np.mean([len({*a} & {*b}) / len(b) for a, b in pairs]))


def judged(
    vectors: Any, originals: Any, dropped: Any, texts: list[str]
) -> dict[str, Any]:
    """Precision and recall of dropped rows: planted ones, and a sample of all."""
    n_originals = len(texts) - len(originals)
    is_dropped = np.zeros(len(texts), np.bool_)
    is_dropped[dropped] = True
    copies = np.arange(n_originals, len(texts))
    cosines = paired_cosines(vectors[copies], vectors[originals])
    is_near = cosines >= THRESHOLD
    # A dropped original has a kept text beside it, which may be farther from the copy.
    must_go = is_near & ~is_dropped[originals]
    rows = np.random.default_rng(1).choice(len(texts), N_SAMPLED, replace=False)
    has_earlier = np.zeros(N_SAMPLED, np.bool_)
    has_kept = np.zeros(N_SAMPLED, np.bool_)
    for place, row in enumerate(rows):
        near = paired_cosines(vectors[:row], vectors[row][None]) >= THRESHOLD
        has_earlier[place] = near.any()
        has_kept[place] = (near & ~is_dropped[:row]).any()
    wrong = int((is_dropped[rows] & ~has_earlier).sum())
    return {
        "dropped": int(is_dropped.sum()),
        "planted_near": int(is_near.sum()),
        "planted_near_kept": int(must_go.sum()),
        "planted_recall": float(is_dropped[copies][must_go].mean()),
        "sample": N_SAMPLED,
        "precision": 1 - wrong / max(1, int(is_dropped[rows].sum())),
        "recall": float(is_dropped[rows][has_kept].mean()) if has_kept.any() else None,
    }


def peers(options: Any, folder: Path, truth: dict[str, Any]) -> dict[str, Any]:
    """Results of the peers, on the last vectors and texts that were written."""
    results: dict[str, Any] = {}
    arguments = [folder / "X.npy", folder / "t.txt", THRESHOLD, options.model]
    for name, code in PEERS.items():
        command = [options.peer, "-c", code, *arguments]
        done = subprocess.run([*map(str, command)], capture_output=True, text=True)
        if done.returncode:
            results[name] = {"error": done.stderr.strip().splitlines()[-1:]}
            continue
        facts = json.loads(done.stdout.splitlines()[-1])
        if "rows" in facts:
            facts["recall"] = recall(facts.pop("rows"), truth["hits"])
        else:
            rows = (truth["vectors"], truth["originals"], facts.pop("dropped"))
            facts |= judged(*rows, truth["texts"])
        results[name] = facts
    return results


def markdown(facts: dict[str, Any]) -> str:
    """Results as Markdown."""
    machine = ", ".join(f"{name} {value}" for name, value in facts["machine"].items())
    lines = [
        f"# Search and near-duplicates, {facts['date']}",
        "",
        f"`{facts['command']}`",
        "",
        f"{machine}.",
        "",
        "Seconds of whole commands with their start. *Recall* of a search is the share "
        "of the ten best rows of float64 that were found.",
        "",
        "| texts | dimensions | step | wall s | CPU s | MiB | recall |",
        "|--:|--:|---|--:|--:|--:|--:|",
    ]
    for part in (facts[name] for name in ("ours", "few") if name in facts):
        size, found = f"{part['texts']:,} | {part['dim']}", part["search"]
        for name in ("index", "dedup"):
            cost = part[name]
            mib = cost["anonymous"] / (1 << 20)
            lines.append(
                f"| {size} | {name} | {cost['wall']:.1f} | {cost['cpu']:.1f} | "
                f"{mib:.0f} | |"
            )
        seconds = f"{found['seconds']:.2f} (at most {found['slowest']:.2f})"
        lines.append(
            f"| {size} | search | {seconds} | {found['cpu']:.2f} | | "
            f"{found['recall']:.3f} |"
        )
    for name, found in facts.get("peers", {}).items():
        cells = [f"{found[key]:.1f}" for key in ("seconds", "cpu") if key in found]
        share = "" if "dropped" in found else f"{found.get('recall', '')}"
        cells = [size, f"{name}, without start", *(cells or ["failed", ""]), "", share]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *duplicates(facts)]
    return "\n".join(lines) + "\n"


def duplicates(facts: dict[str, Any]) -> list[str]:
    """Lines of the table of dropped texts."""
    lines = [
        f"Near-duplicates at a cosine of {THRESHOLD}: planted texts that reach it and "
        "whose original is kept, the share of them that is dropped; and of a sample of "
        f"{N_SAMPLED} texts, the precision (a dropped text has an earlier similar one) "
        "and the recall (a text with an earlier kept similar one is dropped).",
        "",
        "| texts | way | dropped | planted | of them dropped | precision | recall |",
        "|--:|---|--:|--:|--:|--:|--:|",
    ]
    ways = [
        (facts[n]["texts"], "ensemble dedup", facts[n]["dedup"])
        for n in ("ours", "few")
        if n in facts
    ]
    ways += [
        (facts["few"]["texts"], name, found)
        for name, found in facts.get("peers", {}).items()
        if "dropped" in found
    ]
    for n_texts, name, found in ways:
        shares = [found[key] for key in ("planted_recall", "precision", "recall")]
        cells = ["" if share is None else f"{share:.4f}" for share in shares]
        lines.append(
            f"| {n_texts:,} | {name} | {found['dropped']:,} | "
            f"{found['planted_near_kept']:,} | {' | '.join(cells)} |"
        )
    return lines


if __name__ == "__main__":
    main()
