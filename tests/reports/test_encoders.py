"""Tables of sentence encoders, each row against the same encoder measured alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from ensembles.checkpoints import average
from ensembles.embeddings import SentenceEmbedder, SentenceEncoder
from ensembles.embeddings.similarity.evaluation import Pairs, evaluate_similarity
from ensembles.reports import compare
from tests.checkpoints.hugging_face import WORDS, encoder

FAST: dict[str, Any] = {"n_repeats": 1, "n_resamples": 200}


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three encoders near one initialization."""
    from sentence_transformers import SentenceTransformer

    folder = tmp_path_factory.mktemp("encoders")
    start = encoder(folder, 0)
    paths = []
    for seed in range(3):
        model = SentenceTransformer(str(start), device="cpu")
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                noise = torch.randn_like(parameter)
                parameter.add_(noise, alpha=0.05 * float(parameter.std()))
        paths.append(folder / f"m{seed}")
        model.save(str(paths[-1]))
    return paths


def pairs(seed: int) -> Pairs:
    rng = np.random.default_rng(seed)
    first, second = (
        [" ".join(rng.choice(WORDS[4:], 6)) for _ in range(40)] for _ in range(2)
    )
    return Pairs(first, second, rng.uniform(0, 5, 40))


def cosines(vectors: np.ndarray) -> np.ndarray:
    a, b = np.split(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), 2)
    return np.asarray((a * b).sum(axis=1))


def encoded(model: SentenceEncoder) -> np.ndarray:
    return cosines(model.transform([*pairs(0).first, *pairs(0).second]).astype(float))


def test_the_score_of_each_row_is_that_of_the_encoder_alone(
    members: list[Path], tmp_path: Path
) -> None:
    table = compare(members, pairs(0), X_select=pairs(1), **FAST)
    rows = {row.model: row for row in table.rows}
    encoders = [SentenceEncoder(path).fit() for path in members]
    alone, _ = evaluate_similarity(encoders, pairs(0), n_resamples=200)
    for path, interval in zip(members, alone, strict=True):
        row = rows[str(path)]
        assert row.score == pytest.approx(interval.value, abs=1e-12)
        assert row.interval == pytest.approx(interval[1:], abs=1e-12)
    average(members, tmp_path / "uniform")
    soup = SentenceEncoder(tmp_path / "uniform").fit()
    expected = spearmanr(encoded(soup), pairs(0).scores).statistic
    assert rows["uniform soup"].score == pytest.approx(expected, abs=1e-6)
    mean = np.mean([encoded(model) for model in encoders], axis=0)
    expected = spearmanr(mean, pairs(0).scores).statistic
    assert rows["prediction ensemble"].score == pytest.approx(expected, abs=1e-6)
    assert rows["prediction ensemble"].cost.n_models == 3
    greedy = [Path(name) for name in rows["greedy soup"].members]
    average(greedy, tmp_path / "greedy")
    chosen = SentenceEncoder(tmp_path / "greedy").fit()
    expected = spearmanr(encoded(chosen), pairs(0).scores).statistic
    assert rows["greedy soup"].score == pytest.approx(expected, abs=1e-6)
    assert "fitted ensemble" in rows


def test_parameters_and_operations_are_those_of_the_modules(
    members: list[Path],
) -> None:
    from sentence_transformers import SentenceTransformer

    models = [SentenceTransformer(str(path), device="cpu") for path in members[:2]]
    table = compare(models, pairs(0), **FAST)
    cost, model = table.rows[0].cost, models[0]
    assert [row.kind for row in table.rows] == ["member", "member", "soup", "ensemble"]
    sizes = [parameter.numel() for parameter in model.parameters()]
    assert cost.parameters == sum(sizes)
    # Two texts of six words: attention, feed-forward layer, pooler, dense layer.
    per_text = 4 * 2 * 6 * 8 * 8 + 2 * 2 * 6 * 8 * 8 + 2 * 2 * 6 * 6 * 8
    per_text += 2 * 8 * 8 + 2 * 8 * 3
    assert cost.flops is not None
    assert cost.flops <= 2 * per_text  # equal texts are encoded once
    assert cost.flops > per_text


def test_word_vectors_have_an_ensemble_only(rng: np.random.Generator) -> None:
    tables = [dict(zip(WORDS, rng.normal(size=(7, 4)), strict=True)) for _ in range(2)]
    embedders = [SentenceEmbedder(vectors, weights=None).fit() for vectors in tables]
    table = compare(embedders, pairs(0), **FAST)
    assert [row.kind for row in table.rows] == ["member", "member", "ensemble"]
    assert any("averages of parameters are left out" in note for note in table.notes)


def test_wrong_pairs_are_reported(members: list[Path]) -> None:
    with pytest.raises(ValueError, match="y must be None for pairs"):
        compare(members, pairs(0), np.zeros(40))
    with pytest.raises(TypeError, match="X_select must be pairs"):
        compare(members, pairs(0), X_select=["a", "b"])
    with pytest.raises(ValueError, match="X_select must be other samples"):
        compare(members, pairs(0), X_select=pairs(0))
