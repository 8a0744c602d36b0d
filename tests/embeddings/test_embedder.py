"""SentenceEmbedder: what comes out, of which texts, and what is kept of it."""

from __future__ import annotations

import json
import pickle
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from sklearn.base import clone

from ensembles.embeddings.auto_model import load_model
from ensembles.embeddings.embedder import SentenceEmbedder
from ensembles.embeddings.pooling.builtin import POOLINGS
from ensembles.embeddings.tokenization.coverage import Coverage
from ensembles.embeddings.vectors import lookup as counting
from ensembles.embeddings.vectors.read import read_vectors

RNG = np.random.default_rng(5)
WORDS = ["el", "niño", "come", "pan", "the", "cat", "日本", "straße", "ü", "_1"]
MATRIX = RNG.normal(size=(len(WORDS), 6)).astype(np.float32)
ROW = dict(zip(WORDS, MATRIX, strict=True))
TEXTS = [
    "El niño come pan",
    "the cat, the cat!",
    "日本 Straße",
    "",
    "nothing known here",
    "pan pan ü _1 the",
    "come come come el cat niño the pan",
]


def made(**params: Any) -> SentenceEmbedder:
    params.setdefault("weights", None)
    return SentenceEmbedder((WORDS, MATRIX), **params)


def rows(text: str) -> Any:
    found = [ROW[w] for w in text.lower().replace(",", "").replace("!", "").split()]
    return np.array(found, np.float64)


def test_the_mean_is_that_of_the_words() -> None:
    found = made().fit().transform(TEXTS[:3])
    np.testing.assert_allclose(found, [rows(t).mean(0) for t in TEXTS[:3]], atol=1e-6)
    assert found.dtype == np.float32


@pytest.mark.parametrize("rule", POOLINGS)
@pytest.mark.parametrize("weights", [None, "idf", "sif"])
def test_loops_give_what_the_function_of_a_pooling_gives(
    rule: str, weights: Any
) -> None:
    embedder = made(rule=rule, weights=weights).fit(TEXTS)
    average = embedder._averager
    ragged = average.lookup.row_tokenizer(TEXTS)
    expected = POOLINGS[rule](ragged, MATRIX, embedder.weights_, divide=average.divide)
    np.testing.assert_allclose(embedder.transform(TEXTS), expected, atol=2e-6)
    np.testing.assert_array_equal(expected[3:5], 0)


def test_several_rules_stand_side_by_side() -> None:
    rules = ["mean", "hierarchical", "maximum"]
    found = made(rule=rules).fit().transform(TEXTS)
    alone = [made(rule=rule).fit().transform(TEXTS) for rule in rules]
    np.testing.assert_array_equal(found, np.hstack(alone))


def test_hierarchical_pooling_is_worked_out_by_hand() -> None:
    vectors = {"a": [1.0, 0.0], "b": [3.0, -2.0], "c": [5.0, 0.0]}
    embedder = SentenceEmbedder(
        vectors, weights=None, rule="hierarchical", rule_params={"window": 2}
    ).fit()
    # Means of a b and of b c are [2, -1] and [4, -1].
    np.testing.assert_array_equal(embedder.transform(["a b c", "a"]), [[4, -1], [1, 0]])


def test_texts_that_are_empty_or_missing_are_zeros() -> None:
    embedder = made(whiten=True, normalize=True).fit(TEXTS)
    found = embedder.transform(["", "xyz", None, float("nan"), np.nan, "pan"])
    np.testing.assert_array_equal(found[:5], 0)
    assert np.linalg.norm(found[5]) == pytest.approx(1)
    assert embedder.transform([]).shape == (0, 6)


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"weights": "sif", "remove_components": 1},
        {"weights": "usif", "whiten": True, "normalize": True},
        {"rule": ["mean", "maximum", "power_mean"], "n_components": 4},
        {"dtype": "int8"},
        {"rule": "hierarchical"},
    ],
)
def test_a_vector_does_not_depend_on_what_stands_beside_it(params: Any) -> None:
    embedder = made(**params).fit(TEXTS)
    together = embedder.transform(TEXTS)
    alone = np.concatenate([embedder.transform([text]) for text in TEXTS])
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(together[::-1], embedder.transform(TEXTS[::-1]))
    np.testing.assert_array_equal(
        together, embedder.set_params(n_jobs=2).transform(TEXTS)
    )


