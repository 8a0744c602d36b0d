"""How much time and memory do large files of vectors and texts take?

A file of text with 1 000 000 words and 300 numbers each is read by this library and by
gensim, and once it is converted opened from a map; every way is a command of its own,
and its start-up, the same with ten words, is measured and subtracted. First the answer
is checked: words and numbers are gensim's, bit for bit. Then `ensemble embed` turns a
file of 500 MB into vectors, and its memory is watched.
"""  # noqa: D400  # a question

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import measuring
import numpy as np
from report import seconds

DIM = 300
NUMBERS = 100_000  # different ones
SMALL = 10  # words of the file that start-up is measured with
OURS = "from ensembles.embeddings import read_vectors; v = read_vectors(sys.argv[1])"
LOOK = "; row = v.vocabulary[v.tokens[len(v.tokens) // 2]]; v.matrix[row].sum()"
GENSIM = (
    "from gensim.models import KeyedVectors;"
    "v = KeyedVectors.load_word2vec_format(sys.argv[1])"
)
SAME = f"""
import sys
{OURS}
ours = v
{GENSIM}
assert v.index_to_key == list(ours.tokens)
assert v.vectors.tobytes() == ours.matrix.tobytes()
"""


def main() -> None:
    """Measure, print and save the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--words", type=int, default=1_000_000)
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where files are made, 6 GB")
    parser.add_argument("--results", type=Path, help="folder to keep results in")
    options = parser.parse_args()
    facts: dict[str, Any] = {
        "date": date.today().isoformat(),
        "command": measuring.command(),
        "machine": measuring.machine(),
        "words": options.words,
    }
    facts["machine"]["gensim"] = measuring.version_in(sys.executable, "gensim")
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        facts["reading"] = reading(folder, options.words, options.repeats)
        facts["embedding"] = embedding(folder, options.megabytes)
    text = markdown(facts)
    print(text)
    if options.results:
        (options.results / "embedding_files.md").write_text(text)
        (options.results / "embedding_files.json").write_text(
            json.dumps(facts, indent=1)
        )


def reading(folder: Path, n_words: int, repeats: int) -> dict[str, Any]:
    """Costs of all ways to read the vectors."""
    large, small = folder / "large.txt", folder / "small.txt"
    for path, count in ((large, n_words), (small, SMALL)):
        say(f"writing {count} vectors as text")
        write(path, count)
        converted = path.with_suffix(".safetensors")
        command = ["embed", "--convert", "-m", str(path), "-o", str(converted)]
        subprocess.run([sys.executable, "-m", "ensembles_cli", *command], check=True)
    say("comparing with gensim")
    subprocess.run([sys.executable, "-c", SAME, str(large)], check=True)
    ways = {
        "ensembles, text": (OURS + LOOK, ".txt"),
        "ensembles, converted": (OURS + LOOK, ".safetensors"),
        "gensim, text": (GENSIM, ".txt"),
    }
    found: dict[str, Any] = {way: {"cpu": [], "wall": [], "mib": []} for way in ways}
    for repeat in range(repeats):
        for way, (code, suffix) in ways.items():
            say(f"round {repeat + 1}: {way}")
            paths = [path.with_suffix(suffix) for path in (small, large)]
            measuring.warm(paths)
            start, whole = (
                measuring.run([sys.executable, "-c", f"import sys; {code}", str(path)])
                for path in paths
            )
            found[way]["cpu"].append(whole.cpu - start.cpu)
            found[way]["wall"].append(whole.wall - start.wall)
            found[way]["mib"].append(whole.anonymous / (1 << 20))
    return {
        way: {name: measuring.spread(values) for name, values in costs.items()}
        for way, costs in found.items()
    }


def write(path: Path, n_words: int) -> None:
    """Vectors as word2vec writes them as text, about six digits a number."""
    rng = np.random.default_rng(0)
    numbers = [f"{number:.6g}" for number in rng.normal(size=NUMBERS)]
    with path.open("w") as file:
        file.write(f"{n_words} {DIM}\n")
        for word in range(n_words):
            row = rng.integers(NUMBERS, size=DIM).tolist()
            file.write(f"word{word} {' '.join([numbers[i] for i in row])}\n")


def embedding(folder: Path, megabytes: int) -> dict[str, Any]:
    """Cost of embedding a file of sentences."""
    texts, out = folder / "texts.txt", folder / "texts.npy"
    files = sorted((measuring.data() / "unlabelled").glob("*.gz"))
    sentences = b"".join(gzip.decompress(path.read_bytes()) for path in files)
    with texts.open("wb") as file:
        while file.tell() < megabytes * 1_000_000:
            file.write(sentences)
    vectors = measuring.data() / "vectors" / "glove_twitter_25d.txt"
    command = [sys.executable, "-m", "ensembles_cli", "embed", str(texts)]
    options = ["-m", str(vectors), "--weights", "none", "-o", str(out)]
    say("embedding")
    cost = measuring.run([*command, *options])
    return {
        "megabytes": texts.stat().st_size / 1e6,
        "texts": len(np.load(out, mmap_mode="r")),
        "wall": cost.wall,
        "cpu": cost.cpu,
        "mib": cost.anonymous / (1 << 20),
    }


def markdown(facts: dict[str, Any]) -> str:
    """Results as Markdown."""
    machine = ", ".join(f"{name} {value}" for name, value in facts["machine"].items())
    found = facts["reading"]
    lines = [
        f"# Files of vectors and of texts, {facts['date']}",
        "",
        f"`{facts['command']}`",
        "",
        f"{machine}.",
        "",
        f"{facts['words']:,} words with {DIM} dimensions in float32. Words and vectors "
        "were equal to gensim's, bit for bit. Seconds beyond start-up: median (minimum "
        "to maximum). Memory is the peak of anonymous memory.",
        "",
        "| way | CPU s | wall s | CPU of gensim / this | MiB |",
        "|---|--:|--:|--:|--:|",
    ]
    for way, costs in found.items():
        ratio = found["gensim, text"]["cpu"]["median"] / costs["cpu"]["median"]
        cells = [way, seconds(costs["cpu"]), seconds(costs["wall"])]
        cells += [f"{ratio:.1f}", f"{costs['mib']['median']:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    one = facts["embedding"]
    lines += [
        "",
        f"`ensemble embed` of {one['megabytes']:.0f} MB, {one['texts']:,} texts, with "
        f"GloVe-Twitter-25: {one['wall']:.1f} s, {one['cpu']:.1f} s of CPU, "
        f"{one['mib']:.0f} MiB.",
    ]
    return "\n".join(lines) + "\n"


def say(words: str) -> None:
    """Print progress to stderr."""
    print(f"{time.strftime('%H:%M:%S')} {words}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
