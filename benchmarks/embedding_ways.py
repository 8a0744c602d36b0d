"""One way to embed sentences, measured in a process of its own; prints JSON.

Run by `bench_embedding_speed.py`, model2vec's ways by an interpreter that has it:

    python benchmarks/embedding_ways.py WAY FOLDER

``FOLDER`` holds texts.txt (a sentence a line), table.npy and tokenizer.json. Loading,
compiling and what a first call does once are not measured; learning words is.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Before a package with threads of its own is loaded: what has one thread has one.
for name in ("RAYON_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np  # noqa: E402  # takes its threads from the environment

N_SINGLE = 2000
UNKNOWN = "[UNK]"
Way = Iterator[Callable[[], Any]]


def main() -> None:
    """Run a way and print its cost."""
    way, folder = sys.argv[1], Path(sys.argv[2])
    texts = (folder / "texts.txt").read_text("utf-8").splitlines()
    table = np.load(folder / "table.npy")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = memory("VmRSS")
    results = [
        {**measured(task), "single": way.endswith("single")}
        for task in WAYS[way](texts, table, str(folder / "tokenizer.json"))
    ]
    print(json.dumps({"runs": results, "mib": (memory("VmHWM") - before) / 1024}))


def measured(task: Callable[[], Any]) -> dict[str, float]:
    """Seconds of a task, of the processor and on the clock."""
    cpu, wall = spent(), time.perf_counter()
    task()
    return {"cpu": spent() - cpu, "wall": time.perf_counter() - wall}


def spent() -> float:
    """Seconds of the processor, of this process and of children that ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def memory(field: str) -> int:
    """KiB of memory, now (VmRSS) or at most (VmHWM)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1])
    return 0


def ours(n_threads: int) -> Callable[..., Way]:
    """Cold, then warm."""

    def way(texts: list[str], table: Any, tokenizer: str) -> Way:
        from ensembles.embeddings.pooling.engine import embed_texts, pooling_spec

        out, spec = touched(len(texts), table), pooling_spec(table)
        embed_texts(texts[:3000], tokens(tokenizer), spec, out=out[:3000])
        words = tokens(tokenizer)
        task = lambda: embed_texts(texts, words, spec, out=out, n_threads=n_threads)  # noqa: E731
        yield task
        yield task

    return way


def ours_single(texts: list[str], table: Any, tokenizer: str) -> Way:
    """One sentence per call of a fitted estimator, with a warm word cache."""
    from ensembles.embeddings import SentenceEmbedder, WordVectors

    own = tokenizer_of(tokenizer)
    pieces = sorted(own.get_vocab(), key=own.token_to_id)
    vectors = WordVectors(pieces, table, tokenizer=own)
    embedder = SentenceEmbedder(vectors, weights=None).fit()
    embedder.transform(texts[:N_SINGLE])
    yield lambda: one_by_one(embedder.transform, texts)


def one_by_one(embed: Callable[[list[str]], Any], texts: list[str]) -> None:
    """Embed a sentence a call, and keep nothing: new memory costs more than some."""
    for text in texts[:N_SINGLE]:
        embed([text])


def tokens(path: str) -> Any:
    """Our tokens, without unknown pieces, as model2vec has it."""
    from ensembles.embeddings.tokenization.tokenizer import make_tokenizer

    tokenizer = tokenizer_of(path)
    vocabulary = tokenizer.get_vocab()
    del vocabulary[UNKNOWN]
    return make_tokenizer(tokenizer, vocabulary)


def tokenizer_of(path: str) -> Any:
    """The tokenizer, which adds, cuts and fills up nothing."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(path)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def touched(n_texts: int, table: Any) -> Any:
    """Allocated array for results, touched once."""
    return np.full((n_texts, table.shape[1]), 1, np.float32)


def pool_alone(texts: list[str], table: Any, tokenizer: str) -> Way:
    """Pooling alone, of token ids that are already computed."""
    from ensembles.embeddings.pooling.engine import pool, pooling_spec

    rows, out = tokens(tokenizer)(texts), touched(len(texts), table)
    spec = pooling_spec(table)
    pool(rows, spec, out=out)
    yield lambda: pool(rows, spec, out=out)


def gather(texts: list[str], table: Any, tokenizer: str) -> Way:
    """Floor: reads the rows of all tokens, without arithmetic."""
    rows = tokens(tokenizer)(texts).rows
    rows = rows[rows >= 0]
    step = 256
    room = np.ones((step, table.shape[1]), np.float32)
    pieces = [rows[start : start + step] for start in range(0, len(rows), step)]
    yield lambda: [
        np.take(table, piece, axis=0, out=room[: len(piece)], mode="clip")
        for piece in pieces
    ]


def tokenizer_alone(texts: list[str], table: Any, tokenizer: str) -> Way:
    """The Hugging Face tokenizer alone, without pooling."""
    del table
    encode = tokenizer_of(tokenizer).encode_batch_fast
    yield lambda: [
        encode(texts[start : start + 1024], add_special_tokens=False)
        for start in range(0, len(texts), 1024)
    ]


def model2vec(*, shared: bool) -> Callable[..., Way]:
    """Its vectors of all texts; what it calls multiprocessing are threads (0.10)."""

    def way(texts: list[str], table: Any, tokenizer: str) -> Way:
        model = static_model(table, tokenizer)
        model.encode(texts[:1000], use_multiprocessing=False)
        yield lambda: model.encode(texts, use_multiprocessing=shared)

    return way


def model2vec_single(texts: list[str], table: Any, tokenizer: str) -> Way:
    """One sentence per call."""
    model = static_model(table, tokenizer)
    model.encode(texts[:10])
    yield lambda: one_by_one(model.encode, texts)


def static_model(table: Any, tokenizer: str) -> Any:
    """The same table and tokenizer for model2vec."""
    from model2vec import StaticModel

    return StaticModel(table, tokenizer_of(tokenizer), normalize=False)


def save_vectors(texts: list[str], table: Any, tokenizer: str) -> Way:
    """Save model2vec's vectors of some texts, to compare with them."""
    found = static_model(table, tokenizer).encode(texts[:20000])
    np.save(Path(tokenizer).with_name("model2vec.npy"), found)
    yield lambda: None


WAYS: dict[str, Callable[..., Way]] = {
    "ensembles": ours(1),
    "ensembles, 2 threads": ours(2),
    "ensembles, single": ours_single,
    "pool alone": pool_alone,
    "gather (floor)": gather,
    "tokenizer alone": tokenizer_alone,
    "model2vec": model2vec(shared=False),
    "model2vec, multiprocessing": model2vec(shared=True),
    "model2vec, single": model2vec_single,
    "model2vec, saved": save_vectors,
}

if __name__ == "__main__":
    main()
