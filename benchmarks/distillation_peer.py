"""Embed texts by model2vec's default distillation, or by WordLlama; prints JSON.

Run by `bench_distillation.py` with an interpreter that has the package:

    PYTHON benchmarks/distillation_peer.py model2vec TEACHER TEXTS OUT DIM
    PYTHON benchmarks/distillation_peer.py wordllama - TEXTS OUT DIM

``TEXTS`` has a JSON list of texts. ``OUT`` gets their vectors (.npy).
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"):
    os.environ[name] = "1"

import numpy as np  # noqa: E402  # takes its threads from the environment


def model2vec(teacher: str, dim: int) -> Any:
    """Distill by the defaults; all but ``pca_dims`` are those of the package."""
    from model2vec.distill import distill

    return distill(model_name=teacher, pca_dims=dim).encode


def wordllama(teacher: str, dim: int) -> Any:
    """Read the vectors that come with the package."""
    del teacher
    import wordllama

    # It looks for its tokenizer under the name of another folder than it installs.
    folder = Path(wordllama.__file__).parent
    options = {"cache_dir": folder, "disable_download": True}
    return wordllama.WordLlama.load(trunc_dim=dim, **options).embed


def main() -> None:
    """Embed the texts, and print the CPU seconds of building the model."""
    way, teacher, texts, out, dim = sys.argv[1:]
    started = time.process_time()
    encode = {"model2vec": model2vec, "wordllama": wordllama}[way](teacher, int(dim))
    cpu = time.process_time() - started
    vectors = encode(json.loads(Path(texts).read_text("utf-8")))
    np.save(out, np.asarray(vectors, np.float32))
    print(json.dumps({"cpu": cpu}))


if __name__ == "__main__":
    main()
