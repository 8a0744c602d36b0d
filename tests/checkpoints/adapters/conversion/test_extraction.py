"""Adapters from fine-tuned models, and models from adapters.

peft 0.21 loads the extracted adapters of Llama and GPT-2, also with tied embeddings and
trained biases: logits equal those of the tuned model to rounding of float64.
"""

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from ensembles.checkpoints import apply_adapter, average, extract_adapter
from ensembles.checkpoints.directories.adapter_files import open_adapter
from tests.checkpoints.building import load, save
from tests.checkpoints.views.adapters import Tensors, factors, save_adapter, save_base

EPSILON = {
    np.dtype(np.float64): 2.0**-52,
    np.dtype(np.float32): 2.0**-23,
    np.dtype(ml_dtypes.bfloat16): 2.0**-7,
}
NAMES = {"model.embed_tokens.weight": (9, 6), "model.norm.weight": (6,)}
NAMES |= {f"model.layers.{i}.q.weight": (8, 6) for i in range(2)}
NAMES |= {f"model.layers.{i}.q.bias": (8,) for i in range(2)}


def models(folder: Path, dtype: Any = np.float32, *, noise: float = 0.1) -> Tensors:
    """Write a base and a tuned model, all of whose tensors differ."""
    rng = np.random.default_rng(0)
    base = {name: rng.normal(size=shape).astype(dtype) for name, shape in NAMES.items()}
    tuned = {
        n: (t + noise * rng.normal(size=t.shape)).astype(dtype) for n, t in base.items()
    }
    save_base(folder / "base", base, architectures=["LlamaForCausalLM"])
    save_base(folder / "tuned", tuned)
    return tuned


def distance(result: Tensors, tuned: Tensors) -> float:
    squares = [
        np.square(result[n].astype(float) - t.astype(float)).sum()
        for n, t in tuned.items()
    ]
    return float(np.sqrt(sum(squares)))


@pytest.mark.parametrize("size", [{"rank": 2}, {"energy": 0.9}, {"rank": 6}])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, ml_dtypes.bfloat16])
def test_the_adapter_restores_the_model_within_its_error(
    size: dict[str, Any], dtype: Any, tmp_path: Path
) -> None:
    tuned = models(tmp_path, dtype)
    report = extract_adapter(
        tmp_path / "tuned", tmp_path / "base", tmp_path / "lora", **size
    )
    apply_adapter(tmp_path / "base", tmp_path / "lora", tmp_path / "out")
    result = load(tmp_path / "out" / "model.safetensors")
    assert {n: t.dtype for n, t in result.items()} == {
        n: t.dtype for n, t in tuned.items()
    }
    error, rounding = (
        np.sqrt(report.total.error_squares),
        distance(tuned, {n: np.zeros_like(t) for n, t in tuned.items()})
        * EPSILON[np.dtype(dtype)],
    )
    # Rounding to the dtype of the base at most doubles the error.
    assert distance(result, tuned) <= error + min(error, rounding)
    if size == {"rank": 6}:
        assert error < 1e-5
    else:
        assert distance(result, tuned) > error / 2
    for module in report.modules:
        assert module.energy == pytest.approx(1 - module.relative_error**2)
        assert module.energy >= size.get("energy", 0)


def test_tensors_that_are_not_matrices_are_stored_whole_and_reported(
    tmp_path: Path,
) -> None:
    tuned = models(tmp_path)
    report = extract_adapter(
        tmp_path / "tuned", tmp_path / "base", tmp_path / "lora", rank=2
    )
    whole = ["model.embed_tokens.weight", "model.norm.weight"]
    biases = [f"model.layers.{i}.q.bias" for i in range(2)]
    assert sorted(report.saved) == sorted([*whole, *biases])
    assert [m.name for m in report.modules] == [f"model.layers.{i}.q" for i in range(2)]
    assert report.left_out == []
    config = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    assert config["modules_to_save"] == ["model.embed_tokens", "model.norm"]
    assert (config["bias"], config["r"], config["lora_alpha"]) == ("all", 2, 2)
    assert config["task_type"] == "CAUSAL_LM"
    assert config["ensure_weight_tying"] is True
    stored = load(tmp_path / "lora" / "adapter_model.safetensors")
    prefix = "base_model.model."
    assert f"{prefix}model.layers.0.q.base_layer.bias" in stored
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        np.testing.assert_array_equal(
            stored[prefix + name], tuned["model.embed_tokens.weight"]
        )