def test_columns_of_any_library_are_texts() -> None:
    embedder = made().fit()
    expected = embedder.transform(TEXTS)
    kinds: list[Any] = [tuple(TEXTS), np.array(TEXTS), np.array(TEXTS, object)]
    kinds += [iter(TEXTS), (text for text in TEXTS)]
    if "pandas" in sys.modules or pytest.importorskip("pandas"):
        pandas = pytest.importorskip("pandas")
        kinds += [pandas.Series(TEXTS), pandas.Series(TEXTS, dtype=object)]
    polars = pytest.importorskip("polars")
    kinds += [polars.Series(TEXTS), polars.Series(TEXTS, dtype=polars.Categorical)]
    pyarrow = pytest.importorskip("pyarrow")
    kinds += [pyarrow.array(TEXTS), pyarrow.chunked_array([TEXTS[:2], TEXTS[2:]])]
    for kind in kinds:
        np.testing.assert_array_equal(embedder.transform(kind), expected)


def test_generators_may_be_fitted() -> None:
    found = made(weights="sif", whiten=True).fit(text for text in TEXTS)
    expected = made(weights="sif", whiten=True).fit(TEXTS)
    np.testing.assert_array_equal(found.transform(TEXTS), expected.transform(TEXTS))
    at_once = made(weights="sif", whiten=True).fit_transform(text for text in TEXTS)
    np.testing.assert_array_equal(at_once, expected.transform(TEXTS))


@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [
        ("one text", ValueError, "pass .text."),
        (np.array([["a", "b"]]), ValueError, "must be one column"),
        ([["pan", "de"], ["gato"]], TypeError, "use tokenizer='whitespace'"),
        (3, TypeError, "must be a sequence"),
        ([b"pan"], TypeError, "texts.0. is b'pan'"),
        (["pan", 3], TypeError, "texts.1. is 3"),
    ],
)
def test_what_is_no_column_of_texts_is_reported(
    texts: Any, error: type[Exception], message: str
) -> None:
    embedder = made().fit()
    for method in (embedder.fit, embedder.transform):
        with pytest.raises(error, match=message):
            method(texts)


@pytest.mark.parametrize("package", ["pandas", "polars", "pyarrow"])
def test_frames_of_several_columns_must_be_told_which(package: str) -> None:
    library = pytest.importorskip(package)
    make = library.table if package == "pyarrow" else library.DataFrame
    several = make({"text": TEXTS, "other": TEXTS})
    with pytest.raises(ValueError, match=r"select it with X\['text'\]"):
        made().fit(several)
    expected = made().fit_transform(TEXTS)
    np.testing.assert_array_equal(made().fit_transform(make({"text": TEXTS})), expected)
    column = several.column("text") if package == "pyarrow" else several["text"]
    np.testing.assert_array_equal(made().fit_transform(column), expected)
    array = np.array(TEXTS, object)[:, None]
    np.testing.assert_array_equal(made().fit_transform(array), expected)


def test_words_are_put_in_small_letters_where_the_vectors_are() -> None:
    assert made().fit().lowercase_
    capital = SentenceEmbedder({"Pan": [1.0], "pan": [2.0]}, weights=None).fit()
    assert not capital.lowercase_
    assert capital.transform(["Pan pan PAN"]).tolist() == [[1.5]]
    told = SentenceEmbedder({"Pan": [1.0], "pan": [2.0]}, weights=None, lowercase=True)
    assert told.fit().transform(["Pan pan PAN"]).tolist() == [[2.0]]


