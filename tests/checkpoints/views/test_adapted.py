"""A base with an adapter as a member; PEFT 0.21's merge_and_unload gives the same.

Its results for adapters of Llama and GPT-2 (LoRA, rsLoRA, DoRA, embeddings, biases,
modules_to_save) differ by rounding of float64 alone.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from ensembles.checkpoints import (
    average,
    plan_recipe,
    read_recipes,
    verify,
    write,
)
from ensembles.checkpoints.directories.adapter_files import open_adapter
from ensembles.checkpoints.directories.open import read_layout
from ensembles.checkpoints.views.adapted import adapted, open_adapted
from ensembles.checkpoints.views.rows import GatheredRows
from tests.checkpoints.building import load, save
from tests.checkpoints.views.adapters import (
    Tensors,
    factors,
    product,
    save_adapter,
    save_base,
)

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
Case = tuple[Tensors, Tensors, dict[str, Any], Tensors]


def linear(rng: np.random.Generator) -> Case:
    base, lora = {"m.q.weight": rng.normal(size=(5, 4))}, factors(rng, "m.q", (5, 4))
    return base, lora, {}, {"m.q.weight": base["m.q.weight"] + product(lora, "m.q")}


def fan_in_fan_out(rng: np.random.Generator) -> Case:
    base, lora = {"c.weight": rng.normal(size=(4, 4))}, factors(rng, "c", (4, 4))
    merged = base["c.weight"] + product(lora, "c").T
    return base, lora, {"fan_in_fan_out": True}, {"c.weight": merged}


def embedding(rng: np.random.Generator) -> Case:
    base = {"e.weight": rng.normal(size=(6, 4))}
    a, b = rng.normal(size=(2, 6)), rng.normal(size=(4, 2))
    lora = {"e.lora_embedding_A": a, "e.lora_embedding_B": b}
    return base, lora, {}, {"e.weight": base["e.weight"] + 1.5 * (b @ a).T}


def convolution(rng: np.random.Generator) -> Case:
    shape = (5, 4, 3, 3)
    base, lora = {"k.weight": rng.normal(size=shape)}, factors(rng, "k", shape)
    return base, lora, {}, {"k.weight": base["k.weight"] + product(lora, "k")}


def dora(rng: np.random.Generator) -> Case:
    base, lora, _, merged = linear(rng)
    weight, magnitude = merged["m.q.weight"], rng.random(5)
    lora["m.q.lora_magnitude_vector"] = magnitude
    norms = np.linalg.norm(weight, axis=1)
    weight = weight * (magnitude / norms)[:, None]
    return base, lora, {"use_dora": True}, {"m.q.weight": weight}


def dora_transposed(rng: np.random.Generator) -> Case:
    base, lora, config, merged = fan_in_fan_out(rng)
    weight, magnitude = merged["c.weight"], rng.random(4)
    lora["c.lora_magnitude_vector"] = magnitude
    weight = weight * magnitude / np.linalg.norm(weight, axis=0)
    return base, lora, {**config, "use_dora": True}, {"c.weight": weight}


def lora_bias(rng: np.random.Generator) -> Case:
    base, lora, _, merged = linear(rng)
    base["m.q.bias"], bias = rng.normal(size=5), rng.normal(size=5)
    lora["m.q.lora_B.bias"] = bias
    return base, lora, {}, {**merged, "m.q.bias": base["m.q.bias"] + 1.5 * bias}


def saved_embedding(rng: np.random.Generator) -> Case:
    """PEFT stores an embedding that it adapts, as it was without the update."""
    base, lora, _, _ = embedding(rng)
    stored = rng.normal(size=(6, 4))
    update = 1.5 * (lora["e.lora_embedding_B"] @ lora["e.lora_embedding_A"]).T
    lora["e.base_layer.weight"] = stored
    return base, lora, {}, {"e.weight": stored + update}


def experts(rng: np.random.Generator, *, inputs_first: bool) -> Case:
    """Two experts in one parameter, as PEFT's ParamWrapper stores them."""
    shape = (2, 4, 5) if inputs_first else (2, 5, 4)
    base = {"x.experts.up": rng.normal(size=shape)}
    a, b = rng.normal(size=(2 * 2, 4)), rng.normal(size=(5, 2 * 2))
    lora = {"x.experts.lora_A.weight": a, "x.experts.lora_B.weight": b}
    form = "ore,eri->eio" if inputs_first else "ore,eri->eoi"
    update = np.einsum(form, b.reshape(5, 2, 2), a.reshape(2, 2, 4))
    config = {"target_parameters": ["experts.up"]}
    return base, lora, config, {"x.experts.up": base["x.experts.up"] + 1.5 * update}