def test_the_adapter_of_a_low_rank_change_has_its_rank(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    base = {f"{n}.weight": rng.normal(size=(8, 6)) for n in "pqr"}
    lora = factors(rng, "q", (8, 6), rank=2) | factors(rng, "r", (8, 6), rank=2)
    folder = save_base(tmp_path / "base", base)
    adapter = save_adapter(tmp_path / "lora", lora)
    apply_adapter(folder, adapter, tmp_path / "tuned")
    again = tmp_path / "again"
    report = extract_adapter(
        tmp_path / "tuned", folder, again, energy=1.0, dtype="float64"
    )
    assert [module.rank for module in report.modules] == [2, 2]
    assert report.total.relative_error < 1e-12
    assert report.n_unchanged == 1
    assert open_adapter(again).updates.keys() == {"q", "r"}
    mean = average(
        [again, adapter], base=folder, rule="task_arithmetic", weights=[1, -1]
    )
    np.testing.assert_allclose(mean["q.weight"], base["q.weight"], atol=1e-12)


def test_ranks_that_differ_are_in_the_configuration(tmp_path: Path) -> None:
    """PEFT reads their names as regular expressions."""
    rng = np.random.default_rng(0)
    ranks = {"p.q": 1, "pxq": 3, "r": 3}
    base = {f"{n}.weight": rng.normal(size=(8, 6)) for n in ranks}
    tuned = {
        f"{n}.weight": base[f"{n}.weight"]
        + rng.normal(size=(8, rank)) @ rng.normal(size=(rank, 6))
        for n, rank in ranks.items()
    }
    folders = save_base(tmp_path / "tuned", tuned), save_base(tmp_path / "base", base)
    extract_adapter(*folders, tmp_path / "lora", rank=4, dtype="float64")
    adapter = open_adapter(tmp_path / "lora")
    assert adapter.config["r"] == 3
    assert adapter.config["rank_pattern"] == {r"p\.q": 1}
    assert {n: u.rank for n, u in adapter.updates.items()} == ranks
    assert {u.scale for u in adapter.updates.values()} == {1.0}


def test_layers_with_inputs_first_have_their_factors_the_other_way(
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(0)
    base = {"h.0.attn.c_attn.weight": rng.normal(size=(4, 12))}
    tuned = {n: t + 1 for n, t in base.items()}
    folder = save_base(tmp_path / "base", base, model_type="gpt2")
    save_base(tmp_path / "tuned", tuned, model_type="gpt2")
    extract_adapter(tmp_path / "tuned", folder, tmp_path / "lora", rank=1)
    adapter = open_adapter(tmp_path / "lora")
    assert adapter.updates["h.0.attn.c_attn"].a.shape == (1, 4)
    merged = average([tmp_path / "lora"], base=folder)
    np.testing.assert_allclose(
        merged["h.0.attn.c_attn.weight"], tuned["h.0.attn.c_attn.weight"], atol=1e-6
    )


def test_tensors_left_out_are_reported(tmp_path: Path) -> None:
    models(tmp_path)
    for name in ("base", "tuned"):
        path = tmp_path / name / "model.safetensors"
        more = {"steps": np.array([len(name)]), "scale": np.array(float(len(name)))}
        save(path, load(path) | more)
    report = extract_adapter(
        *(tmp_path / "tuned", tmp_path / "base", tmp_path / "lora"),
        rank=2,
        exclude=["*embed*", "*norm*", "*bias"],
    )
    assert {"steps", "scale", "model.norm.weight"} <= set(report.left_out)
    assert report.saved == []
    assert any("cannot be stored in an adapter" in note for note in report.notes)


def test_a_base_with_dora_becomes_an_adapter_without(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lora = factors(rng, "q", (8, 6)) | {"q.lora_magnitude_vector": rng.random(8)}
    folder = save_base(tmp_path / "base", {"q.weight": rng.normal(size=(8, 6))})
    adapter = save_adapter(tmp_path / "dora", lora, use_dora=True)
    report = extract_adapter(f"{folder}+{adapter}", folder, tmp_path / "lora", rank=6)
    assert report.total.relative_error < 1e-6
    both = [average([path], base=folder) for path in (adapter, tmp_path / "lora")]
    np.testing.assert_allclose(both[0]["q.weight"], both[1]["q.weight"], atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "rank=16"),
        ({"rank": 0}, "at least 1"),
        ({"energy": 1.5}, "fraction"),
        ({"rank": 1, "exclude": ["*"]}, "no tensor"),
        ({"rank": 1, "dtype": "int8"}, "dtype must be one of"),
    ],
)
def test_wrong_options_are_errors(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    models(tmp_path)
    with pytest.raises(ValueError, match=message):
        extract_adapter(
            tmp_path / "tuned", tmp_path / "base", tmp_path / "x", **options
        )
    assert not (tmp_path / "x").exists()


def test_models_that_do_not_differ_or_have_nan_are_errors(tmp_path: Path) -> None:
    tuned = models(tmp_path, noise=0.0)
    folders = tmp_path / "tuned", tmp_path / "base", tmp_path / "lora"
    with pytest.raises(ValueError, match="must differ from the base"):
        extract_adapter(*folders, rank=1)
    tuned["model.layers.0.q.weight"][0, 0] = np.nan
    save_base(tmp_path / "tuned", tuned)
    with pytest.raises(ValueError, match="NaN or infinity"):
        extract_adapter(*folders, rank=1)
    assert not (tmp_path / "lora").exists()


def test_the_model_card_names_both_models(tmp_path: Path) -> None:
    models(tmp_path)
    extract_adapter(tmp_path / "tuned", tmp_path / "base", tmp_path / "lora", rank=2)
    card = (tmp_path / "lora" / "README.md").read_text()
    assert card.startswith('---\nlibrary_name: peft\nbase_model:\n- "base"\ntags:')
    assert "The difference of tuned from base, approximated with rank 2 in " in card
    assert str(tmp_path) not in card


def test_the_output_is_a_directory_that_must_not_exist(tmp_path: Path) -> None:
    models(tmp_path)
    folders = tmp_path / "tuned", tmp_path / "base"
    with pytest.raises(ValueError, match="must not have a suffix"):
        extract_adapter(*folders, tmp_path / "lora.safetensors", rank=1)
    extract_adapter(*folders, tmp_path / "lora", rank=1)
    with pytest.raises(FileExistsError):
        extract_adapter(*folders, tmp_path / "lora", rank=1)
    report = extract_adapter(*folders, tmp_path / "lora", rank=2, force=True, threads=2)
    assert report.total.rank == 2