def test_accents_are_kept_and_composed() -> None:
    vectors = {"hacia": [1.0], "hacía": [2.0], "groß": [3.0], "😀": [4.0]}
    embedder = SentenceEmbedder(vectors, weights=None).fit()
    decomposed = "haci\u0301a"
    found = embedder.transform(["hacia", "hacía", decomposed, "GROß"])
    assert found.ravel().tolist() == [1, 2, 2, 3]
    by_space = SentenceEmbedder(vectors, weights=None, tokenizer="whitespace").fit()
    assert by_space.transform(["😀 hacia"]).tolist() == [[2.5]]


def test_any_callable_may_part_texts() -> None:
    vectors = {"日": [1.0], "本": [3.0]}
    embedder = SentenceEmbedder(vectors, weights=None, tokenizer=list).fit(["日本"])
    assert embedder.transform(["日本", "本"]).tolist() == [[2.0], [3.0]]
    with pytest.raises(ValueError, match="is a callable cannot be saved"):
        embedder.save("anywhere")


@pytest.mark.parametrize("lowercase", [False, True])
@pytest.mark.parametrize("found", ["el", None, [b"el"], ["el", 1], 3])
def test_what_is_no_list_of_words_is_refused(found: Any, lowercase: bool) -> None:
    embedder = made(tokenizer=lambda _: found, lowercase=lowercase).fit()
    with pytest.raises(TypeError, match="must return a list of str for a text, found"):
        embedder.transform(["el pan"])


def test_a_pickle_holds_one_table_whatever_was_asked_before() -> None:
    matrix = np.ones((len(WORDS), 5000), np.float32)
    embedder = SentenceEmbedder((WORDS, matrix), weights=None).fit()
    before = len(pickle.dumps(embedder))
    embedder.transform(TEXTS)
    assert len(pickle.dumps(embedder)) == before < 1.5 * matrix.nbytes


def test_unknown_words_may_be_an_error() -> None:
    embedder = made(unknown="error").fit(["el pan"])
    with pytest.raises(ValueError, match="no vector for 'gato', in the text 'el gato'"):
        embedder.transform(["el pan", "el gato"])
    with pytest.raises(ValueError, match="no vector for 'gato'"):
        made(unknown="error").fit(["gato"])
    with pytest.raises(ValueError, match="requires vectors with n-grams"):
        made(unknown="subword").fit()
    with pytest.raises(ValueError, match="unknown must be one of"):
        made(unknown="drop").fit()


def test_coverage_is_reported() -> None:
    embedder = made().fit(["el pan gato perro", "el cat"])
    assert embedder.coverage_ == pytest.approx(4 / 6)
    shares = embedder.coverage(["el gato", "", "pan"])
    np.testing.assert_array_equal(shares, [0.5, np.nan, 1])
    assert np.isnan(made().fit().coverage_)
    with pytest.warns(UserWarning, match=r"only 33% of .*; missing: 'gato', 'perro'"):
        made().fit(["gato perro pan"])


