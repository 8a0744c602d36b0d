"""Directories of sentence-transformers, averaged with all their modules."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ensembles.checkpoints import average, plan, plan_recipe, read_recipes, write
from tests.checkpoints.building import save
from tests.checkpoints.hugging_face import TINY, WORDS, words_tokenizer

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")
USUAL = ("Transformer", "Pooling", "Dense")
TEXTS = ["mean of models", "models", "of of mean"]


def body(folder: Path, kind: str = "Bert", head: str = "Model", **options: Any) -> str:
    """Path of a small transformer with random parameters, and its tokenizer."""
    config = getattr(transformers, f"{kind}Config")(
        **TINY,
        vocab_size=len(WORDS),
        intermediate_size=8,
        max_position_embeddings=16,
        **options,
    )
    getattr(transformers, f"{kind}{head}")(config).save_pretrained(folder)
    words_tokenizer().save_pretrained(folder)
    return str(folder)


def with_layers(folder: Path) -> Any:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import (
        Dense,
        LayerNorm,
        Normalize,
        Pooling,
        Transformer,
    )

    norm = LayerNorm(6)
    torch.nn.init.normal_(norm.norm.weight)
    modules = [Transformer(body(folder)), Pooling(8, "cls"), Dense(8, 6, bias=True)]
    modules += [norm, Dense(6, 4, bias=False), Normalize()]
    prompts = {"query": "mean ", "document": ""}
    return SentenceTransformer(modules=modules, device="cpu", prompts=prompts)


def routed(folder: Path) -> Any:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import (
        Dense,
        Pooling,
        Router,
        StaticEmbedding,
        Transformer,
    )

    shared = Dense(8, 3)
    static = StaticEmbedding(words_tokenizer(), embedding_dim=8)
    bert = [Transformer(body(folder)), Pooling(8)]
    router = Router.for_query_document([static, shared], [*bert, shared])
    return SentenceTransformer(modules=[router, Dense(3, 2)], device="cpu")


def of_words(folder: Path) -> Any:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import (
        CNN,
        LSTM,
        Pooling,
        WordEmbeddings,
        WordWeights,
    )
    from sentence_transformers.sentence_transformer.modules.tokenizer import (
        WhitespaceTokenizer,
    )

    words = WordEmbeddings(WhitespaceTokenizer(WORDS), torch.randn(len(WORDS), 4))
    weights = WordWeights(WORDS, {"mean": 2.0})
    modules = [words, weights, LSTM(4, 3), CNN(6, 2, [1, 3]), Pooling(4)]
    return SentenceTransformer(modules=modules, device="cpu")


def bag_of_words(folder: Path) -> Any:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import BoW, Dense

    bag = BoW(WORDS, {"mean": 2.0})
    return SentenceTransformer(modules=[bag, Dense(len(WORDS), 3)], device="cpu")


def of_layers(folder: Path) -> Any:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import (
        Pooling,
        Transformer,
        WeightedLayerPooling,
    )

    config = {"config_kwargs": {"output_hidden_states": True}}
    modules = [Transformer(body(folder), **config)]
    modules += [WeightedLayerPooling(8, 1, 0), Pooling(8)]
    return SentenceTransformer(modules=modules, device="cpu")


def sparse(folder: Path) -> Any:
    from sentence_transformers import SparseEncoder
    from sentence_transformers.sparse_encoder.modules import (
        MLMTransformer,
        SpladePooling,
    )

    masked = MLMTransformer(body(folder, head="ForMaskedLM"))
    return SparseEncoder(modules=[masked, SpladePooling()], device="cpu")


def sparse_router(folder: Path) -> Any:
    from sentence_transformers import SparseEncoder
    from sentence_transformers.sparse_encoder.modules import (
        MLMTransformer,
        Router,
        SparseStaticEmbedding,
        SpladePooling,
    )

    masked = MLMTransformer(body(folder, head="ForMaskedLM"))
    tokenizer = words_tokenizer()
    query = SparseStaticEmbedding(tokenizer, torch.rand(len(WORDS)))
    router = Router.for_query_document([query], [masked, SpladePooling()])
    return SparseEncoder(modules=[router], device="cpu")


def auto_encoder(folder: Path) -> Any:
    from sentence_transformers import SparseEncoder
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder

    modules = [Transformer(body(folder)), Pooling(8), SparseAutoEncoder(8, 12, k=3)]
    return SparseEncoder(modules=modules, device="cpu")


def cross(folder: Path) -> Any:
    from sentence_transformers import CrossEncoder

    path = body(folder, head="ForSequenceClassification", num_labels=1)
    return CrossEncoder(path, device="cpu")


MODELS: list[Callable[[Path], Any]] = [
    *(with_layers, routed, of_words, bag_of_words, of_layers),
    *(sparse, sparse_router, auto_encoder, cross),
]


def members(folder: Path, make: Callable[[Path], Any], n: int = 2) -> list[Any]:
    """Models with random parameters, saved as ``st0``, ``st1``, …"""
    models = []
    for seed in range(n):
        torch.manual_seed(seed)
        models.append(make(folder / f"body{seed}").eval())
        path = str(folder / f"st{seed}")
        models[-1].save_pretrained(path, create_model_card=False)
    return models


def outputs(model: Any) -> Any:
    """Embeddings of texts, of both routes if it has routes; scores of pairs."""
    name = type(model).__name__
    if name == "CrossEncoder":
        return model.predict([(text, "models") for text in TEXTS])
    options = {"convert_to_sparse_tensor": False} if name == "SparseEncoder" else {}
    options |= {"convert_to_tensor": True}
    vectors = [model.encode_query(TEXTS, **options)]
    vectors.append(model.encode_document(TEXTS, **options))
    return torch.stack(vectors).numpy()


@pytest.mark.parametrize("make", MODELS)
def test_the_average_loads_and_encodes_as_the_mean_of_state_dicts(
    tmp_path: Path, make: Callable[[Path], Any]
) -> None:
    models = members(tmp_path, make)
    average([tmp_path / "st0", tmp_path / "st1"], tmp_path / "out")
    merged = type(models[0])(str(tmp_path / "out"), device="cpu").eval()
    first, second = (model.state_dict() for model in models)
    mean = {
        name: ((value.double() + second[name].double()) / 2).to(value.dtype)
        for name, value in first.items()
    }
    for name, value in merged.state_dict().items():
        torch.testing.assert_close(value, mean[name], rtol=1e-6, atol=1e-8)
    assert merged.state_dict().keys() == mean.keys()
    apart = outputs(models[0])
    models[0].load_state_dict(mean)
    expected = outputs(models[0])
    assert np.abs(expected - apart).max() > 1e-3
    np.testing.assert_allclose(outputs(merged), expected, rtol=1e-5, atol=1e-7)


def copied(folder: Path, change: Callable[[Path], None] | None = None) -> list[Path]:
    """Two directories with the files of every kind of module, the second changed."""
    paths = [folder / name for name in "ab"]
    for path in paths:
        files = {
            "modules.json": modules(*USUAL),
            "config.json": {"model_type": "bert"},
            "1_Pooling/config.json": {"embedding_dimension": 2, "pooling_mode": "cls"},
            "2_Dense/config.json": {"activation_function": "torch.nn.Tanh"},
            "router_config.json": {"structure": {"query": ["document_0_BoW"]}},
            "whitespacetokenizer_config.json": {"vocab": ["a"], "stop_words": "bc"},
        }
        for name, contents in files.items():
            write_json(path / name, contents)
        save(path / "model.safetensors", {"w": np.ones(2, np.float32)})
        dense = {"linear.weight": np.ones((2, 2)), "linear.bias": np.ones(2)}
        save(path / "2_Dense/model.safetensors", dense)
    if change is not None:
        change(paths[1])
    return paths


def modules(*names: str, package: str = "models") -> list[dict[str, str]]:
    """Entries of modules.json, as Model2Vec and sentence-transformers write them."""
    folders = [".", *(f"{n}_{name}" for n, name in enumerate(names) if n)]
    types = [f"sentence_transformers.{package}.{name}" for name in names]
    return [{"path": p, "type": t} for p, t in zip(folders, types, strict=True)]


def write_json(path: Path, contents: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(contents))


def edited(name: str, **values: Any) -> Callable[[Path], None]:
    """A change of settings in a JSON file."""

    def change(path: Path) -> None:
        write_json(path / name, json.loads((path / name).read_text()) | values)

    return change


def listing(*names: str, package: str = "models") -> Callable[[Path], None]:
    """A change of the list of modules."""
    entries = modules(*names, package=package)
    return lambda path: write_json(path / "modules.json", entries)


MODES = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}


def renamed(path: Path) -> None:
    """Settings with the names of earlier versions, and other orders of sets."""
    listing(*USUAL, package="base.modules.some")(path)
    old = {"word_embedding_dimension": 2, "include_prompt": True} | MODES
    write_json(path / "1_Pooling/config.json", old)


def test_settings_of_other_versions_that_mean_the_same_give_no_note(
    tmp_path: Path,
) -> None:
    assert plan(copied(tmp_path, renamed)).notes == ()


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        (listing(*USUAL, "Normalize"), "modules.json (in module classes)"),
        (listing("CLIPModel", *USUAL[1:]), "modules.json (in module classes)"),
        (edited("1_Pooling/config.json", pooling_mode="max"), "(in pooling_mode)"),
        (edited("2_Dense/config.json", activation_function="x"), "(in activation_"),
        (edited("router_config.json", structure={}), "router_config.json (in str"),
        (edited("whitespacetokenizer_config.json", vocab=["b"]), "(in vocab)"),
    ],
)
def test_settings_that_change_the_outputs_of_a_module_are_noted(
    tmp_path: Path, change: Callable[[Path], None], shown: str
) -> None:
    (note,) = plan(copied(tmp_path, change)).notes
    assert shown in note
    assert "compute different outputs from the same tensors" in note


def test_weights_of_words_that_are_not_tensors_are_those_of_the_first(
    tmp_path: Path,
) -> None:
    # sentence-transformers builds WordWeights from its configuration only.
    for path, weight in zip(copied(tmp_path), (1.0, 3.0), strict=True):
        settings = {"vocab": ["a"], "word_weights": {"a": weight}}
        write_json(path / "3_WordWeights/config.json", settings)
        listing(*USUAL, "WordWeights")(path)
    (note,) = plan([tmp_path / "a", tmp_path / "b"]).notes
    assert "3_WordWeights/config.json (in word_weights.a) of" in note


@pytest.mark.parametrize("name", ["3_Dense", "2_Dense/model.safetensors"])
def test_a_module_without_its_weights_is_refused(tmp_path: Path, name: str) -> None:
    # All members lack them, so that their layouts are equal.
    members = copied(tmp_path)
    for path in members:
        listing(*USUAL, *["Dense"] * (name == "3_Dense"))(path)
        (path / name).unlink(missing_ok=True)
    with pytest.raises(ValueError, match=rf"{name[:7]} .* a module Dense"):
        plan(members)


@pytest.mark.parametrize(
    ("file", "contents", "message"),
    [
        ("adapter_config.json", {"peft_type": "LORA"}, "2_Dense is a PEFT adapter"),
        ("config.json", {"quantization_config": {"bits": 4}}, "2_Dense has quantized"),
    ],
)
def test_adapters_and_quantized_weights_in_a_module_are_refused(
    tmp_path: Path, file: str, contents: Any, message: str
) -> None:
    members = copied(tmp_path)
    for path in members:
        write_json(path / "2_Dense" / file, contents)
    with pytest.raises(ValueError, match=message):
        plan(members)


def test_modules_that_are_loaded_from_one_file_are_not_divided(tmp_path: Path) -> None:
    planned = plan(copied(tmp_path), tmp_path / "out", shard_size=10)
    assert "2_Dense/model.safetensors" in planned.parts
    assert any("2_Dense/model.safetensors has 48 bytes" in n for n in planned.notes)


RECIPE = """\
merge_method: linear
models:
  - model: {folder}/st0
    parameters:
      weight:
        - filter: 2_Dense
          value: 3
        - value: 1
  - model: {folder}/st1
