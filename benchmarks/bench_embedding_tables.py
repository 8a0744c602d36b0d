"""How fast are static models of every kind embedded, and how much memory do they share?

Models in the directory format of model2vec, with three kinds of tokenizers, 256, 384
and 768 dimensions, and tables in float32, float16 and int8; and a large table, in two
processes at once. First, the ids of multilingual sentences are compared with those of
the package tokenizers, and vectors with model2vec's, which reads the same directory.
Every measurement is a process of its own; libraries take turns.
"""  # noqa: D400  # a question

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import measuring
import numpy as np
import tokenizer_cases
from tokenizer_cases import BYTE_LEVEL, UNIGRAM, WORD_PIECE, english_sentences

from ensembles.embeddings.tokenization.tokenizer import make_tokenizer

HERE = Path(__file__).parent
CASE = str(HERE / "embedding_case.py")
# Number of pieces of each kind of tokenizer, and the data types of its tables.
KINDS = {
    WORD_PIECE: (30_000, ("float32", "float16", "int8")),
    UNIGRAM: (500_000, ("float16",)),
    BYTE_LEVEL: (50_000, ("float32",)),
}
DIMS = (256, 384, 768)
N_TRAINING, N_COMPARED = 200_000, 100_000  # multilingual sentences
ANGLE = {"float32": 1e-5, "float16": 2e-3, "int8": 1e-5}  # 1 - cosine, at most
ASKED = {256: (8, 15), 384: (None, 10), 768: (None, 10)}  # cold and warm


def main() -> None:
    """Measure, print and save the results."""
    options = parse()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        texts = [" ".join(text.split()) for text in english_sentences()]
        content = "\n".join(texts[: options.sentences])
        (folder / "texts.txt").write_text(content, "utf-8")
        facts: dict[str, Any] = {
            "date": date.today().isoformat(),
            "command": measuring.command(),
            "machine": measuring.machine(),
            "sentences": options.sentences,
            "compared": {},
            "speed": [],
        }
        for kind, (n_pieces, dtypes) in KINDS.items():
            tokenizer = tokenizer_of(kind, n_pieces, facts, options)
            for dim in DIMS[: 1 if options.quick else None]:
                for dtype in dtypes[: 1 if dim == DIMS[-1] else None]:
                    model = folder / f"{kind}-{dim}-{dtype}"
                    write_model(model, tokenizer, dim, dtype)
                    row = {"kind": kind, "dim": dim, "dtype": dtype}
                    row |= speed(model, folder / "texts.txt", options, dtype)
                    facts["speed"].append(row)
        for path in options.model:
            row = {"kind": path.name, "dim": "", "dtype": ""}
            row |= speed(path, folder / "texts.txt", options, "float16")
            facts["speed"].append(row)
        facts["memory"] = shared_memory(folder, options)
    text = markdown(facts)
    print(text)
    if options.results:
        options.results.mkdir(exist_ok=True)
        (options.results / "embedding_tables.md").write_text(text)
        content = json.dumps(facts, indent=1)
        (options.results / "embedding_tables.json").write_text(content)


def parse() -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--sentences", type=int, default=50_000)
    add("--rounds", type=int, default=3)
    add("--quick", action="store_true", help="256 dimensions, one round, a small table")
    add("--peer", metavar="PYTHON", help="interpreter that has model2vec")
    add("--model", type=Path, nargs="*", default=[], help="directories of other models")
    add("--folder", type=Path, help="where scratch files are made")
    add("--results", type=Path, help="folder to keep results in")
    options = parser.parse_args()
    if options.quick:
        options.rounds = 1
    return options


def tokenizer_of(
    kind: str, n_pieces: int, facts: dict[str, Any], options: argparse.Namespace
) -> Any:
    """Tokenizer made from multilingual sentences; ids of others are compared."""
    n_training, n_compared = N_TRAINING, N_COMPARED
    if options.quick:
        n_pieces, n_training, n_compared = n_pieces // 10, 20_000, 10_000
    print(f"{time.strftime('%H:%M:%S')} making {kind}", file=sys.stderr)
    training = tokenizer_cases.multilingual_sentences(n_training)
    tokenizer = tokenizer_cases.make_tokenizer(kind, training, n_pieces)
    tokenize, n_different = make_tokenizer(tokenizer, None), 0
    texts = tokenizer_cases.multilingual_sentences(n_compared)
    for start in range(0, n_compared, 1000):
        part = texts[start : start + 1000]
        found = tokenize(part)
        ours = np.split(found.rows, found.offsets[1:-1])
        theirs = tokenizer.encode_batch_fast(part, add_special_tokens=False)
        pairs = zip(ours, theirs, strict=True)
        n_different += sum(rows.tolist() != encoding.ids for rows, encoding in pairs)
    facts["compared"][kind] = [n_pieces, n_compared, n_different]
    if n_different:
        raise SystemExit(f"{n_different} of {n_compared} sentences differ with {kind}")
    return tokenizer