def test_formats_of_the_result() -> None:
    plain = made().fit(TEXTS).transform(TEXTS)
    for dtype in ("float16", "float64"):
        found = made(dtype=dtype).fit(TEXTS).transform(TEXTS)
        np.testing.assert_array_equal(found, plain.astype(dtype))
    embedder = made(dtype="int8").fit(TEXTS)
    levels = embedder.transform(TEXTS)
    assert levels.dtype == np.int8
    assert np.abs(levels).max() == 127
    assert embedder.scale_ is not None
    assert embedder.scale_ == np.abs(plain).max()
    np.testing.assert_allclose(
        levels * (embedder.scale_ / 127), plain, atol=embedder.scale_ / 254 + 1e-6
    )
    bits = made(dtype="binary").fit(TEXTS)
    found = bits.transform(TEXTS)
    assert found.shape == (7, 1)
    assert bits.get_feature_names_out().tolist() == ["sentenceembedder0"]
    np.testing.assert_array_equal(np.unpackbits(found, axis=1)[:, :6], plain > 0)
    np.testing.assert_array_equal(np.unpackbits(found, axis=1)[:, 6:], plain[:, :2] > 0)
    with pytest.raises(
        ValueError, match=r"dtype='int8' \(--dtype int8\) requires texts"
    ):
        made(dtype="int8").fit()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"rule": "maen"}, "did you mean 'mean'"),
        ({"rule": []}, "at least one pooling"),
        ({"dtype": "int16"}, "dtype must be one of"),
        ({"remove_components": 7}, "from 0 to 6"),
        ({"remove_components": 1.0}, "must be an integer"),
        ({"n_components": 0}, "of at least 1; found 0"),
        ({"rule": "power_mean", "rule_params": {"p": 0}}, "p of 'power_mean'"),
        ({"rule": "hierarchical", "rule_params": {"window": 0}}, "window of"),
        (
            {"weights": "sif", "weights_params": {"a": -1}},
            "a of 'sif' must be positive",
        ),
        (
            {"weights": "zipf", "weights_params": {"a": -1}},
            "a of 'zipf' must be positive",
        ),
        ({"remove_components": 1}, "at least 1 texts with known words"),
    ],
)
def test_wrong_parameters_are_reported(params: Any, message: str) -> None:
    texts = [] if params == {"remove_components": 1} else TEXTS
    with pytest.raises(ValueError, match=message):
        made(**params).fit(texts)