CASES: list[Callable[[np.random.Generator], Case]] = [
    *(linear, fan_in_fan_out, embedding, convolution, dora, dora_transposed),
    *(lora_bias, saved_embedding),
    lambda rng: experts(rng, inputs_first=True),
    lambda rng: experts(rng, inputs_first=False),
]


@pytest.mark.parametrize("case", CASES)
def test_updates_are_added_as_peft_adds_them(
    case: Callable[[np.random.Generator], Case], tmp_path: Path
) -> None:
    base, lora, config, expected = case(np.random.default_rng(0))
    adapter = save_adapter(tmp_path / "lora", lora, **config)
    merged = average([adapter], base=save_base(tmp_path / "base", base))
    assert merged.keys() == base.keys()
    for name, tensor in expected.items():
        np.testing.assert_allclose(merged[name], tensor, rtol=1e-12)


def bfloat16_case(tmp_path: Path, size: float) -> tuple[Path, Path, Any]:
    """Base in bfloat16, and an adapter with updates of a size."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(300, 300)).astype(BFLOAT16)
    lora = factors(rng, "q", (300, 300))
    lora["q.lora_A.weight"] *= size
    base = save_base(tmp_path / "base", {"q.weight": weight, "n": weight[0]})
    adapter = save_adapter(tmp_path / "lora", lora)
    return base, adapter, weight.astype(np.float64) + product(lora, "q")


def test_small_updates_of_a_half_precision_base_are_not_lost(tmp_path: Path) -> None:
    """Each of the members alone is rounded to the base."""
    base, adapter, exact = bfloat16_case(tmp_path, 1e-4)
    rounded = exact.astype(np.float32).astype(BFLOAT16)
    merged = average(
        [adapter, adapter], base=base, rule="task_arithmetic", weights=[32, 32]
    )
    start = average([base])["q.weight"].astype(np.float64)
    assert np.mean(rounded.astype(np.float64) == start) > 0.5
    assert merged["q.weight"].dtype == BFLOAT16
    sums = start + 64 * (exact - start)
    wanted = sums.astype(np.float32).astype(BFLOAT16)
    assert np.mean(merged["q.weight"] == wanted) > 0.999
    assert average([adapter], base=base)["q.weight"].tobytes() == rounded.tobytes()
    assert average([adapter], base=base, dtype="float32")["n"].dtype == np.float32


def test_any_division_into_blocks_reads_the_same_bytes(tmp_path: Path) -> None:
    base, adapter, _ = bfloat16_case(tmp_path, 1.0)
    view = adapted(read_layout(base, 0), open_adapter(adapter))
    tensor = view.layout["q.weight"]
    whole, parts = bytearray(tensor.nbytes), bytearray(tensor.nbytes)
    tensor.source.read_into(memoryview(whole), 0)
    rng = np.random.default_rng(0)
    cuts = np.unique([0, tensor.nbytes, *rng.integers(0, tensor.nbytes, 20)])
    for start, stop in reversed([*pairwise(cuts)]):
        tensor.source.read_into(memoryview(parts)[start:stop], int(start))
    assert parts == whole


def test_adapters_are_mixed_with_full_models(tmp_path: Path) -> None:
    base, adapter, exact = bfloat16_case(tmp_path, 1.0)
    full = tmp_path / "full.safetensors"
    weight = np.ones((300, 300), BFLOAT16)
    save(full, {"q.weight": weight, "n": weight[0]})
    merged = average([full, adapter], base=base, weights=[1, 3])["q.weight"]
    mean = ((1 + 3 * exact) / 4).astype(np.float32)
    assert np.mean(merged == mean.astype(BFLOAT16)) > 0.999
    by_name = average([full, f"{base}+{adapter}"], weights=[1, 3])
    assert by_name["q.weight"].tobytes() == merged.tobytes()


def test_gathered_rows_have_the_dtype_of_the_base(tmp_path: Path) -> None:
    base, adapter, exact = bfloat16_case(tmp_path, 1.0)
    view = adapted(read_layout(base, 0), open_adapter(adapter))
    rows = np.array([[7, 0, 2]])
    parts, part = [view.layout["q.weight"]], np.zeros(3, int)
    gathered = GatheredRows(parts, part, rows[0], rows).tensor
    assert gathered.result_dtype == BFLOAT16
    result = average([replace(view, layout={"q.weight": gathered})])["q.weight"]
    expected = exact[rows[0]].astype(np.float32).astype(BFLOAT16)
    assert result.tobytes() == expected.tobytes()


def test_the_result_is_the_base_model_with_a_card_of_both(tmp_path: Path) -> None:
    base, adapter, _ = bfloat16_case(tmp_path, 1.0)
    (base / "README.md").write_text("---\nlicense: mit\n---\n")
    report = average([adapter], tmp_path / "out", base=base)
    assert (tmp_path / "out" / "config.json").exists()
    card = (tmp_path / "out" / "README.md").read_text()
    assert '- "base"\n- "lora"' in card
    assert "| base + lora |" in card
    again = tmp_path / "again"
    same = average([adapter], again, base=base, threads=3, memory=3 << 20)
    assert (report.digest, report.member_digests) == (same.digest, same.member_digests)


def test_the_adapter_is_not_replaced_by_the_output(tmp_path: Path) -> None:
    base, adapter, _ = bfloat16_case(tmp_path, 1.0)
    with pytest.raises(ValueError, match="is or contains the member"):
        average([adapter], adapter, base=base, force=True)


def test_an_adapter_that_changes_meanwhile_is_an_error(tmp_path: Path) -> None:
    base, adapter, _ = bfloat16_case(tmp_path, 1.0)
    view = adapted(read_layout(base, 0), open_adapter(adapter))
    rng = np.random.default_rng(1)
    save_adapter(adapter, factors(rng, "q", (300, 300)))
    with pytest.raises(ValueError, match=r"was (modified|replaced)"):
        view.layout["q.weight"].source.check_unchanged()


def test_ranks_do_not_combine_files_of_an_adapter_before_and_after_a_change(
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(0)
    modules = ["m.q", "m.k"]
    base = {f"{name}.weight": rng.normal(size=(5, 4)) for name in modules}
    model = save_base(tmp_path / "base", base)
    member = f"{model}+{tmp_path / 'adapter'}"
    ranks: dict[str, Any] = {"world_size": 2, "shard_size": 160}
    for rank in range(2):
        lora = {k: v for name in modules for k, v in factors(rng, name, (5, 4)).items()}
        save_adapter(tmp_path / "adapter", lora)
        average([member, member], tmp_path / "out", rank=rank, **ranks)
        assert not (tmp_path / "out").exists()
    report = average([member, member], tmp_path / "out", rank=0, sha256=True, **ranks)
    files = [*(tmp_path / "out").glob("*.safetensors")]
    assert len(files) == 2
    for name, merged in (pair for file in files for pair in load(file).items()):
        expected = base[name] + product(lora, name.removesuffix(".weight"))
        np.testing.assert_allclose(merged, expected, rtol=1e-12)
    assert str(tmp_path / "adapter" / "adapter_model.safetensors") in report.sha256


def test_the_scale_is_that_of_the_updates_alone(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    base, lora, _, merged = linear(rng)
    base["head.weight"], head = rng.normal(size=(2, 3)), rng.normal(size=(2, 3))
    lora["head.weight"] = head
    opened = read_layout(save_base(tmp_path / "base", base), 0)
    adapter = open_adapter(save_adapter(tmp_path / "lora", lora))
    view = adapted(opened, adapter, scale=-2.0)
    result = average([view])
    old = base["m.q.weight"]
    np.testing.assert_allclose(
        result["m.q.weight"], old - 2 * (merged["m.q.weight"] - old), rtol=1e-12
    )
    assert result["head.weight"].tobytes() == head.tobytes()
    assert any(
        "replaces 1 tensors" in note and "the scale" in note for note in view.notes
    )


def test_another_name_of_the_base_is_noted(tmp_path: Path) -> None:
    base, lora, _, _ = linear(np.random.default_rng(0))
    trained_on = {"base_model_name_or_path": "meta/Big"}
    adapter = open_adapter(save_adapter(tmp_path / "lora", lora, **trained_on))
    notes = adapted(read_layout(save_base(tmp_path / "b", base), 0), adapter).notes
    assert any("was trained on 'meta/Big'" in note for note in notes)
    same = read_layout(save_base(tmp_path / "big", base), 0)
    assert not any("trained" in note for note in adapted(same, adapter).notes)


def failure(tmp_path: Path, base: Tensors, lora: Tensors, **config: Any) -> str:
    """Message for an adapter that does not belong to the base."""
    folder = save_base(tmp_path / "base", base, **config)
    with pytest.raises(ValueError, match=str(folder)) as raised:
        open_adapted(f"{folder}+{save_adapter(tmp_path / 'lora', lora)}", 0)
    return str(raised.value)


def test_an_adapter_of_another_base_is_one_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lora = factors(rng, "m.q", (5, 4)) | factors(rng, "m.z", (5, 4))
    lora |= factors(rng, "m.k", (6, 4)) | factors(rng, "m.v", (5, 4))
    base = {f"m.{n}.weight": rng.normal(size=(5, 4)) for n in "qk"}
    message = failure(tmp_path, base, {**lora, "m.n.weight": np.ones(3)})
    absent, shape = message.splitlines()
    assert "is an adapter of another base" in absent
    assert "lacks 3 of its 5 modules" in absent
    assert "the update of 'm.k' has shape (6, 4)" in shape


def test_embeddings_of_another_vocabulary_are_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    base, lora, _, _ = linear(rng)
    base["e.weight"] = rng.normal(size=(6, 4))
    message = failure(tmp_path, base, {**lora, "e.weight": rng.normal(size=(8, 4))})
    assert "replaces 'e.weight' with (float64, (8, 4))" in message
    assert "resize the embeddings" in message


def test_a_tied_output_layer_is_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    base = {"embed_tokens.weight": rng.normal(size=(6, 4))}
    lora = factors(rng, "lm_head", (6, 4))
    assert "stored apart" in failure(tmp_path, base, lora, tie_word_embeddings=True)


def test_a_tied_tensor_is_not_changed_twice(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    folder = save_base(tmp_path / "base", {})
    tensors = {"e.weight": rng.normal(size=(6, 4))}
    save(folder / "model.safetensors", tensors, {"head.weight": "e.weight"})
    lora = factors(rng, "head", (6, 4)) | factors(rng, "e", (6, 4))
    adapter = save_adapter(tmp_path / "lora", lora)
    with pytest.raises(ValueError, match=r"'e\.weight'.*twice: it is tied"):
        open_adapted(f"{folder}+{adapter}", 0)


@pytest.mark.parametrize(
    ("config", "tensors"),
    [
        ({"quantization_config": {"quant_method": "gptq"}}, {}),
        ({}, {"m.q.qweight": np.ones((4, 4), np.int32)}),
        ({}, {"m.q.weight.absmax": np.ones(4, np.float32)}),
        (
            {},
            {
                "m.q.weight": np.ones((5, 4), ml_dtypes.float8_e4m3fn),
                "m.q.weight_scale": np.ones(1, np.float32),
            },
        ),
    ],
)
def test_a_quantized_base_is_refused_with_the_way_to_do_it(
    config: dict[str, Any], tensors: Tensors, tmp_path: Path
) -> None:
    base, lora, _, _ = linear(np.random.default_rng(0))
    message = failure(tmp_path, {**base, **tensors}, lora, **config)
    assert "has quantized weights" in message
    assert "quantize the result" in message


@pytest.mark.parametrize(
    "option", [{"arrow_config": {"top_k": 1}}, {"init_lora_weights": "pissa"}]
)
def test_variants_that_are_no_sum_are_refused(
    option: dict[str, Any], tmp_path: Path
) -> None:
    base, lora, _, _ = linear(np.random.default_rng(0))
    adapter = save_adapter(tmp_path / "lora", lora, **option)
    with pytest.raises(ValueError, match=r"Arrow|changes the base"):
        average([adapter], base=save_base(tmp_path / "base", base))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"alora_invocation_tokens": [3, 4]}, "aLoRA.*without merging"),
        ({"layer_replication": [[0, 1], [0, 1]]}, "layer_replication: .*replicated"),
        ({"trainable_token_indices": [1]}, "rows of embeddings.*merge_and_unload"),
        ({"use_qalora": True}, "QA-LoRA.*without merging"),
    ],
)
def test_updates_that_peft_does_not_add_to_a_weight_are_refused(
    option: dict[str, Any], message: str, tmp_path: Path
) -> None:
    base, lora, _, _ = linear(np.random.default_rng(0))
    adapter = save_adapter(tmp_path / "lora", lora, **option)
    with pytest.raises(ValueError, match=message):
        average([adapter], base=save_base(tmp_path / "base", base))


@pytest.mark.parametrize(
    "shape", [(1, 4), (3, 1)], ids=["of the inputs", "of another layer"]
)
def test_norms_of_lycoris_over_inputs_are_refused(
    shape: tuple[int, int], tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "lora.safetensors"
    names = [f"lora_unet_q.lora_{part}.weight" for part in ("down", "up")]
    tensors = dict(zip(names, rng.normal(size=(2, 2, 4)), strict=True))
    tensors[names[1]] = tensors[names[1]].T.copy()
    base = read_layout({"q.weight": rng.normal(size=(4, 4))}, 0)
    save(path, {**tensors, "lora_unet_q.dora_scale": np.ones((4, 1))})
    adapted(base, open_adapter(path))
    save(path, {**tensors, "lora_unet_q.dora_scale": np.ones(shape)})
    with pytest.raises(ValueError, match=r"magnitudes of 'lora_unet_q'.*4 outputs"):
        adapted(base, open_adapter(path))


def test_square_weights_have_the_orientation_of_the_model(tmp_path: Path) -> None:
    """PEFT reads it from the layer, also if the configuration says otherwise."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(4, 4))
    lora = factors(rng, "h.c_proj", (4, 4)) | factors(rng, "h.linear", (4, 4))
    base = {"h.c_proj.weight": weight, "h.linear.weight": weight}
    folder = save_base(tmp_path / "base", base, model_type="gpt2")
    merged = average([save_adapter(tmp_path / "lora", lora)], base=folder)
    for module, update in (
        ("h.c_proj", product(lora, "h.c_proj").T),
        ("h.linear", product(lora, "h.linear")),
    ):
        np.testing.assert_allclose(merged[f"{module}.weight"], weight + update)


