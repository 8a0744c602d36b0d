"""Vectors of other libraries: read as those libraries read them."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from ensembles.embeddings.auto_model import load_model
from ensembles.embeddings.embedder import SentenceEmbedder
from ensembles.embeddings.vectors.read import read_vectors
from ensembles.embeddings.vectors.vector_table import VectorTable

DATA = Path(os.environ.get("ENSEMBLES_DATA", "absent")) / "vectors"
WORDS = ["[UNK]", "the", "cat", "sat", "##s", "."]
TEXTS = ["The cats sat.", "", "the dog", "cat cat"]
real = pytest.mark.skipif(not DATA.exists(), reason="ENSEMBLES_DATA is not set")


@pytest.fixture
def matrix(rng: np.random.Generator) -> Any:
    return rng.normal(size=(len(WORDS), 4)).astype(np.float32)


@pytest.fixture
def tokenizer() -> Any:
    tokenizers = pytest.importorskip("tokenizers")
    model = tokenizers.models.WordPiece(
        {word: row for row, word in enumerate(WORDS)}, unk_token="[UNK]"
    )
    found = tokenizers.Tokenizer(model)
    found.normalizer = tokenizers.normalizers.BertNormalizer()
    found.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    return found


def to_list(vectors: Any) -> SentenceEmbedder:
    return SentenceEmbedder(vectors, weights=None).fit()


def test_model2vec_directories_give_what_model2vec_gives(
    tmp_path: Path, matrix: Any, tokenizer: Any
) -> None:
    model2vec = pytest.importorskip("model2vec")
    model = model2vec.StaticModel(matrix, tokenizer)
    model.save_pretrained(tmp_path)
    expected = model.encode(TEXTS)
    found = to_list(tmp_path)
    np.testing.assert_allclose(found.transform(TEXTS), expected, atol=1e-6)
    np.testing.assert_allclose(to_list(model).transform(TEXTS), expected, atol=1e-6)
    assert found.vectors_.preweighted
    assert found.vectors_.normalize is False


def test_shared_and_scaled_rows_of_model2vec_are_read(
    tmp_path: Path, matrix: Any, tokenizer: Any
) -> None:
    model2vec = pytest.importorskip("model2vec")
    model = model2vec.StaticModel(
        matrix[:3],
        tokenizer,
        token_mapping=np.array([0, 1, 2, 2, 1, 0]),
        weights=np.linspace(0.5, 1, 6).astype(np.float32),
        normalize=True,
    )
    model.save_pretrained(tmp_path)
    embedder = SentenceEmbedder(tmp_path, weights=None, normalize=True).fit()
    np.testing.assert_allclose(
        embedder.transform(TEXTS), model.encode(TEXTS), atol=1e-6
    )
    assert embedder.vectors_.normalize is True


def test_word_weights_on_top_of_a_static_model_are_warned_of(
    tmp_path: Path, matrix: Any, tokenizer: Any
) -> None:
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    save_file({"embeddings": matrix}, tmp_path / "model.safetensors")
    with pytest.warns(UserWarning, match="already contain word weights"):
        SentenceEmbedder(tmp_path).fit(["the cat", "sat"])


def test_static_models_of_sentence_transformers_are_read(
    tmp_path: Path, matrix: Any, tokenizer: Any
) -> None:
    transformers = pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    static = StaticEmbedding(tokenizer, embedding_weights=matrix)
    model = transformers.SentenceTransformer(modules=[static], device="cpu")
    model.save(str(tmp_path / "static"))
    texts = ["The cats sat.", "cat cat"]  # without [UNK], which there has a row
    found = to_list(tmp_path / "static").transform(texts)
    np.testing.assert_allclose(found, model.encode(texts), atol=1e-6)


@pytest.mark.parametrize("name", ["embeddings.word_embeddings.weight", "wte.weight"])
def test_the_token_table_of_a_transformer_is_read(
    name: str, tmp_path: Path, matrix: Any, tokenizer: Any
) -> None:
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    other = np.zeros((2, 2), np.float32)
    save_file({"pooler.weight": other, name: matrix}, tmp_path / "model.safetensors")
    (tmp_path / "modules.json").write_text(
        json.dumps(
            [
                {"type": "sentence_transformers.models.Transformer", "path": ""},
                {"type": "sentence_transformers.models.Normalize", "path": "1"},
            ]
        )
    )
    vectors = read_vectors(tmp_path)
    np.testing.assert_array_equal(vectors.matrix, matrix)
    assert not vectors.preweighted
    assert vectors.normalize
    assert "[UNK]" not in vectors.vocabulary
    embedder = to_list(vectors)
    np.testing.assert_allclose(
        embedder.transform(["cats"]), [matrix[[2, 4]].mean(0)], rtol=1e-6
    )
    assert embedder.coverage(["the dog", ""]).tolist()[0] == 0.5


def test_torch_files_are_read_as_tensors_alone(
    tmp_path: Path, matrix: Any, tokenizer: Any
) -> None:
    torch = pytest.importorskip("torch")
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    path = tmp_path / "pytorch_model.bin"
    torch.save({"shared.weight": torch.from_numpy(matrix)}, path)
    np.testing.assert_array_equal(read_vectors(tmp_path).matrix, matrix)
    torch.save({"shared.weight": Path("code")}, path)
    with pytest.raises(ValueError, match="must be a complete PyTorch file"):
        read_vectors(tmp_path)


def test_broken_directories_are_reported(
    tmp_path: Path, matrix: Any, tokenizer: Any
) -> None:
    with pytest.raises(ValueError, match="found nothing"):
        read_vectors(tmp_path)
    save_file({"a": matrix}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="must have a table of tokens"):
        read_vectors(tmp_path)
    save_file({"embeddings": matrix}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"must have a tokenizer\.json"):
        read_vectors(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="not a complete tokenizer"):
        read_vectors(tmp_path)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match="limit must be None"):
        read_vectors(tmp_path, limit=3)
    save_file({"embeddings": matrix[:3]}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="they do not belong together"):
        read_vectors(tmp_path)
    outside = [{"type": "StaticEmbedding", "path": "../elsewhere"}]
    (tmp_path / "modules.json").write_text(json.dumps(outside))
    with pytest.raises(ValueError, match="path inside the directory"):
        read_vectors(tmp_path)
    (tmp_path / "modules.json").write_text("[")
    with pytest.raises(ValueError, match="is not JSON"):
        read_vectors(tmp_path)


@pytest.mark.parametrize("binary", [False, True])
def test_word2vec_files_of_gensim_are_read(
    binary: bool, tmp_path: Path, matrix: Any
) -> None:
    keyed = pytest.importorskip("gensim.models").KeyedVectors(4)
    keyed.add_vectors(WORDS, matrix)
    path = tmp_path / ("v.bin" if binary else "v.txt")
    keyed.save_word2vec_format(path, binary=binary)
    again = type(keyed).load_word2vec_format(path, binary=binary)
    for found in (read_vectors(path), read_vectors(again)):
        assert list(found.tokens) == again.index_to_key
        np.testing.assert_array_equal(found.matrix, again.vectors)
        assert found.counts is None  # those of gensim are made up


def test_counts_of_gensim_models_are_kept() -> None:
    gensim = pytest.importorskip("gensim.models")
    sentences = [["a", "b", "a"], ["a", "c"]] * 3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = gensim.Word2Vec(
            sentences, vector_size=4, min_count=1, seed=1, workers=1
        )
    found = read_vectors(model)
    assert found.counts is not None
    assert dict(zip(found.tokens, found.counts.tolist(), strict=True)) == {
        "a": 9,
        "b": 3,
        "c": 3,
    }
    assert SentenceEmbedder(model, frequencies="vectors").fit().weights_ is not None


@pytest.mark.parametrize("made_by", ["file", "object"])
def test_fasttext_models_of_gensim_are_read_with_their_ngrams(
    made_by: str, tmp_path: Path
) -> None:
    gensim = pytest.importorskip("gensim.models.fasttext")
    sentences = [["el", "niño", "come"], ["日本語", "el", "naïve"]] * 3
    model = gensim.FastText(
        sentences, vector_size=5, min_count=1, min_n=2, max_n=4, bucket=50, workers=1
    )
    path = tmp_path / "v.bin"
    with path.open("wb") as file:
        gensim.save_facebook_model(model, file)
    vectors = read_vectors(path if made_by == "file" else model.wv)
    np.testing.assert_allclose(vectors.matrix, model.wv.vectors, rtol=1e-4, atol=1e-6)
    assert list(vectors.tokens) == model.wv.index_to_key
    new = ["niños", "comer", "日本", "x"]
    assert vectors.ngrams is not None
    np.testing.assert_allclose(
        vectors.ngrams.vectors(new, vectors.vocabulary),
        [model.wv[word] for word in new],
        rtol=1e-4,
        atol=1e-6,
    )
    embedder = SentenceEmbedder(vectors, weights=None, unknown="subword").fit()
    expected = np.mean([model.wv[word] for word in ("el", "niños", "comer")], axis=0)
    np.testing.assert_allclose(
        embedder.transform(["El niños comer", ""]),
        [expected, np.zeros(5)],
        rtol=1e-4,
        atol=1e-6,
    )


@real
@pytest.mark.parametrize("name", ["small_vectors.bin", "small_vectors.txt"])
def test_real_word2vec_files_are_read_as_gensim_reads_them(name: str) -> None:
    keyed = pytest.importorskip("gensim.models").KeyedVectors
    expected = keyed.load_word2vec_format(DATA / name, binary=name.endswith("bin"))
    found = read_vectors(DATA / name)
    assert list(found.tokens) == expected.index_to_key
    np.testing.assert_array_equal(found.matrix, expected.vectors)


@real
def test_real_glove_and_fasttext_files_are_read_as_gensim_reads_them() -> None:
    models = pytest.importorskip("gensim.models")
    path = DATA / "glove_twitter_25d.txt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # gensim's own
        expected = models.KeyedVectors.load_word2vec_format(path, no_header=True)
        gc.collect()
    np.testing.assert_array_equal(read_vectors(path).matrix, expected.vectors)
    path = DATA / "lee_fasttext.bin"
    expected = models.fasttext.load_facebook_vectors(path)
    np.testing.assert_allclose(read_vectors(path).matrix, expected.vectors, atol=1e-6)


@real
def test_a_real_file_with_few_words_in_latin_1_is_read_with_a_warning() -> None:
    path = DATA / "pang_lee_polarity_fasttext.bin"
    with pytest.raises(ValueError, match="must be UTF-8"):
        read_vectors(path, errors="strict")
    with pytest.warns(UserWarning, match="5 of 1694 tokens .* are not UTF-8"):
        assert len(read_vectors(path).tokens) == 1694
    found = read_vectors(path, errors="replace")
    listed = DATA / "pang_lee_polarity_fasttext.vec"
    np.testing.assert_allclose(
        found.matrix, read_vectors(listed, errors="replace").matrix, atol=1e-4
    )


def folder(path: Path, matrix: Any, tokenizer: Any, config: Any = None) -> Path:
    """A directory of a static model, as model2vec writes it without modules.json."""
    path.mkdir()
    tokenizer.save(str(path / "tokenizer.json"))
    save_file({"embeddings": matrix}, path / "model.safetensors")
    if config is not None:
        (path / "config.json").write_text(json.dumps(config))
    return path


@pytest.mark.parametrize(
    "config",
    [
        {"normalize": True, "max_length": 512, "embedding_dtype": "float32"},
        {
            "normalize": True,
            "model_type": "model2vec",
            "architectures": ["StaticModel"],
        },
        {
            "normalize": True,
            "tokenizer_name": "some/one",
            "apply_pca": 256,
            "apply_zipf": 1,
        },
        {},
        None,
    ],
    ids=["0.10", "0.3", "0.1", "empty", "none"],
)
def test_folders_of_all_versions_of_model2vec_are_static(
    config: Any, tmp_path: Path, matrix: Any, tokenizer: Any
) -> None:
    path = folder(tmp_path / "m", matrix, tokenizer, config)
    found = load_model(path)
    assert isinstance(found, SentenceEmbedder)
    expected = matrix[[1, 2]].mean(axis=0)
    if config:  # which asks for it; the others do not
        expected /= np.linalg.norm(expected)
    np.testing.assert_allclose(found.transform(["the cat"]), [expected], rtol=1e-5)
    by_path = SentenceEmbedder(path, weights=None).fit()
    assert by_path.vectors_.normalize is bool(config)


def test_a_mapping_must_be_whole_numbers(
    tmp_path: Path, matrix: Any, tokenizer: Any
) -> None:
    path = folder(tmp_path / "m", matrix, tokenizer)
    for mapping in (np.zeros(6, np.float32), np.zeros((6, 1), np.int64)):
        tensors = {"embeddings": matrix, "mapping": mapping}
        save_file(tensors, path / "model.safetensors")
        with pytest.raises(
            ValueError, match="its mapping must be a 1-D array of integers"
        ):
            read_vectors(path)


def test_word_embeddings_of_sentence_transformers_are_read(tmp_path: Path) -> None:
    transformers = pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer import modules

    words = ["good", "film", "bad"]
    table = np.array([[1, 0, 2], [0, 1, 3], [-1, 0.5, 0]], np.float32)
    tokenizer = modules.tokenizer.WhitespaceTokenizer(words, stop_words=set())
    embeddings = modules.WordEmbeddings(tokenizer, table)
    pooling = modules.Pooling(3, "mean")
    model = transformers.SentenceTransformer(
        modules=[embeddings, pooling], device="cpu"
    )
    model.save(str(tmp_path / "m"))
    texts = ["good film", "bad film film"]
    expected = model.encode(texts)
    found = to_list(tmp_path / "m")
    np.testing.assert_allclose(found.transform(texts), expected, rtol=1e-6)
    np.testing.assert_allclose(
        load_model(tmp_path / "m").transform(texts), expected, rtol=1e-6
    )
    (listed,) = (tmp_path / "m").rglob("whitespacetokenizer_config.json")
    listed.write_text(json.dumps({"vocab": words[:2]}))
    with pytest.raises(ValueError, match="must have a vocab of 3 words"):
        read_vectors(tmp_path / "m")


STATIC = "sentence_transformers.models.StaticEmbedding"
DENSE = "sentence_transformers.models.Dense"
NORMALIZE = "sentence_transformers.models.Normalize"
POOLING = "sentence_transformers.models.Pooling"


@pytest.mark.parametrize(
    ("types", "files", "rest"),
    [
        ([STATIC, DENSE], {}, "the module Dense"),
        (
            [STATIC],
            {"": {"prompts": {"q": "the "}, "default_prompt_name": "q"}},
            "the default prompt 'the '",
        ),
        ([STATIC, NORMALIZE], {"": {"truncate_dim": 2}}, "truncate_dim 2"),
        ([STATIC, POOLING], {"1": {"pooling_mode": "max"}}, "the module Pooling"),
        (
            [STATIC, POOLING],
            {"1": {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}},
            "the module Pooling",
        ),
    ],
)
def test_what_a_table_lacks_of_its_model_is_warned_of(
    types: list[str],
    files: dict[str, Any],
    rest: str,
    tmp_path: Path,
    matrix: Any,
    tokenizer: Any,
) -> None:
    path = _sentence_transformer(tmp_path / "m", types, files, matrix, tokenizer)
    with pytest.warns(UserWarning, match=f"without {rest}; SentenceEncoder"):
        read_vectors(path)


@pytest.mark.parametrize(
    ("types", "files"),
    [
        ([STATIC, NORMALIZE], {"": {"prompts": {"q": ""}, "default_prompt_name": "q"}}),
        ([STATIC], {"": {"prompts": {"q": "the "}, "default_prompt_name": None}}),
        ([STATIC], {"": {"truncate_dim": None, "similarity_fn_name": "cosine"}}),
        ([STATIC, POOLING], {"1": {"pooling_mode": "mean", "include_prompt": True}}),
        (
            [STATIC, POOLING],
            {"1": {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}},
        ),
    ],
)
def test_a_table_that_is_all_of_its_model_is_not_warned_of(
    types: list[str],
    files: dict[str, Any],
    tmp_path: Path,
    matrix: Any,
    tokenizer: Any,
) -> None:
    path = _sentence_transformer(tmp_path / "m", types, files, matrix, tokenizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_vectors(path).preweighted


def _sentence_transformer(
    path: Path, types: list[str], files: dict[str, Any], matrix: Any, tokenizer: Any
) -> Path:
    """A directory with a table, of these modules and with configurations by folder."""
    folder(path, matrix, tokenizer)
    modules = [
        {"idx": k, "path": str(k) if k else "", "type": kind}
        for k, kind in enumerate(types)
    ]
    (path / "modules.json").write_text(json.dumps(modules))
    for name, content in files.items():
        place = path / name
        place.mkdir(exist_ok=True)
        kind = "config" if name else "config_sentence_transformers"
        (place / f"{kind}.json").write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("setting", ["prompt", "truncate_dim"])
def test_a_static_model_with_settings_is_run_by_sentence_transformers(
    setting: str, tmp_path: Path, matrix: Any, tokenizer: Any
) -> None:
    transformers = pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    settings: dict[str, Any] = {"truncate_dim": 2}
    if setting == "prompt":
        settings = {"prompts": {"q": "cat "}, "default_prompt_name": "q"}
    static = StaticEmbedding(tokenizer, embedding_weights=matrix)
    model = transformers.SentenceTransformer(modules=[static], device="cpu", **settings)
    model.save(str(tmp_path / "m"))
    texts = ["The cats sat.", "the"]
    found = load_model(tmp_path / "m").transform(texts)
    np.testing.assert_allclose(found, model.encode(texts), rtol=1e-6)


@pytest.mark.parametrize("name", ["config.json", "modules.json", "tokenizer.json"])
def test_pipes_and_devices_in_a_directory_are_refused(
    name: str, tmp_path: Path, matrix: Any, tokenizer: Any
) -> None:
    path = folder(tmp_path / "m", matrix, tokenizer)
    (path / name).unlink(missing_ok=True)
    os.mkfifo(path / name)
    readers: list[Any] = [read_vectors, load_model]
    if name == "config.json":
        readers.append(SentenceEmbedder.load)
    for read in readers:
        with pytest.raises(ValueError, match=f"{name}.* regular file"):
            read(path)
    (path / name).unlink()
    (path / name).symlink_to("/dev/zero")
    with pytest.raises(ValueError, match=f"{name}.* regular file"):
        read_vectors(path)


def test_deeply_nested_json_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[" * 100_000)
    for read in (read_vectors, load_model, SentenceEmbedder.load):
        with pytest.raises(ValueError, match="is not JSON"):
            read(tmp_path)


def test_a_weight_map_must_map(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    for wrong in (["a"], "a", 3):
        index.write_text(json.dumps({"weight_map": wrong}))
        with pytest.raises(
            ValueError, match="must have a weight_map of names to files"
        ):
            read_vectors(tmp_path)


@pytest.mark.parametrize(
    "name", ["minishlab/potion-base-8M", "all-MiniLM-L6-v2", "no.txt"]
)
def test_names_of_the_hub_are_told_how_to_be_fetched(name: str) -> None:
    for read in (read_vectors, load_model, to_list):
        with pytest.raises(FileNotFoundError, match=f"hf download {name} --local-dir"):
            read(name)


def test_an_array_alone_lacks_its_tokens(matrix: Any) -> None:
    with pytest.raises(
        TypeError, match=r"found an array: pass the pair \(tokens, array"
    ):
        read_vectors(matrix)


def test_tables_of_static_models_stay_mapped(
    tmp_path: Path, matrix: Any, tokenizer: Any
) -> None:
    path, n_rows = folder(tmp_path / "m", matrix, tokenizer), len(matrix)
    mapping, weights = np.arange(n_rows)[::-1].copy(), np.linspace(0.5, 2, n_rows)
    stored = matrix.astype(np.float16)
    tensors = {"embeddings": stored, "mapping": mapping, "weights": weights}
    save_file(tensors, path / "model.safetensors")
    table = read_vectors(path).matrix
    assert isinstance(table, VectorTable)
    assert table.stored.dtype == np.float16
    assert not table.stored.flags.owndata
    expected = stored[mapping].astype(np.float32) * weights.astype("f4")[:, None]
    np.testing.assert_array_equal(table, expected)
    found = SentenceEmbedder(path, weights=None).fit().transform(["the cat"])
    np.testing.assert_allclose(found, [expected[[1, 2]].mean(axis=0)], rtol=1e-6)


def test_tokens_by_id_are_those_of_the_tokenizer(
    tmp_path: Path, matrix: Any, tokenizer: Any
) -> None:
    vectors = read_vectors(folder(tmp_path / "m", matrix, tokenizer))
    ids = tokenizer.get_vocab()
    tokens = sorted(ids, key=ids.get)
    assert list(vectors.tokens) == tokens
    assert vectors.tokens[1:3] == tokens[1:3]
    assert vectors.tokens[-1] == tokens[-1]
    known = {t: n for t, n in ids.items() if n != vectors.unk_index}
    assert dict(vectors.vocabulary) == known
    assert "[NOT]" not in vectors.vocabulary
    assert len(vectors.vocabulary) == len(known)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", None])
@pytest.mark.parametrize("params", [{}, {"rule": "maximum", "weights": "zipf"}])
def test_saved_tables_of_every_dtype_are_read_back(
    params: dict[str, Any],
    dtype: str | None,
    tmp_path: Path,
    matrix: Any,
    tokenizer: Any,
) -> None:
    path = folder(tmp_path / "m", matrix, tokenizer)
    options = {"weights": None, **params}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a static model with weights
        embedder = SentenceEmbedder(path, **options).fit()
    embedder.save(tmp_path / "saved", table_dtype=dtype)
    again = SentenceEmbedder.load(tmp_path / "saved")
    table = again.vectors_.matrix
    stored = table.stored if isinstance(table, VectorTable) else table
    assert stored.dtype == np.dtype(dtype or "float32")
    texts = ["the cat", "cat", "the the", ""]
    tolerance = {"int8": 1 / 250, "float16": 5e-4}.get(dtype or "", 0)
    np.testing.assert_allclose(
        *(again.transform(texts), embedder.transform(texts)),
        atol=tolerance * abs(matrix).max(),
    )
    again.save(tmp_path / "again")
    twice = SentenceEmbedder.load(tmp_path / "again").transform(texts)
    np.testing.assert_array_equal(twice, again.transform(texts))


def test_int8_tables_are_read_by_other_libraries(
    tmp_path: Path, matrix: Any, tokenizer: Any
) -> None:
    model2vec = pytest.importorskip("model2vec")
    embedder = SentenceEmbedder(
        folder(tmp_path / "m", matrix, tokenizer), weights=None
    ).fit()
    embedder.save(tmp_path / "saved", table_dtype="int8")
    theirs = model2vec.StaticModel.from_pretrained(tmp_path / "saved")
    found = SentenceEmbedder.load(tmp_path / "saved").transform(["the cat"])
    np.testing.assert_allclose(theirs.encode(["the cat"]), found, rtol=1e-5)


def test_wrong_table_dtypes_are_refused(
    tmp_path: Path, matrix: Any, tokenizer: Any
) -> None:
    large = np.full_like(matrix, 1e6)
    embedder = SentenceEmbedder(
        folder(tmp_path / "m", large, tokenizer), weights=None
    ).fit()
    with pytest.raises(ValueError, match="table_dtype must be one of"):
        embedder.save(tmp_path / "saved", table_dtype="int4")
    with pytest.raises(ValueError, match="at most 65504 in magnitude, found 1e\\+06"):
        embedder.save(tmp_path / "saved", table_dtype="float16")
    assert not (tmp_path / "saved").exists()


SHARING = """
import sys, time
from ensembles.embeddings import SentenceEmbedder