def test_parameters_may_be_numbers_of_numpy() -> None:
    for weights, name, value in (
        ("sif", "a", np.float32(0.5)),
        ("usif", "length", np.int32(3)),
    ):
        common = {"rule": "power_mean", "weights": weights}
        params = {"rule_params": {"p": np.int64(5)}, "weights_params": {name: value}}
        plain = {"rule_params": {"p": 5}, "weights_params": {name: value.item()}}
        vectors = made(**common, **params).fit_transform(TEXTS)
        expected = made(**common, **plain).fit_transform(TEXTS)
        assert vectors.tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"rule_params": {"p": 3}}, r"of 'mean': found 'p' \(known: none\)"),
        (
            {"rule": ["power_mean", "hierarchical"], "rule_params": {"a": 3}},
            r"of 'power_mean', 'hierarchical': found 'a' \(known: p, window\)",
        ),
        ({"weights_params": {"a": 1}}, r"of no weighting: found 'a' \(known: none\)"),
        (
            {"weights": "sif", "weights_params": {"p": 3}},
            r"of 'sif': found 'p' \(known: a\)",
        ),
        (
            {"weights": {"pan": 0.5}, "weights_params": {"a": 3}},
            "weights_params must name parameters of no weighting",
        ),
    ],
)
def test_unknown_parameters_of_rule_and_weights_are_refused(
    params: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        made(**params).fit(TEXTS)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"rule": 3}, "^rule must be a name or a list of names, found 3$"),
        ({"rule_params": "p=3"}, "^rule_params must be a dict or None, found 'p=3'"),
        ({"rule_params": [1]}, r"or None, found \[1\]$"),
        ({"weights_params": 3}, "^weights_params must be a dict or None, found 3$"),
    ],
)
def test_parameters_of_another_type_are_refused(params: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        made(**params).fit(TEXTS)


FOLDED: list[dict[str, Any]] = [
    {},
    {"weights": "sif", "remove_components": 1},
    {"weights": "usif", "whiten": True, "n_components": 3, "normalize": True},
    {"tokenizer": "whitespace", "lowercase": False},
    {"tokenizer": r"\b\w\w+\b", "dtype": "float16"},
    {"weights": "zipf", "dtype": "int8"},
]
OWN: list[dict[str, Any]] = [
    {"weights": "idf", "whiten": True},
    {"rule": ["mean", "minimum"], "n_components": 5},
    {"weights": {"pan": 0.0}},
    {"rule": ["mean", "maximum"], "weights": "sif", "weights_params": {"a": 1e-2}},
    {
        **{"rule": "power_mean", "rule_params": {"p": 5}},
        **{"weights": "usif", "weights_params": {"length": 9}},
    },
    {"weights": "sif", "rule": "maximum", "n_components": np.int64(3)},
    {"tokenizer": r"(?P<word>\w+)", "weights": "sif"},
    {
        "weights": np.linspace(0, 1, len(WORDS)),
        "rule": "power_mean",
        "rule_params": {"p": 5},
    },
]


@pytest.mark.parametrize("params", FOLDED + OWN)
def test_what_is_saved_gives_the_same_vectors(params: Any, tmp_path: Path) -> None:
    embedder = made(**params).fit(TEXTS)
    embedder.save(tmp_path / "saved")
    loaded = SentenceEmbedder.load(tmp_path / "saved")
    expected = embedder.transform([*TEXTS, None])
    found = loaded.transform([*TEXTS, None])
    slack = (
        1
        if expected.dtype == np.int8
        else 1e-3
        if expected.dtype == np.float16
        else 2e-6
    )
    np.testing.assert_allclose(found.astype(float), expected.astype(float), atol=slack)
    assert found.dtype == expected.dtype
    assert loaded.coverage_ == embedder.coverage_
    names = embedder.get_feature_names_out().tolist()
    assert loaded.get_feature_names_out().tolist() == names
    loaded.save(tmp_path / "again")
    again = SentenceEmbedder.load(tmp_path / "again").transform([*TEXTS, None])
    np.testing.assert_array_equal(again, found)
    with pytest.raises(FileExistsError, match="force=True"):
        loaded.save(tmp_path / "saved")
    loaded.save(tmp_path / "again", force=True)
    assert {p.name for p in tmp_path.iterdir()} == {"saved", "again"}


@pytest.mark.parametrize("params", [{"weights": None}, {"weights": {"pan": 0.0}}])
def test_zeros_stay_zeros_when_they_are_saved(params: Any, tmp_path: Path) -> None:
    matrix = MATRIX.copy()
    matrix[4] = 0
    embedder = SentenceEmbedder((WORDS, matrix), whiten=True, **params).fit(TEXTS)
    embedder.save(tmp_path / "saved")
    texts = ["the", "the pan", "pan", "cat"]
    found = SentenceEmbedder.load(tmp_path / "saved").transform(texts)
    np.testing.assert_allclose(found, embedder.transform(texts), atol=2e-6)
    assert not found[0].any()


def test_what_was_saved_for_us_alone_is_no_table_for_a_mean(tmp_path: Path) -> None:
    made(rule=["mean", "maximum"], weights="zipf").fit().save(tmp_path / "own")
    assert not read_vectors(tmp_path / "own").preweighted
    made(weights="zipf", normalize=True).fit().save(tmp_path / "folded")
    folded = read_vectors(tmp_path / "folded")
    assert folded.preweighted
    assert folded.normalize


def test_a_link_to_a_folder_is_replaced_by_a_folder(tmp_path: Path) -> None:
    made().fit().save(tmp_path / "first")
    (tmp_path / "link").symlink_to(tmp_path / "first")
    made(normalize=True).fit().save(tmp_path / "link", force=True)
    assert read_vectors(tmp_path / "link").normalize
    assert not read_vectors(tmp_path / "first").normalize
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match="is a file, which a folder does not"):
        made().fit().save(tmp_path / "file", force=True)
    assert {p.name for p in tmp_path.iterdir()} == {"first", "link", "file"}