def write_model(folder: Path, tokenizer: Any, dim: int, dtype: str) -> None:
    """Directory of a static model with random vectors."""
    from safetensors.numpy import save_file

    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    n_rows = tokenizer.get_vocab_size()
    rng = np.random.default_rng(0)
    table = rng.standard_normal((n_rows, dim), np.float32)
    if dtype == "int8":
        table = np.clip(np.rint(table * 30), -127, 127)
    save_file({"embeddings": table.astype(dtype)}, folder / "model.safetensors")
    config = {"normalize": True, "model_type": "model2vec", "embedding_dtype": dtype}
    (folder / "config.json").write_text(json.dumps(config))


def run(python: str, *arguments: Any) -> str:
    """Standard output of a case."""
    done = subprocess.run(
        [python, CASE, *map(str, arguments)], capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{arguments} failed:\n{done.stderr[-2000:]}")
    return done.stdout


def speed(
    model: Path, texts: Path, options: argparse.Namespace, dtype: str
) -> dict[str, Any]:
    """Microseconds per sentence, the least of all rounds, after the answers agree."""
    libraries = {"ensembles": sys.executable}
    if options.peer:
        libraries["model2vec"] = options.peer
        found = []
        for library, python in libraries.items():
            run(python, library, model, texts, "vectors")
            found.append(np.load(model / f"{library}.npy").astype(np.float64))
        norms = np.linalg.norm(found, axis=2).prod(axis=0)
        cosines = np.einsum("ij,ij->i", *found) / np.where(norms > 0, norms, 1)
        if (cosines[norms > 0] < 1 - ANGLE[dtype]).any():
            raise SystemExit(f"vectors of {model.name} are not model2vec's")
    best: dict[str, Any] = {}
    for _ in range(options.rounds):
        for library, python in libraries.items():
            print(
                f"{time.strftime('%H:%M:%S')} {model.name} {library}", file=sys.stderr
            )
            for name, value in json.loads(
                run(python, library, model, texts, "speed")
            ).items():
                key = f"{library} {name}"
                best[key] = min(value, best.get(key, value))
    return best


def shared_memory(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """MiB of two processes with the large table of Unigram pieces, by library."""
    model = folder / f"{UNIGRAM}-{DIMS[0]}-float16"
    size = (model / "model.safetensors").stat().st_size
    n_rows = size // (2 * DIMS[0])
    found: dict[str, Any] = {"rows": n_rows, "table MiB": size / (1 << 20)}
    libraries = {"ensembles": sys.executable}
    if options.peer:
        libraries["model2vec"] = options.peer
    for library, python in libraries.items():
        arguments = [library, model, folder / "texts.txt", "memory"]
        command = [python, CASE, *map(str, arguments)]
        pair = [
            subprocess.Popen(command, stdin=-1, stdout=-1, text=True) for _ in range(2)
        ]
        lines: list[str] = []
        for process in pair:
            assert process.stdin
            assert process.stdout
            if process.stdout.readline() != "ready\n":
                raise SystemExit(f"{library} failed on the large table")
        for process in pair:
            assert process.stdin
            assert process.stdout
            process.stdin.write("\n")
            process.stdin.flush()
            lines.append(process.stdout.readline())
        for process in pair:
            process.communicate("\n")
        found[library] = json.loads(lines[0])
    return found


def markdown(facts: Mapping[str, Any]) -> str:
    """Results as Markdown."""
    machine = ", ".join(f"{name} {value}" for name, value in facts["machine"].items())
    lines = [
        f"# Static models of every kind, {facts['date']}",
        "",
        f"`{facts['command']}`",
        "",
        f"{facts['sentences']:,} sentences, one thread, CPU microseconds per sentence, "
        "least of all rounds; vectors are L2-normalized. The ratio is model2vec's time "
        "over ours, in brackets the one required.",
        "",
        f"{machine}.",
        "",
        *(
            f"{kind}, {n_pieces:,} pieces: the ids of {n_different} of {n:,} "
            "multilingual sentences differ from those of the package tokenizers."
            for kind, (n_pieces, n, n_different) in facts["compared"].items()
        ),
        "",
        "| tokenizer | dim | table | cold | warm | single | cold ratio | warm ratio |",
        "|---|--:|---|--:|--:|--:|--:|--:|",
    ]
    for row in facts["speed"]:
        times = [
            f"{row[f'ensembles {name}']:.2f}" for name in ("cold", "warm", "single")
        ]
        ratios = ["", ""]
        if "model2vec warm" in row:
            asked = ASKED.get(row["dim"], (None, None))
            for index, name in enumerate(("cold", "warm")):
                ratio = row[f"model2vec {name}"] / row[f"ensembles {name}"]
                goal = f" ({asked[index]})" if asked[index] else ""
                ratios[index] = f"{ratio:.1f}{goal}"
        cells = [row["kind"], str(row["dim"]), row["dtype"], *times, *ratios]
        lines.append(f"| {' | '.join(cells)} |")
    memory = facts["memory"]
    lines += [
        "",
        f"Two processes at once, each with a table of {memory['rows']:,} pieces in "
        f"float16, {memory['table MiB']:.0f} MiB; MiB of one of them.",
        "",
        "| library | private | PSS | RSS |",
        "|---|--:|--:|--:|",
    ]
    for library in ("ensembles", "model2vec"):
        if library in memory:
            sizes = [f"{memory[library][key]:.0f}" for key in ("private", "pss", "rss")]
            lines.append(f"| {library} | {' | '.join(sizes)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
