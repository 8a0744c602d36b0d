"""One static model, measured in a process of its own; prints JSON.

Run by `bench_embedding_tables.py`, for model2vec by an interpreter that has it:

    python benchmarks/embedding_case.py LIBRARY FOLDER TEXTS speed|vectors|memory

CPU seconds without loading: cold is the first pass over the texts, after a pass over
other texts that compiles and imports everything; warm the best of the next two.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

for name in ("RAYON_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

N_SINGLE = 2000


def main() -> None:
    """Measure one task."""
    library, folder, path, task = sys.argv[1:]
    texts = Path(path).read_text("utf-8").split("\n")
    if task == "memory":
        print(json.dumps(memory(encoder(library, folder), texts)))
    elif task == "vectors":
        import numpy as np

        np.save(Path(folder) / f"{library}.npy", encoder(library, folder)(texts[:5000]))
    else:
        encoder(library, folder)(["Words that no text of the benchmark has."] * 600)
        encode = encoder(library, folder)  # without the words of the first
        cold, *warm = [spent(encode, texts) for _ in range(3)]
        single = spent(lambda some: [encode([text]) for text in some], texts[:N_SINGLE])
        per_text = 1e6 / len(texts)
        found = {"cold": cold * per_text, "warm": min(warm) * per_text}
        print(json.dumps({**found, "single": single * 1e6 / N_SINGLE}))


def encoder(library: str, folder: str) -> Callable[[list[str]], Any]:
    """Function from texts to vectors."""
    if library == "model2vec":
        from model2vec import StaticModel

        model = StaticModel.from_pretrained(folder)
        return lambda texts: model.encode(texts, use_multiprocessing=False)
    from ensembles.embeddings import load_model

    transform: Callable[[list[str]], Any] = load_model(folder).transform
    return transform


def spent(task: Callable[[list[str]], Any], texts: list[str]) -> float:
    """Seconds of the processor."""
    start = time.process_time()
    task(texts)
    return time.process_time() - start


def memory(encode: Callable[[list[str]], Any], texts: list[str]) -> dict[str, float]:
    """MiB of this process while another one runs the same; waits for two lines."""
    for start in range(0, len(texts), 1000):
        encode(texts[start : start + 1000])
    print("ready", flush=True)
    sys.stdin.readline()
    sizes: dict[str, float] = {}
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]:
        name, size = line.split()[:2]
        sizes[name.rstrip(":")] = int(size) / 1024
    found = {
        "private": sizes["Private_Dirty"] + sizes["Private_Clean"],
        "pss": sizes["Pss"],
        "rss": sizes["Rss"],
    }
    print(json.dumps(found), flush=True)
    sys.stdin.readline()
    return found


if __name__ == "__main__":
    main()