def test_a_few_broken_capitals_do_not_change_a_table() -> None:
    words = [f"w{i}" for i in range(200)]
    for broken, expected in (([], True), (["nÃo"], True), (["A", "B", "C"], False)):
        tokens = [*words, *broken]
        vectors = (tokens, np.ones((len(tokens), 2)))
        assert SentenceEmbedder(vectors, weights=None).fit().lowercase_ is expected


def test_tokens_that_are_not_composed_are_met() -> None:
    vectors = {"cafe\u0301": [1.0, 2.0], "pan": [0.0, 1.0]}
    embedder = SentenceEmbedder(vectors, weights=None).fit()
    for text in ("caf\u00e9", "cafe\u0301", "Cafe\u0301"):
        assert embedder.transform([text]).tolist() == [[1, 2]]


@pytest.mark.parametrize("params", FOLDED[:5])
def test_what_is_folded_is_a_model_of_others(params: Any, tmp_path: Path) -> None:
    model2vec = pytest.importorskip("model2vec")
    made(**params).fit(TEXTS).save(tmp_path / "saved")
    expected = made(**params).fit(TEXTS).transform(TEXTS)
    found = model2vec.StaticModel.from_pretrained(tmp_path / "saved").encode(TEXTS)
    np.testing.assert_allclose(
        found, expected, atol=1e-3 if "dtype" in params else 2e-6
    )


def test_sentence_transformers_reads_what_is_folded(tmp_path: Path) -> None:
    transformers = pytest.importorskip("sentence_transformers")
    embedder = made(weights="sif", remove_components=1).fit(TEXTS)
    embedder.save(tmp_path / "saved")
    model = transformers.SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    known = [text for text in TEXTS if text and "known" not in text]
    np.testing.assert_allclose(
        model.encode(known), embedder.transform(known), atol=2e-6
    )


def test_others_refuse_what_they_could_not_use(tmp_path: Path) -> None:
    model2vec = pytest.importorskip("model2vec")
    made(rule="maximum").fit().save(tmp_path / "saved")
    with pytest.raises(Exception, match="embeddings"):
        model2vec.StaticModel.from_pretrained(tmp_path / "saved")


def test_a_clone_of_what_was_loaded_is_the_same_when_fitted(tmp_path: Path) -> None:
    made(weights="sif", remove_components=1).fit(TEXTS).save(tmp_path / "saved")
    loaded = SentenceEmbedder.load(tmp_path / "saved")
    again = clone(loaded).fit(TEXTS)
    np.testing.assert_array_equal(again.transform(TEXTS), loaded.transform(TEXTS))


def test_words_that_occur_twice_are_saved_once(tmp_path: Path) -> None:
    vectors = read_vectors((["a", "b", "a"], [[1.0], [2.0], [3.0]]))
    with pytest.warns(UserWarning, match="duplicate tokens"):
        embedder = SentenceEmbedder(vectors, weights=None).fit()
    embedder.save(tmp_path / "saved")
    found = SentenceEmbedder.load(tmp_path / "saved").transform(["a b"])
    assert found.tolist() == [[1.5]]


DAMAGED: list[tuple[tuple[str, ...], Any]] = [
    (("version",), 3),
    (("parameters",), None),
    (("parameters",), [1]),
    (("parameters", "dtype"), "int16"),
    (("parameters", "params"), None),
    (("parameters", "rule"), ["maen"]),
    (("parameters", "unknown"), "guess"),
    (("parameters", "rule_params"), {"q": 1}),
    (("state",), []),
    (("state", "coverage"), "much"),
    (("state", "scale"), 1.0),
    (("state", "divide"), "sum"),
    (("state", "oov_weight"), []),
]