@pytest.mark.parametrize("model_type", ["gpt_oss", "qwen3_moe"])
def test_several_parameters_of_experts_are_distinguished_by_shape(
    model_type: str, tmp_path: Path
) -> None:
    """As in PEFT: the first parameter is inside; experts of gpt-oss are transposed."""
    rng = np.random.default_rng(0)
    form = "ore,eri->eio" if model_type == "gpt_oss" else "ore,eri->eoi"
    sizes = {"up": ("x.experts.base_layer", 6), "down": ("x.experts", 4)}
    base: Tensors = {}
    lora: Tensors = {}
    expected: Tensors = {}
    for name, (module, n_outputs) in sizes.items():
        a, b = rng.normal(size=(2 * 2, 4)), rng.normal(size=(n_outputs, 2 * 2))
        lora |= {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}
        update = np.einsum(form, b.reshape(-1, 2, 2), a.reshape(2, 2, 4))
        base[f"x.experts.{name}"] = rng.normal(size=update.shape)
        expected[f"x.experts.{name}"] = base[f"x.experts.{name}"] + 1.5 * update
    parameters = {"target_parameters": ["experts.up", "experts.down"]}
    adapter = save_adapter(tmp_path / "lora", lora, **parameters)
    folder = save_base(tmp_path / "base", base, model_type=model_type)
    merged = average([adapter], base=folder)
    for name, array in expected.items():
        np.testing.assert_allclose(merged[name], array, rtol=1e-12)


