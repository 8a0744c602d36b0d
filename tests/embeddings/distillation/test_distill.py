"""`distill`, from teachers made here to directories that others read."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer

from ensembles.embeddings import SentenceEmbedder, distill
from ensembles.embeddings.distillation.distill import read_corpus, starting_table
from ensembles.embeddings.tokenization.cached_tokenizer import RaggedRows

WORDS = ["red", "green", "blue", "dog", "cat", "sat", "ran", "the"]


@pytest.fixture
def texts(rng: np.random.Generator) -> list[str]:
    return [
        " ".join(rng.choice(WORDS[:-1], size=rng.integers(1, 7))) for _ in range(400)
    ]


class MeanTeacher:
    """L2-normalized means of word vectors, which a table can reproduce."""

    def __init__(self, dim: int = 6, seed: int = 0) -> None:
        self.vectors = np.random.default_rng(seed).normal(size=(len(WORDS), dim))

    def transform(self, texts: list[str]) -> Any:
        """Vectors of texts."""
        means = np.zeros((len(texts), self.vectors.shape[1]))
        for mean, text in zip(means, texts, strict=True):
            rows = [WORDS.index(word) for word in text.split() if word in WORDS]
            mean += self.vectors[rows].sum(axis=0)
        return means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-9)


def agreement(embedder: Any, teacher: Any, texts: list[str]) -> float:
    """Mean cosine of the vectors of both."""
    own, others = embedder.transform(texts), teacher.transform(texts)
    return float(np.mean((own * others).sum(axis=1)))


def test_a_teacher_that_averages_is_reproduced(texts: list[str]) -> None:
    teacher = MeanTeacher()
    embedder = distill(teacher, iter(texts), tokenizer="words", n_epochs=30)
    assert isinstance(embedder, SentenceEmbedder)
    assert agreement(embedder, teacher, texts) > 0.99
    ridge = distill(teacher, texts, tokenizer="words")
    assert 0.95 < agreement(ridge, teacher, texts) < 1
    lengths = np.linalg.norm(embedder.transform(["red dog", "dog"]), axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-6)
    assert not embedder.transform(["", "unknown"]).any()


def test_the_same_input_gives_the_same_bytes(texts: list[str], tmp_path: Path) -> None:
    options: dict[str, Any] = {"tokenizer": "words", "n_epochs": 1}
    runs = [
        distill(MeanTeacher(), texts, **options, n_jobs=n_jobs, cache=cache)
        for n_jobs, cache in [(1, None), (2, tmp_path / "c"), (-1, tmp_path / "c")]
    ]
    for number, embedder in enumerate(runs):
        embedder.save(tmp_path / str(number))
    for name in ("model.safetensors", "tokenizer.json"):
        contents = {(tmp_path / str(n) / name).read_bytes() for n in range(3)}
        assert len(contents) == 1


def test_a_token_of_no_text_has_the_vector_of_the_teacher(
    transformer: Any, tmp_path: Path
) -> None:
    embedder = distill(transformer, ["a b", "b", "a bb"], alpha=0.1)
    table = embedder.vectors_.matrix
    assert embedder.vectors_.tokens[8] == "good"
    alone = transformer.encode(["good"], normalize_embeddings=True)[0]
    cosine = table[8] @ alone / np.linalg.norm(table[8])
    assert cosine == pytest.approx(1, abs=1e-3)
    assert not table[:5].any()  # special tokens


def test_the_directory_is_read_by_others(transformer: Any, tmp_path: Path) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    texts = ["a b", "b b a", "good a", "a"]
    for n_components in (None, 3):
        embedder = distill(transformer, texts, n_components=n_components)
        folder = tmp_path / str(n_components)
        embedder.save(folder)
        expected = embedder.transform(texts)
        assert expected.shape == (4, n_components or 8)
        model = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
        np.testing.assert_allclose(model.encode(texts), expected, atol=1e-6)
        loaded = SentenceEmbedder.load(folder).transform(texts)
        np.testing.assert_allclose(loaded, expected, atol=1e-6)


def test_principal_axes_keep_the_cosines(texts: list[str]) -> None:
    teacher = MeanTeacher(dim=12)  # of rank 8 at most
    full = distill(teacher, texts, tokenizer="words")
    small = distill(teacher, texts, tokenizer="words", n_components=7)
    a, b = full.transform(texts[:50]), small.transform(texts[:50])
    np.testing.assert_allclose(a @ a.T, b @ b.T, atol=1e-4)


def test_duplicates_count_and_empty_texts_do_not(texts: list[str]) -> None:
    corpus = read_corpus(["b", "", "a", None, "b", float("nan"), "  ", "b"])
    assert corpus.texts == ["b", "a"]
    assert corpus.weights.tolist() == [3, 1]
    once = distill(MeanTeacher(), [*texts, *texts[:50] * 9], tokenizer="words")
    assert not np.allclose(
        once.vectors_.matrix,
        distill(MeanTeacher(), texts, tokenizer="words").vectors_.matrix,
        atol=1e-3,
    )


@pytest.mark.parametrize("texts", [[], ["", " "], [None]])
def test_no_texts_are_an_error(texts: list[Any]) -> None:
    with pytest.raises(ValueError, match="at least one text that is not empty"):
        distill(MeanTeacher(), texts, tokenizer="words")


def test_one_text_suffices() -> None:
    teacher = MeanTeacher()
    embedder = distill(teacher, ["red dog"], tokenizer="words", alpha=1e-4)
    assert agreement(embedder, teacher, ["red dog"]) > 0.99


def test_several_teachers_are_averaged(texts: list[str]) -> None:
    class Rotated(MeanTeacher):
        def transform(self, texts: list[str]) -> Any:
            return super().transform(texts)[:, ::-1]

    teacher = MeanTeacher()
    single = distill(teacher, texts, tokenizer="words")
    both = distill([teacher, Rotated()], texts, tokenizer="words")
    assert agreement(both, single, texts) > 0.999
    other = distill([teacher, MeanTeacher(dim=4)], texts, tokenizer="words")
    assert other.transform(["red"]).shape == (1, 6)


def test_texts_without_a_teacher_vector_are_left_out(texts: list[str]) -> None:
    strange = [*texts, "red unheard", "unheard"]
    embedder = distill(MeanTeacher(), strange, tokenizer="words")
    assert np.isfinite(embedder.vectors_.matrix).all()
    assert agreement(embedder, MeanTeacher(), texts) > 0.95


def test_progress_and_long_texts_are_reported(transformer: Any) -> None:
    calls: list[tuple[str, int, int]] = []
    with pytest.warns(UserWarning, match="1 of 2 texts are longer than the teacher"):
        distill(
            transformer,
            ["a b a b a b a b", "b"],
            n_epochs=1,
            progress=lambda *call: calls.append(call),
        )
    last = {name: (n_done, n_steps) for name, n_done, n_steps in calls}
    assert last == {
        "teacher: texts": (2, 2),
        "teacher: tokens": (9, 9),
        "ridge regression": (8, 8),
        "refinement": (2, 2),
    }


def test_a_cache_of_other_texts_is_warned_of(tmp_path: Path, texts: list[str]) -> None:
    options: dict[str, Any] = {"tokenizer": "words", "cache": tmp_path}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        distill(MeanTeacher(), texts, **options)
        distill(MeanTeacher(), texts, **options, alpha=1)
    with pytest.warns(UserWarning, match="vectors of other texts or of another teach"):
        distill(MeanTeacher(seed=1), texts, **options)


@pytest.mark.parametrize(
    "params",
    [
        {"alpha": -1.0},
        {"alpha": float("nan")},
        {"n_iter": -1},
        {"n_epochs": 1.5},
        {"n_words": 0},
        {"n_components": 0},
        {"n_components": 7},
        {"n_jobs": 0},
    ],
)
def test_wrong_parameters_are_reported(texts: list[str], params: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(params))):
        distill(MeanTeacher(), texts, tokenizer="words", **params)


def test_too_many_components_are_found_before_the_texts_are_embedded(
    texts: list[str],
) -> None:
    asked: list[int] = []

    class Teacher(MeanTeacher):
        """Counts the texts."""

        def transform(self, texts: list[str]) -> Any:
            """Vectors of texts."""
            asked.append(len(texts))
            return super().transform(texts)

    with pytest.raises(ValueError, match=r"n_components must be .* from 1 to 6"):
        distill(Teacher(), texts, tokenizer="words", n_components=7)
    assert asked == [1]


def test_sparse_vectors_of_a_teacher_are_refused(texts: list[str]) -> None:
    teacher = CountVectorizer().fit(texts)
    with pytest.raises(ValueError, match=r"dense vectors, found .* of CountVectorizer"):
        distill(teacher, texts, tokenizer="words")


class PairTeacher(MeanTeacher):
    """Adds a vector for "red dog", which no average of single words can."""

    def transform(self, texts: list[str]) -> Any:
        """Vectors of texts."""
        vectors = super().transform(texts)
        vectors += 2 * np.array([["red dog" in text] for text in texts]) * np.eye(6)[0]
        return vectors / np.maximum(
            np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9
        )


@pytest.mark.parametrize("n_components", [None, 5])
def test_phrases_have_vectors_that_are_saved(
    texts: list[str], tmp_path: Path, n_components: int | None
) -> None:
    teacher = PairTeacher()
    options: dict[str, Any] = {"tokenizer": "words", "alpha": 0.01}
    both: list[Any] = [
        distill(teacher, texts, **options, n_components=n_components, n_phrases=n)
        for n in (0, 20)
    ]
    words, phrases = both
    assert len(phrases.vectors_.phrases) == 20
    if n_components is None:
        better = agreement(phrases, teacher, texts) - agreement(words, teacher, texts)
        assert better > 0.02
    expected = phrases.transform(texts)
    assert not np.allclose(expected, words.transform(texts), atol=0.01)
    phrases.save(tmp_path / "phrases")
    loaded = SentenceEmbedder.load(tmp_path / "phrases")
    np.testing.assert_array_equal(loaded.transform(texts), expected)
    phrases.save(tmp_path / "int8", table_dtype="int8")
    small = SentenceEmbedder.load(tmp_path / "int8").transform(texts)
    assert (small * expected).sum(axis=1).min() > 0.999
    assert not (tmp_path / "phrases" / "modules.json").exists()


def test_phrases_of_a_transformer(transformer: Any, tmp_path: Path) -> None:
    texts = ["a b", "a b a", "a b b", "a b good", "good a b", "b a b"]
    embedder = distill(transformer, texts, n_phrases=9)
    assert embedder.vectors_.phrases is not None
    embedder.save(tmp_path / "t")
    loaded = SentenceEmbedder.load(tmp_path / "t")
    np.testing.assert_array_equal(loaded.transform(texts), embedder.transform(texts))
    np.testing.assert_array_equal(loaded.vectors_.phrases, embedder.vectors_.phrases)


@pytest.mark.parametrize("name", ["n_phrases", "n_epochs", "n_iter"])
def test_negative_counts_are_an_error(name: str) -> None:
    options: dict[str, Any] = {name: -1}
    with pytest.raises(ValueError, match=f"{name} must be"):
        distill(MeanTeacher(), ["red"], tokenizer="words", **options)


def test_the_starting_table_is_scaled_by_least_squares(
    rng: np.random.Generator,
) -> None:
    rows = RaggedRows(np.array([0, 1, 3, 2], np.int32), np.array([0, 3, 3, 4]))
    n_tokens = np.array([2, 0, 1])  # row 3 is a phrase
    targets, alone = rng.normal(size=(3, 4)), rng.normal(size=(3, 4))
    targets += 3 * alone[[0, 0, 2]]
    table = starting_table(rows, n_tokens, targets, alone, 4)
    assert not table[3].any()
    weights = 1e-3 / (1e-3 + 2 / 6) * np.ones((3, 1))
    sums = np.stack([(alone[0] + alone[1]) / np.sqrt(2), 0 * alone[0], alone[2]])
    sums *= weights
    factor = np.linalg.lstsq(sums.reshape(-1, 1), targets.ravel())[0]
    np.testing.assert_allclose(table[:3], factor * weights * alone, rtol=1e-5)


def test_the_vectors_of_the_first_teacher_are_those_of_this_run(
    texts: list[str], tmp_path: Path
) -> None:
    teachers = [MeanTeacher(seed=0), MeanTeacher(seed=1)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # "has vectors of another teacher"
        distill(teachers, texts, tokenizer="words", cache=tmp_path)


def test_a_teacher_is_needed(texts: list[str]) -> None:
    with pytest.raises(ValueError, match="teacher must be a model, or a list of at"):
        distill([], texts, tokenizer="words")
