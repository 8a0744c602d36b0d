"""Real directories: what transformers and sentence-transformers save and load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from ensembles.checkpoints import average, convert, plan
from tests.checkpoints.building import header_of
from tests.checkpoints.directories.test_distributed import write
from tests.checkpoints.hugging_face import encoder, gpt2, llama, saved

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",
    "ignore:.* the same initialization",  # members are made from seeds
)


def assert_mean(path: Path, models: list[Any]) -> None:
    """It loads without a missing or unexpected key, and holds the mean."""
    model, info = type(models[0]).from_pretrained(path, output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[kind], info
    states = [m.state_dict() for m in models]
    for name, value in model.state_dict().items():
        expected = torch.stack([state[name].double() for state in states]).mean(0)
        torch.testing.assert_close(value, expected.float(), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("source", ["file", "directory", "distributed checkpoint"])
def test_a_conversion_in_shards_loads(tmp_path: Path, source: str) -> None:
    model = llama(0, tied=False)
    (path,) = saved(tmp_path, [model])
    if source == "file":
        torch.save(model.state_dict(), path / "last.ckpt")
        convert(path / "last.ckpt", tmp_path / "out", shard_size=500)
        (path / "config.json").rename(tmp_path / "out/config.json")
    elif source == "distributed checkpoint":
        write(tmp_path / "dcp", {"model": model.state_dict(), "step": 3})
        (path / "config.json").rename(tmp_path / "dcp/config.json")
        convert(tmp_path / "dcp", tmp_path / "out", shard_size=500)
    else:
        convert(path, tmp_path / "out", shard_size=500)
    assert (tmp_path / "out/model.safetensors.index.json").exists()
    assert_mean(tmp_path / "out", [model])
    ids = torch.arange(11)[None]
    converted = type(model).from_pretrained(tmp_path / "out")
    assert torch.equal(model.eval()(ids).logits, converted.eval()(ids).logits)


@pytest.mark.parametrize("make", [llama, gpt2])
def test_a_model_with_tied_embeddings_loads_again(tmp_path: Path, make: Any) -> None:
    models = [make(seed) for seed in range(3)]
    average(saved(tmp_path, models), tmp_path / "out")
    names = header_of(tmp_path / "out/model.safetensors").keys()
    assert not [name for name in names if "lm_head" in name]
    assert_mean(tmp_path / "out", models)


def test_an_untied_head_is_averaged(tmp_path: Path) -> None:
    models = [llama(seed, tied=False) for seed in range(2)]
    average(saved(tmp_path, models), tmp_path / "out")
    assert "lm_head.weight" in header_of(tmp_path / "out/model.safetensors")
    assert_mean(tmp_path / "out", models)


def test_a_head_that_was_stored_though_tied_is_left_out(tmp_path: Path) -> None:
    models = [llama(seed) for seed in range(2)]
    for path, model in zip(saved(tmp_path, models), models, strict=True):
        (path / "model.safetensors").unlink()
        copies = {name: value.clone() for name, value in model.state_dict().items()}
        torch.save(copies, path / "pytorch_model.bin")
    planned = plan([tmp_path / "m0", tmp_path / "m1"], tmp_path / "out")
    assert any("lm_head.weight left out" in note for note in planned.notes)
    average([tmp_path / "m0", tmp_path / "m1"], tmp_path / "out")
    assert "lm_head.weight" not in header_of(tmp_path / "out/model.safetensors")
    assert_mean(tmp_path / "out", models)


def test_shards_of_a_real_model_load_again(tmp_path: Path) -> None:
    models = [llama(seed) for seed in range(2)]
    paths = saved(tmp_path, models, max_shard_size="1KB")
    assert len(list(paths[0].glob("*.safetensors"))) > 1
    average(paths, tmp_path / "out")
    assert_mean(tmp_path / "out", models)
    average(paths, tmp_path / "anew", shard_size=700)
    assert_mean(tmp_path / "anew", models)


@pytest.mark.parametrize("tied", [True, False])
def test_a_distributed_checkpoint_loads_again(tmp_path: Path, tied: bool) -> None:
    models = [llama(seed, tied) for seed in range(2)]
    paths = []
    for index, model in enumerate(models):
        path = tmp_path / f"checkpoint-{index}"
        write(path / "pytorch_model_fsdp_0", {"model": model.state_dict()})
        model.config.save_pretrained(path)
        paths.append(path)
    average(paths, tmp_path / "out")
    assert_mean(tmp_path / "out", models)


def test_a_pickled_model_becomes_safetensors(tmp_path: Path) -> None:
    models = [gpt2(seed) for seed in range(2)]
    for path, model in zip(saved(tmp_path, models), models, strict=True):
        (path / "model.safetensors").unlink()
        torch.save(model.state_dict(), path / "pytorch_model.bin")
    average([tmp_path / "m0", tmp_path / "m1"], tmp_path / "out")
    assert_mean(tmp_path / "out", models)


def test_vocabularies_that_differ_are_told(tmp_path: Path) -> None:
    models = [llama(0, vocab_size=2000), llama(1, vocab_size=2001)]
    message = r"'model\.embed_tokens\.weight'.*the vocabularies differ"
    with pytest.raises(ValueError, match=message):
        plan(saved(tmp_path, models), tmp_path / "out")


def test_the_dtype_of_the_result_is_as_asked(tmp_path: Path) -> None:
    models = [llama(seed) for seed in range(2)]
    average(saved(tmp_path, models), tmp_path / "out", dtype="bfloat16")
    model = transformers.LlamaForCausalLM.from_pretrained(
        tmp_path / "out", dtype=torch.bfloat16
    )
    assert model.lm_head.weight.dtype == torch.bfloat16
    a, b = (m.lm_head.weight.double() for m in models)
    assert torch.equal(model.lm_head.weight, ((a + b) / 2).bfloat16())


@pytest.mark.filterwarnings("ignore")
def test_a_sentence_encoder_of_several_modules_encodes_again(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    members = [encoder(tmp_path / str(seed), seed) for seed in range(2)]
    average(members, tmp_path / "out")
    found = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    models = [SentenceTransformer(str(path), device="cpu") for path in members]
    states = [model.state_dict() for model in models]
    for name, value in found.state_dict().items():
        expected = (states[0][name].double() + states[1][name].double()) / 2
        torch.testing.assert_close(value, expected.to(value.dtype))
    sentences = ["mean of models", "models"]
    vectors = found.encode(sentences)
    assert vectors.shape == (2, 3)
    assert np.isfinite(vectors).all()
    assert not np.allclose(vectors, models[0].encode(sentences))
    modules = json.loads((tmp_path / "out/modules.json").read_text())
    assert len(modules) == 3


def test_the_config_names_the_dtype_that_was_asked_for(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        save_file({"w": np.ones(2, np.float32)}, tmp_path / name / "model.safetensors")
        config = {"model_type": "x", "torch_dtype": "float32"}
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    members = [tmp_path / "a", tmp_path / "b"]
    average(members, tmp_path / "narrow", dtype="bf16")
    found = json.loads((tmp_path / "narrow" / "config.json").read_text())
    assert found == {"model_type": "x", "torch_dtype": "bfloat16"}
    average(members, tmp_path / "same")
    kept = (tmp_path / "same" / "config.json").read_bytes()
    assert kept == (tmp_path / "a" / "config.json").read_bytes()


def test_a_dtype_has_one_name_in_the_recipe(tmp_path: Path) -> None:
    state = tmp_path / "a.safetensors"
    save_file({"w": np.ones(2, np.float32)}, state)
    for dtype in ("bf16", "bfloat16"):
        average([state], tmp_path / f"{dtype}.safetensors", dtype=dtype)
    short, long = (tmp_path / f"{d}.safetensors" for d in ("bf16", "bfloat16"))
    assert short.read_bytes() == long.read_bytes()


@pytest.mark.filterwarnings("ignore")
def test_a_router_encodes_again(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Router, StaticEmbedding
    from sentence_transformers.models import Transformer as Encoder

    members = []
    for seed in range(2):
        bert = Encoder(str(encoder(tmp_path / str(seed), seed).parent / "bert"))
        static = StaticEmbedding(bert.tokenizer, embedding_dim=8)
        router = Router.for_query_document([static], [bert, Pooling(8)])
        members.append(SentenceTransformer(modules=[router], device="cpu"))
        members[-1].save(str(tmp_path / f"router{seed}"))
    average([tmp_path / "router0", tmp_path / "router1"], tmp_path / "out")
    found = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    states = [member.state_dict() for member in members]
    assert len(found.state_dict()) > 20
    for name, value in found.state_dict().items():
        expected = (states[0][name].double() + states[1][name].double()) / 2
        torch.testing.assert_close(value, expected.to(value.dtype))