def test_parameters_of_one_shape_are_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    base = {f"x.experts.{name}": rng.normal(size=(2, 4, 4)) for name in ("a", "b")}
    lora = {
        f"{module}.lora_{part}.weight": rng.normal(size=(4, 4))
        for module in ("x.experts", "x.experts.base_layer")
        for part in "AB"
    }
    parameters = {"target_parameters": ["experts.a", "experts.b"]}
    adapter = save_adapter(tmp_path / "lora", lora, **parameters)
    with pytest.raises(ValueError, match="distinguished by their shapes"):
        average([adapter], base=save_base(tmp_path / "base", base))


def test_models_of_recipes_may_have_adapters(tmp_path: Path) -> None:
    """As mergekit writes them: model+lora."""
    base, adapter, exact = bfloat16_case(tmp_path, 1.0)
    recipe = tmp_path / "recipe.yml"
    recipe.write_text(
        f"""\
models:
  - model: {base}+{adapter}
    parameters: {{weight: 0.5}}
base_model: {base}
merge_method: task_arithmetic
dtype: float32
"""
    )
    (read,) = read_recipes(recipe)
    write(plan_recipe(read, tmp_path / "out"))
    merged = load(tmp_path / "out" / "model.safetensors")["q.weight"]
    start = average([base])["q.weight"].astype(np.float64)
    expected = (start + 0.5 * (exact - start)).astype(np.float32)
    np.testing.assert_allclose(merged, expected, rtol=1e-6)
    assert merged.dtype == np.float32


@pytest.mark.parametrize("rule", ["mean", "ties"])
def test_merges_of_adapters_are_verified(rule: str, tmp_path: Path) -> None:
    base, adapter, _ = bfloat16_case(tmp_path, 1.0)
    average([adapter, adapter], tmp_path / "out", base=base, rule=rule)
    found = verify(tmp_path / "out", [adapter, adapter], base=base)
    assert (found.problems, found.unverified) == ([], [])
    _, lora, _, _ = linear(np.random.default_rng(1))
    lora = {n: np.ones((2, 300) if "A" in n else (300, 2)) for n in lora}
    other = save_adapter(
        tmp_path / "x", {n.replace("m.q", "q"): t for n, t in lora.items()}
    )
    assert len(verify(tmp_path / "out", [adapter, other], base=base).problems) == 1