def rollup():
    lines = open("/proc/self/smaps").read().split("\\n")
    inside, found = False, {"Pss": 0, "Rss": 0, "Private_Dirty": 0, "Private_Clean": 0}
    for line in lines:
        name = line.split(":")[0]
        if "-" in line.split(" ")[0]:
            inside = line.endswith("model.safetensors")
        elif inside and name in found:
            found[name] += int(line.split()[1])
    return found

embedder = SentenceEmbedder.load(sys.argv[1])
embedder.transform([f"w{n}" for n in range(0, 25_000)])
print("ready", flush=True)
sys.stdin.readline()
print(*rollup().values(), flush=True)
sys.stdin.readline()
"""


def test_two_processes_share_a_mapped_table(tmp_path: Path) -> None:
    if not Path("/proc/self/smaps").exists():
        pytest.skip("needs /proc/self/smaps")
    n_rows, dim = 25_000, 1024  # 50 MB in half precision
    table = np.ones((n_rows, dim), np.float16)
    embedder = SentenceEmbedder(
        ([f"w{n}" for n in range(n_rows)], table), weights=None
    ).fit()
    embedder.save(tmp_path / "m")
    assert SentenceEmbedder.load(tmp_path / "m").vectors_.matrix.dtype == np.float16
    command = [sys.executable, "-c", SHARING, str(tmp_path / "m")]
    options: dict[str, Any] = {"stdin": -1, "stdout": -1, "text": True}
    pair: list[Any] = [subprocess.Popen(command, **options) for _ in range(2)]
    for process in pair:
        assert process.stdout.readline() == "ready\n"
    for process in pair:
        process.stdin.write("\n")
        process.stdin.flush()
        pss, rss, dirty, clean = map(int, process.stdout.readline().split())
        assert rss > 0.9 * table.nbytes / 1024
        assert pss < 0.6 * rss
        assert dirty == 0
        assert clean < 0.05 * rss
    for process in pair:
        process.communicate("\n", timeout=60)
