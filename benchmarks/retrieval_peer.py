"""Distill a teacher by model2vec, and embed texts by the result; prints JSON.

Run by `bench_retrieval.py` with an interpreter that has the package:

    PYTHON benchmarks/retrieval_peer.py TEACHER MODELS TEXTS OUT

The distillations are kept in the folder ``MODELS``. ``TEXTS`` has a JSON list of lists
of texts. ``OUT`` gets the vectors of all of them (.npz): ``aligned`` of a distillation
without PCA, which stays in the teacher's space, and ``default`` of one with the
defaults of the package.
"""

from __future__ import annotations

import json
import os
import sys
from importlib.metadata import version
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"):
    os.environ[name] = "1"

import numpy as np  # noqa: E402  # takes its threads from the environment


def main() -> None:
    """Distill, embed and save."""
    from model2vec import StaticModel
    from model2vec.distill import distill

    teacher, models, texts, out = sys.argv[1:]
    lists = json.loads(Path(texts).read_text("utf-8"))
    arrays = {}
    for name, options in {"default": {}, "aligned": {"pca_dims": None}}.items():
        path = Path(models, name)
        if not path.exists():
            distill(model_name=teacher, **options).save_pretrained(path)
        model = StaticModel.from_pretrained(path)
        for place, part in enumerate(lists):
            # Its limit on the number of tokens would cut long documents.
            vectors = model.encode(part, max_length=None)
            arrays[f"{name}{place}"] = np.asarray(vectors, np.float32)
    np.savez(out, **arrays)
    print(json.dumps({"version": version("model2vec")}))


if __name__ == "__main__":
    main()