@pytest.mark.parametrize(("keys", "value"), DAMAGED)
def test_a_damaged_configuration_is_one_clear_error(
    keys: tuple[str, ...], value: Any, tmp_path: Path
) -> None:
    made(rule=["mean", "maximum"]).fit(TEXTS).save(tmp_path / "saved")
    path = tmp_path / "saved" / "config.json"
    config = json.loads(path.read_text())
    section = config["ensembles"]
    for key in keys[:-1]:
        section = section[key]
    section[keys[-1]] = value
    path.write_text(json.dumps(config))
    message = (
        "is damaged, or SentenceEmbedder.save did not write it|must have version 2"
    )
    with pytest.raises(ValueError, match=message):
        SentenceEmbedder.load(tmp_path / "saved")


@pytest.mark.parametrize("read", [SentenceEmbedder.load, read_vectors, load_model])
def test_another_version_of_the_format_is_refused_by_every_reader(
    read: Any, tmp_path: Path
) -> None:
    made().fit(TEXTS).save(tmp_path / "saved")
    path = tmp_path / "saved" / "config.json"
    config = json.loads(path.read_text())
    config["ensembles"]["version"] = 1
    path.write_text(json.dumps(config))
    message = "version 2 .* found 1; fit the embedder again"
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "saved")


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"rule": None}, "rule must be a name or a list of names, found None"),
        ({"rule_params": ["p"]}, "rule_params must be a dict .* found"),
        ({"weights_params": "a"}, "weights_params must be a dict .* found 'a'"),
    ],
)
def test_parameters_of_another_type_are_named(
    params: dict[str, Any], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        made(**params).fit(TEXTS)


def test_damaged_weights_and_projections_are_refused(tmp_path: Path) -> None:
    embedder = made(rule="maximum", weights="sif", whiten=True).fit(TEXTS)
    embedder.save(tmp_path / "saved")
    path = tmp_path / "saved" / "model.safetensors"
    tensors = load_file(path)
    wrong = (
        ("row_weights", np.ones(2, np.float32)),
        ("projection.matrix", np.ones((2, 2))),
        ("projection.mean", np.ones(2)),
    )
    for name, value in wrong:
        save_file({**tensors, name: value}, path)
        with pytest.raises(ValueError, match="is damaged"):
            SentenceEmbedder.load(tmp_path / "saved")


def test_a_directory_of_another_kind_is_reported(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="save did not write"):
        SentenceEmbedder.load(tmp_path)


def test_pickles_stand_by_themselves(tmp_path: Path) -> None:
    path = tmp_path / "v.safetensors"
    from ensembles.embeddings.vectors.write import write_vectors

    write_vectors((WORDS, MATRIX), path)
    embedder = SentenceEmbedder(path, rule=["mean", "hierarchical"]).fit(TEXTS)
    kept = pickle.dumps(embedder)
    path.unlink()
    np.testing.assert_array_equal(
        pickle.loads(kept).transform(TEXTS), embedder.transform(TEXTS)
    )


def test_clones_share_vectors_that_were_read() -> None:
    vectors = read_vectors((WORDS, MATRIX))
    assert clone(SentenceEmbedder(vectors)).vectors is vectors


def test_pieces_of_a_tokenizer_are_saved_with_it(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    model2vec = pytest.importorskip("model2vec")
    pieces = ["[UNK]", "pan", "##es", "el", "come"]
    ids = {piece: number for number, piece in enumerate(pieces)}
    words = tokenizers.models.WordPiece(ids, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(words)
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    texts = ["El panes come", "pan", "gato el", ""]
    embedder = SentenceEmbedder(
        (pieces, MATRIX[:5]), tokenizer=tokenizer, whiten=True, n_components=2
    ).fit(texts)
    embedder.save(tmp_path / "saved")
    loaded = SentenceEmbedder.load(tmp_path / "saved")
    expected = embedder.transform(texts)
    # A word of no known piece is skipped by all.
    np.testing.assert_allclose(loaded.transform(texts), expected, atol=1e-5)
    model = model2vec.StaticModel.from_pretrained(tmp_path / "saved")
    np.testing.assert_allclose(model.encode(texts), expected, atol=1e-5)
    made(rule="maximum").fit().save(tmp_path / "own")
    few = SentenceEmbedder((pieces[:3], MATRIX[:3]), tokenizer=tokenizer)
    fewer = few.fit(["pan panes"])
    with pytest.raises(ValueError, match="must have a vector to save"):
        fewer.save(tmp_path / "fewer")


LOST = {"good": [1.0, 0.0], "u": [0.0, 1.0], "s": [0.0, 2.0], "c": [0.0, 3.0]}
LOST |= {
    token: [2.0, 2.0] for token in ("😂", "❤\ufe0f", "u.s.", "c++", "n't", ".", ":)")
}


@pytest.mark.parametrize("token", ["😂", "❤\ufe0f", "u.s.", "c++", "n't"])
def test_coverage_tells_of_tokens_that_the_tokenizer_cannot_reach(token: str) -> None:
    embedder = SentenceEmbedder(LOST, weights=None).fit(
        [f"good {token}", *["good"] * 9]
    )
    cut = [part for part in re.findall(r"\w+", token) if part]
    known = 1 + sum(part in LOST for part in cut)
    share = known / (1 + len(cut) + 1)
    assert embedder.coverage([f"good {token}", "good"]).tolist() == [share, 1.0]
    assert embedder.coverage_ == (known + 9) / (1 + len(cut) + 10)
    whole = SentenceEmbedder(LOST, weights=None, tokenizer="whitespace").fit()
    assert whole.coverage([f"good {token}"]).tolist() == [1.0]
    assert whole.transform([token]).tolist() == [[2.0, 2.0]]


def test_a_text_of_nothing_but_unreachable_tokens_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="splits or drops '😂', which are in it"):
        embedder = SentenceEmbedder(LOST, weights=None).fit(["😂 😂", "good 😂"])
    assert embedder.coverage_ == 0.25
    assert embedder.coverage(["😂 😂", "", "good"]).tolist()[::2] == [0.0, 1.0]


def test_punctuation_between_spaces_is_not_missed() -> None:
    embedder = SentenceEmbedder(LOST, weights=None).fit(["good .", "good :)"])
    assert embedder.coverage_ == 1.0


def test_tokens_are_counted_while_vectors_are_made() -> None:
    texts = ["pan pan", "", "xyz", *(["pan xyz"] * 5000)]
    for params in ({}, {"rule": "hierarchical"}, {"n_jobs": 2}):
        embedder = made(**params).fit()
        counts = Coverage()
        found = embedder.transform_counted(texts, counts)
        np.testing.assert_array_equal(found, embedder.transform(texts))
        assert (counts.n_texts, counts.n_empty) == (5003, 2)
        assert counts.n_tokens == 2 + 1 + 10_000
        assert counts.share == 5002 / 10_003
    assert Coverage().share is None


def test_ends_of_lines_in_a_text_are_white_space() -> None:
    # facebookresearch/fastText#435, deepdoctection/deepdoctection#80
    found = (
        made().fit().transform(["pan gato", "pan gato\n", "pan\ngato", "pan </s> gato"])
    )
    assert (found[:3] == found[0]).all()


def test_cut_tokens_of_many_texts_are_counted_in_a_sample(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(counting, "BLOCK", 2)
    vectors = {"c++": [1.0, 0.0], "good": [0.0, 1.0]}
    searched = []
    lost = counting.VocabularyLookup.split_tokens

    def noted(self: Any, part: Any) -> Any:
        searched.append(part)
        return lost(self, part)

    monkeypatch.setattr(counting.VocabularyLookup, "split_tokens", noted)
    few = SentenceEmbedder(vectors, weights=None).fit(["good good good c++"] * 14)
    assert len(searched) == 7
    many = SentenceEmbedder(vectors, weights=None).fit(["good good good c++"] * 400)
    assert len(searched) - 7 <= counting.N_SEARCHED + 1
    assert few.coverage_ == many.coverage_ == pytest.approx(3 / 5)