dtype: float32
parameters:
  weight: 1
"""


def test_a_recipe_merges_all_modules_with_weights_by_their_names(
    tmp_path: Path,
) -> None:
    models = members(tmp_path, with_layers)
    (tmp_path / "recipe.yml").write_text(RECIPE.format(folder=tmp_path))
    (recipe,) = read_recipes(tmp_path / "recipe.yml")
    write(plan_recipe(recipe, tmp_path / "out"))
    merged = type(models[0])(str(tmp_path / "out"), device="cpu").state_dict()
    first, second = (model.state_dict() for model in models)
    for name, value in merged.items():
        weight = 3 if name.startswith("2.linear") else 1  # module 2 is in 2_Dense
        expected = (weight * first[name].double() + second[name]) / (weight + 1)
        torch.testing.assert_close(value, expected.float(), rtol=1e-6, atol=1e-8)


STACK = """\
merge_method: passthrough
slices:
  - sources:
      - model: {folder}/st0
        layer_range: [0, 1]
  - sources:
      - model: {folder}/st1
        layer_range: [0, 1]
"""


def test_a_stack_of_layers_keeps_the_files_of_the_modules(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TINY, "num_hidden_layers", 2)
        models = members(tmp_path, with_layers)
    (tmp_path / "recipe.yml").write_text(STACK.format(folder=tmp_path))
    (recipe,) = read_recipes(tmp_path / "recipe.yml")
    write(plan_recipe(recipe, tmp_path / "out"))
    merged = type(models[0])(str(tmp_path / "out"), device="cpu").state_dict()
    first, second = (model.state_dict() for model in models)
    assert merged.keys() == first.keys()
    for name, value in merged.items():
        is_first = "embeddings" in name or "layer.0." in name
        stored = name.replace("layer.1.", "layer.0.")
        assert torch.equal(value, (first if is_first else second)[stored]), name
