"""Mixtures of experts whose experts are dense models."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ensembles._typing import Array
from ensembles.checkpoints import (
    Expert,
    Mixture,
    plan_recipe,
    plan_recipes,
    read_recipes,
    write,
    write_recipes,
)
from tests.checkpoints.recipes.mixtures.dense import (
    INNER,
    N_LAYERS,
    WIDTH,
    save_dense,
)

PARTS = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}


def models(folder: Path, kind: str = "llama") -> list[dict[str, Array]]:
    """A base "m0" and experts "m1" and "m2"; their tensors."""
    return [save_dense(folder / f"m{i}", i, kind) for i in range(3)]


def recipe(folder: Path, text: str) -> Path:
    """Recipe whose models are in the folder."""
    path = folder / "moe.yml"
    path.write_text(re.sub(r"\b(m\d)\b", rf"{folder}/\1", text))
    return path


RANDOM = """\
base_model: m0
gate_mode: random
experts_per_token: 1
experts:
- source_model: m1
- source_model: m2
"""


def mixture(folder: Path, **changes: Any) -> Mixture:
    """A mixture of m1 and m2 on m0."""
    experts = tuple(Expert(str(folder / name)) for name in ("m1", "m2"))
    return replace(Mixture(str(folder / "m0"), experts, gate_mode="random"), **changes)


def written(planned: Any) -> dict[str, Array]:
    write(planned)
    return load_file(planned.out / "model.safetensors")


def config_of(folder: Path) -> dict[str, Any]:
    config = json.loads((folder / "config.json").read_text())
    assert isinstance(config, dict)
    return config


@pytest.mark.parametrize(
    ("kind", "model_type"), [("llama", "mixtral"), ("qwen3", "qwen3_moe")]
)
def test_experts_are_copies_and_all_else_is_the_base(
    tmp_path: Path, kind: str, model_type: str
) -> None:
    base, *experts = models(tmp_path, kind)
    (document,) = read_recipes(recipe(tmp_path, RANDOM))
    tensors = written(plan_recipe(document, tmp_path / "out"))
    for name in [name for name in base if ".mlp." not in name]:
        np.testing.assert_array_equal(tensors.pop(name), base[name])
    block = "block_sparse_moe" if kind == "llama" else "mlp"
    for layer in range(N_LAYERS):
        prefix = f"model.layers.{layer}"
        for number, expert in enumerate(experts):
            for part in PARTS:
                new = PARTS[part] if kind == "llama" else part
                moved = f"{prefix}.{block}.experts.{number}.{new}.weight"
                stored = expert[f"{prefix}.mlp.{part}.weight"]
                np.testing.assert_array_equal(tensors.pop(moved), stored)
        assert tensors.pop(f"{prefix}.{block}.gate.weight").shape == (2, WIDTH)
    assert not tensors
    config = config_of(tmp_path / "out")
    n_experts = "num_local_experts" if kind == "llama" else "num_experts"
    assert (config["model_type"], config[n_experts]) == (model_type, 2)
    assert config["num_experts_per_tok"] == 1
    assert config["hidden_size"] == WIDTH


def test_a_shared_expert_makes_a_qwen2_mixture(tmp_path: Path) -> None:
    _, _, shared = models(tmp_path)
    text = RANDOM + "shared_experts:\n- source_model: m2\n  residual_scale: 0.1\n"
    (document,) = read_recipes(recipe(tmp_path, text))
    tensors = written(plan_recipe(document, tmp_path / "out"))
    prefix = "model.layers.1.mlp"
    for part, scale in {"gate_proj": 1, "up_proj": 1, "down_proj": 0.1}.items():
        exact = shared[f"{prefix}.{part}.weight"].astype(float) * scale
        moved = tensors[f"{prefix}.shared_expert.{part}.weight"]
        np.testing.assert_array_equal(moved, exact.astype(np.float32))
    assert tensors[f"{prefix}.shared_expert_gate.weight"].shape == (1, WIDTH)
    # The base of Llama has no biases, and the mixture has them.
    for part, size in {"q": WIDTH, "k": WIDTH // 2, "v": WIDTH // 2}.items():
        bias = tensors[f"model.layers.0.self_attn.{part}_proj.bias"]
        np.testing.assert_array_equal(bias, np.zeros(size, np.float32))
    config = config_of(tmp_path / "out")
    assert config["model_type"] == "qwen2_moe"
    assert config["moe_intermediate_size"] == INNER
    assert config["shared_expert_intermediate_size"] == INNER


def test_noise_depends_on_the_seed_and_the_expert_alone(tmp_path: Path) -> None:
    _, stored, _ = models(tmp_path)
    noisy = Expert(str(tmp_path / "m1"), noise_scale=0.5)
    upcycled = mixture(tmp_path, experts=(noisy, noisy))
    small: dict[str, Any] = {"memory": 2000, "threads": 2}
    first, again, other = (
        written(plan_recipe(replace(upcycled, seed=seed), tmp_path / out, **how))
        for out, seed, how in [("a", 3, {}), ("b", 3, small), ("c", 4, {})]
    )
    deltas = []
    for name, tensor in first.items():
        np.testing.assert_array_equal(tensor, again[name])
        if "experts" in name:
            assert not np.array_equal(tensor, other[name])
            part = {new: old for old, new in PARTS.items()}[name.split(".")[-2]]
            layer = name.partition(".block")[0]
            deltas.append(tensor - stored[f"{layer}.mlp.{part}.weight"])
    flat = np.concatenate([delta.reshape(-1) for delta in deltas])
    assert flat.std() == pytest.approx(0.5, rel=0.1)
    assert abs(flat.mean()) < 0.05
    assert len(np.unique(flat.round(6))) > 0.9 * flat.size


def test_the_result_has_the_dtype_of_the_recipe(tmp_path: Path) -> None:
    models(tmp_path)
    planned = plan_recipe(mixture(tmp_path, dtype="bfloat16"), tmp_path / "out")
    tensors = written(planned)
    assert {str(tensor.dtype) for tensor in tensors.values()} == {"bfloat16"}
    assert config_of(tmp_path / "out")["dtype"] == "bfloat16"


def test_random_routers_are_standard_normal_or_uniform(tmp_path: Path) -> None:
    models(tmp_path)
    many = mixture(tmp_path, experts=(Expert(str(tmp_path / "m1")),) * 64)
    uniform = 1 / np.sqrt(3 * WIDTH)
    for mode, deviation in {"random": 1, "uniform_random": uniform}.items():
        planned = plan_recipe(replace(many, gate_mode=mode), tmp_path / mode)
        rows = [v for n, v in written(planned).items() if n.endswith("gate.weight")]
        assert np.std(rows) == pytest.approx(deviation, rel=0.1)
        assert not np.array_equal(rows[0], rows[1])


def test_keys_that_the_base_leaves_to_its_defaults_are_written(tmp_path: Path) -> None:
    models(tmp_path)
    for name in ("m0", "m1", "m2"):
        config = config_of(tmp_path / name)
        del config["rms_norm_eps"], config["num_key_value_heads"]
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    written(plan_recipe(mixture(tmp_path), tmp_path / "out"))
    config = config_of(tmp_path / "out")
    # Mixtral's defaults are others: 1e-5, 8 and 1e6.
    assert config["rms_norm_eps"] == 1e-6
    assert config["num_key_value_heads"] == 2
    assert config["rope_theta"] == 10000


def test_notes_say_what_is_used_and_what_must_be_trained(tmp_path: Path) -> None:
    models(tmp_path)
    same = Expert(str(tmp_path / "m1"), positive_prompts=("one",))
    planned = plan_recipe(mixture(tmp_path, experts=(same, same)))
    notes = "\n".join(planned.notes)
    assert "of the experts, only the MLPs are used" in notes
    assert "all experts are the same model" in notes
    assert "the router is random" in notes
    assert "prompts have no effect" in notes
    noisy = replace(same, noise_scale=0.1)
    planned = plan_recipe(mixture(tmp_path, experts=(same, noisy)))
    assert "the same model" not in "\n".join(planned.notes)


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("mistral", {}),
        ("qwen3", {"use_sliding_window": True, "sliding_window": 4096}),
    ],
)
def test_a_window_that_the_mixture_cannot_have_is_noted(
    tmp_path: Path, kind: str, config: dict[str, Any]
) -> None:
    for number in range(3):
        save_dense(tmp_path / f"m{number}", number, kind, **config)
    shared = (Expert(str(tmp_path / "m1")),) * (kind == "mistral")
    planned = plan_recipe(mixture(tmp_path, shared_experts=shared), tmp_path / "out")
    assert "without the sliding window of 4096 tokens" in "\n".join(planned.notes)
    written(planned)
    assert config_of(tmp_path / "out")["sliding_window"] is None


def test_the_window_of_mistral_is_kept_in_mixtral(tmp_path: Path) -> None:
    models(tmp_path, "mistral")
    planned = plan_recipe(mixture(tmp_path), tmp_path / "out")
    assert "sliding window" not in "\n".join(planned.notes)
    written(planned)
    assert config_of(tmp_path / "out")["sliding_window"] == 4096


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_tensor(folder: Path, name: str, tensor: Array | None) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    if tensor is None:
        del tensors[name]
    else:
        tensors[name] = tensor
    save_file(tensors, path)


def all_of_gpt2(folder: Path) -> None:
    for name in ("m0", "m1", "m2"):
        change_config(folder / name, model_type="gpt2")


DOWN = "model.layers.1.mlp.down_proj.weight"
BIAS = "model.layers.0.self_attn.q_proj.bias"
PROBLEMS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "another model type": (
        lambda f: change_config(f / "m2", model_type="qwen3"),
        r"moe.yml:6: models of a mixture must have the same model_type: .*m0 has "
        r"'llama', .*m2 has 'qwen3'",
    ),
    "another activation": (
        lambda f: change_config(f / "m1", hidden_act="gelu"),
        r"moe.yml:5: models of a mixture must have the same hidden_act: .*'silu'",
    ),
    "no configuration": (
        lambda f: (f / "m2" / "config.json").unlink(),
        r"moe.yml:6: .*m2 must be a directory of transformers with model_type",
    ),
    "no heads": (
        lambda f: change_config(f / "m0", num_attention_heads=None),
        r"moe.yml:1: .*m0 must be .* num_attention_heads, a positive number, in .*None",
    ),
    "layers as a text": (
        lambda f: change_config(f / "m1", num_hidden_layers="2"),
        r"moe.yml:5: .*m1 must be .* num_hidden_layers, a positive .* found '2'",
    ),
    "another architecture": (
        all_of_gpt2,
        r"moe.yml:1: no architecture suits the models: mixtral is made of llama or "
        r"mistral models, found 'gpt2'; qwen moe .* has one shared expert",
    ),
    "another shape": (
        lambda f: change_tensor(f / "m1", DOWN, np.ones((WIDTH, INNER + 1))),
        r"moe.yml:5: tensor 'model.layers.1.mlp.down_proj.weight' must have floats of "
        r"the shape \(8, 12\), as in .*m0: .*m1 has \(float64, \(8, 13\)\)",
    ),
    "a missing tensor": (
        lambda f: change_tensor(f / "m2", DOWN, None),
        r"moe.yml:6: .*m2 lacks the tensor 'model.layers.1.mlp.down_proj.weight'",
    ),
    "more layers": (
        lambda f: change_tensor(
            f / "m1", DOWN.replace("layers.1", "layers.2"), np.ones((WIDTH, INNER))
        ),
        r"moe.yml:5: .*m1 must have 2 layers, as .*m0: it has tensors of model",
    ),
    "a tensor that the mixture lacks": (
        lambda f: change_tensor(f / "m0", BIAS, np.ones(WIDTH)),
        r"moe.yml:1: .*m0 has the tensor 'model.layers.0.self_attn.q_proj.bias', which "
        "mixtral does not have",
    ),
    "a base without a norm": (
        lambda f: change_tensor(f / "m0", "model.norm.weight", None),
        r"moe.yml:1: .*m0 lacks the tensor 'model.norm.weight', which mixtral has",
    ),
}


@pytest.mark.parametrize("case", PROBLEMS)
def test_each_problem_of_a_model_is_named_with_its_line(
    tmp_path: Path, case: str
) -> None:
    models(tmp_path)
    change, message = PROBLEMS[case]
    change(tmp_path)
    (document,) = read_recipes(recipe(tmp_path, RANDOM))
    with pytest.raises(ValueError, match=message):
        plan_recipe(document, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# Recipes of the kind that users report of mergekit-moe, with what they should give.
ARCHITECTURES = {
    "of Qwen3 models": ("qwen3", "architecture: qwen\n", "qwen3_moe"),
    "of Llama models": ("llama", "architecture: Mixtral\n", "mixtral"),
    "of Qwen2 models": ("qwen2", "shared_experts: [{source_model: m1}]\n", "qwen2_moe"),
    "of Qwen2 models without a shared expert": (
        "qwen2",
        "",
        r"moe.yml:1: .*; qwen moe has one shared expert \(shared_experts\), found 0",
    ),
    "of Qwen3 models with a shared expert": (
        "qwen3",
        "shared_experts: [{source_model: m1}]\n",
        r"qwen3 moe has no shared expert \(shared_experts\), found 1",
    ),
    "of Phi models": ("phi", "", r"qwen3 moe is made of qwen3 models, found 'phi'"),
}


@pytest.mark.parametrize("case", ARCHITECTURES)
def test_the_architecture_suits_the_models_or_the_reason_is_named(
    tmp_path: Path, case: str
) -> None:
    kind, text, expected = ARCHITECTURES[case]
    models(tmp_path, kind)
    (document,) = read_recipes(recipe(tmp_path, RANDOM + text))
    if " " in expected:
        with pytest.raises(ValueError, match=expected):
            plan_recipe(document, tmp_path / "out")
    else:
        written(plan_recipe(document, tmp_path / "out"))
        assert config_of(tmp_path / "out")["model_type"] == expected


def test_missing_models_are_named_with_their_lines(tmp_path: Path) -> None:
    (document,) = read_recipes(recipe(tmp_path, RANDOM))
    with pytest.raises(FileNotFoundError) as error:
        plan_recipe(document, tmp_path / "out")
    assert re.findall(r"moe.yml:(\d):", str(error.value)) == ["1", "5", "6"]


def test_unknown_architectures_and_bad_numbers_are_named(tmp_path: Path) -> None:
    models(tmp_path)
    deepseek = mixture(tmp_path, architecture="deepseek")
    with pytest.raises(ValueError, match="one of mixtral, qwen moe, qwen3 moe, found"):
        plan_recipe(deepseek)
    shared = mixture(tmp_path, shared_experts=(Expert(str(tmp_path / "m1")),) * 2)
    with pytest.raises(ValueError, match=r"has no shared expert .*, found 2; qwen moe"):
        plan_recipe(shared)
    many = mixture(tmp_path, experts_per_token=3, dtype="int7", gate_mode="hiden")
    with pytest.raises(ValueError, match="experts_per_token, 3, found 2") as error:
        plan_recipe(many)
    assert "gate_mode must be one of hidden, " in str(error.value)
    assert "dtype must be one of" in str(error.value)
    noisy = Expert(str(tmp_path / "m1"), noise_scale=float("nan"))
    with pytest.raises(ValueError, match="noise_scale must be a finite number, found"):
        plan_recipe(mixture(tmp_path, experts=(noisy, noisy)))


def test_a_plan_without_routers_is_not_written(tmp_path: Path) -> None:
    models(tmp_path)
    text = RANDOM.replace("random", "hidden", 1)
    text = text.replace("m1\n", "m1\n  positive_prompts: [code]\n")
    text = text.replace("m2\n", "m2\n  positive_prompts: [prose]\n")
    recipes = read_recipes(recipe(tmp_path, text))
    staged = plan_recipes(recipes, tmp_path / "out", run_prompts=False)
    assert "the router is not computed yet" in "\n".join(staged.plans[0].notes)
    with pytest.raises(ValueError, match="planned with run_prompts=False have no rout"):
        write_recipes(staged)
    with pytest.warns(UserWarning, match="contains? NaN"):  # zeros might go unnoticed
        tensors = written(staged.plans[0])
    nan = [name for name, tensor in tensors.items() if np.isnan(tensor).any()]
    assert len(nan) == N_LAYERS
    assert all(name.endswith("gate.weight") for name in nan)


def test_empty_prompts_are_named_with_their_line(tmp_path: Path) -> None:
    text = RANDOM.replace("random", "hidden")
    text = text.replace("m1\n", "m1\n  positive_prompts: [code]\n")
    text = text.replace("m2\n", "m2\n  positive_prompts: [prose, ' ']\n")
    with pytest.raises(ValueError, match=r"moe.yml:7: prompts must not be empty"):
        read_recipes(recipe(tmp_path, text))


def test_the_output_is_checked_before_the_base_runs(tmp_path: Path) -> None:
    models(tmp_path)
    experts = tuple(Expert(str(tmp_path / m), (m,)) for m in ("m1", "m2"))
    prompted = mixture(tmp_path, experts=experts, gate_mode="hidden")
    with pytest.raises(ValueError, match="inside"):
        plan_recipe(prompted, tmp_path / "m0" / "inside")
