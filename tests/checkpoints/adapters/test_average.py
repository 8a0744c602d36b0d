"""Merged adapters have the weighted sum of the updates, in files of PEFT and kohya."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from ensembles._typing import Array
from ensembles.checkpoints import average_adapters, plan_adapters
from tests.checkpoints.adapters.lora_files import (
    MODULES,
    PREFIX,
    factors,
    kohya_updates,
    peft_updates,
    save_kohya,
    save_peft,
)


def weighted(updates: list[dict[str, Any]], weights: list[float]) -> dict[str, Any]:
    names = dict.fromkeys(name for update in updates for name in update)
    return {
        name: sum(w * u.get(name, 0.0) for w, u in zip(weights, updates, strict=True))
        for name in names
    }


def assert_same(actual: dict[str, Any], expected: dict[str, Any]) -> None:
    assert actual.keys() == expected.keys()
    for name, update in expected.items():
        scale = max(float(np.abs(update).max()), 1e-3)
        np.testing.assert_allclose(actual[name] / scale, update / scale, atol=3e-7)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True},
        {"alpha_pattern": {"layers.1.q_proj": 7}},
        {"alpha_pattern": {"q_proj": 5, "layers.1.q_proj": 7}},
        {"target_modules": ".*q_proj"},
    ],
    ids=str,
)
@pytest.mark.parametrize("weights", [[1, 1], [0.7, -0.3], [-1, 0]], ids=str)
def test_the_update_is_the_weighted_sum(
    tmp_path: Path, options: dict[str, Any], weights: list[float]
) -> None:
    first = save_peft(tmp_path / "a", factors(0), **options)
    second = save_peft(tmp_path / "b", factors(1, rank=3), lora_alpha=5)
    expected = weighted([peft_updates(first), peft_updates(second)], weights)
    report = average_adapters(
        [first, second], tmp_path / "out", rule="task_arithmetic", weights=weights
    )
    assert_same(peft_updates(tmp_path / "out"), expected)
    assert report.energy == 1


@settings(max_examples=25)
@given(
    seeds=st.lists(st.integers(0, 4), min_size=1, max_size=4),
    weights=st.lists(st.floats(-2, 2), min_size=4, max_size=4),
    as_kohya=st.booleans(),
)
def test_any_adapters_and_weights_give_the_weighted_sum(
    tmp_path_factory: pytest.TempPathFactory,
    seeds: list[int],
    weights: list[float],
    as_kohya: bool,
) -> None:
    folder = tmp_path_factory.mktemp("adapters")
    weights = weights[: len(seeds)]
    if not any(weights):
        weights[0] = 1.0
    names = {f"lora_unet_{i}": shape for i, shape in enumerate(MODULES.values())}
    paths, updates = [], []
    for index, seed in enumerate(seeds):
        rank = 1 + seed % 3
        if as_kohya:
            path = save_kohya(
                folder / f"{index}.safetensors", factors(seed, names, rank)
            )
            updates.append(kohya_updates(path))
        else:
            path = save_peft(folder / f"{index}", factors(seed, rank=rank))
            updates.append(peft_updates(path))
        paths.append(path)
    out = folder / ("out.safetensors" if as_kohya else "out")
    report = average_adapters(paths, out, rule="task_arithmetic", weights=weights)
    actual = kohya_updates(out) if as_kohya else peft_updates(out)
    assert_same(actual, weighted(updates, weights))
    # Copies of an adapter share its factors.
    distinct = {seed for seed, w in zip(seeds, weights, strict=True) if w}
    assert report.modules[0].rank == sum(1 + seed % 3 for seed in distinct)


def test_the_mean_divides_by_the_sum_of_weights_and_keeps_the_factors(
    tmp_path: Path,
) -> None:
    paths = [save_peft(tmp_path / f"{i}", factors(i)) for i in range(3)]
    average_adapters(paths, tmp_path / "out")
    expected = weighted([peft_updates(path) for path in paths], [1 / 3] * 3)
    assert_same(peft_updates(tmp_path / "out"), expected)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (6, 3)
    # The common coefficient is in alpha, so that no factor is rounded.
    merged = load_file(tmp_path / "out" / "adapter_model.safetensors")
    a, b = factors(1)["model.layers.0.q_proj"]
    stem = f"{PREFIX}model.layers.0.q_proj.lora_"
    assert merged[f"{stem}A.weight"][2:4].tobytes() == a.tobytes()
    assert np.array_equal(merged[f"{stem}B.weight"][:, 2:4], b)


def test_scale_multiplies_the_sum(tmp_path: Path) -> None:
    paths = [save_peft(tmp_path / f"{i}", factors(i)) for i in range(2)]
    params = {"scale": 0.3}
    average_adapters(
        paths, tmp_path / "out", rule="task_arithmetic", rule_params=params
    )
    expected = weighted([peft_updates(path) for path in paths], [0.3, 0.3])
    assert_same(peft_updates(tmp_path / "out"), expected)


def test_a_single_adapter_with_weight_one_is_copied_whatever_it_uses(
    tmp_path: Path,
) -> None:
    """Cases of a public report, in which merges with weight 1 changed the logits."""
    module = "model.layers.0.q_proj"
    one = {module: factors(0)[module]}
    magnitude = {f"{PREFIX}{module}.lora_magnitude_vector": np.ones(7, np.float32)}
    diagonal = {f"{PREFIX}{module}.lora_diag": np.ones(2, np.float32)}
    bias = {f"{PREFIX}{module}.lora_B.bias": np.ones(7, np.float32)}
    cases: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({}, {}),
        ({"use_rslora": True}, {}),
        ({"lora_bias": True}, bias),
        ({"use_dora": True}, magnitude),
        ({"kasa_config": {"beta": 1e-4}}, diagonal),
    ]
    for number, (options, more) in enumerate(cases):
        path = save_peft(tmp_path / f"{number}", one, more, **options)
        out = tmp_path / f"out{number}"
        average_adapters([path], out)
        stored = load_file(path / "adapter_model.safetensors")
        copied = load_file(out / "adapter_model.safetensors")
        assert {k: v.tobytes() for k, v in copied.items()} == {
            k: v.tobytes() for k, v in stored.items()
        }
        configs = [
            json.loads((folder / "adapter_config.json").read_text())
            for folder in (path, out)
        ]
        assert configs[0] == configs[1]


@pytest.mark.parametrize(
    ("options", "more", "message"),
    [
        ({"use_dora": True}, {}, r"uses DoRA.*\(use_dora\).*ensemble lora apply"),
        ({}, {"lora_magnitude_vector": np.ones(7)}, r"uses DoRA"),
        ({"kasa_config": {"beta": 1}}, {}, r"uses KaSA"),
        ({"init_lora_weights": "pissa_niter_4"}, {}, r"'pissa_niter_4'.*convert it"),
    ],
    ids=["dora", "magnitudes", "kasa", "pissa"],
)
def test_updates_without_a_weighted_sum_are_refused(
    tmp_path: Path, options: dict[str, Any], more: dict[str, Any], message: str
) -> None:
    module = "model.layers.0.q_proj"
    stored = {f"{PREFIX}{module}.{name}": value for name, value in more.items()}
    one = {module: factors(0)[module]}
    paths = [save_peft(tmp_path / f"{i}", one, stored, **options) for i in range(2)]
    with pytest.raises(ValueError, match=message):
        average_adapters(paths, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_module_that_an_adapter_lacks_counts_as_zero(tmp_path: Path) -> None:
    both, first = (
        factors(0),
        {"model.layers.0.q_proj": factors(1)["model.layers.0.q_proj"]},
    )
    paths = [save_peft(tmp_path / "a", both), save_peft(tmp_path / "b", first)]
    report = average_adapters(paths, tmp_path / "out", weights=[3, 1])
    expected = weighted([peft_updates(path) for path in paths], [0.75, 0.25])
    assert_same(peft_updates(tmp_path / "out"), expected)
    assert any("has no update of 1 of 2 modules" in note for note in report.plan.notes)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["target_modules"] == list(both)


def test_the_bias_of_second_factors_is_part_of_the_sum(tmp_path: Path) -> None:
    module = "model.layers.0.q_proj"
    name = f"{PREFIX}{module}.lora_B.bias"
    bias = np.arange(7, dtype=np.float32)
    one = {module: factors(0)[module]}
    first = save_peft(tmp_path / "a", one, {name: bias}, lora_bias=True)
    second = save_peft(tmp_path / "b", {module: factors(1)[module]}, lora_alpha=8)
    average_adapters(
        [first, second], tmp_path / "out", rule="task_arithmetic", weights=[-2, 1]
    )
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    merged = load_file(tmp_path / "out" / "adapter_model.safetensors")
    scale = config["lora_alpha"] / config["r"]
    assert config["lora_bias"]
    np.testing.assert_allclose(scale * merged[name], -2 * 1.5 * bias, rtol=1e-6)


def test_whole_tensors_are_averaged_if_the_coefficients_sum_to_one(
    tmp_path: Path,
) -> None:
    name = f"{PREFIX}score.weight"
    paths = [
        save_peft(
            tmp_path / f"{i}",
            factors(i),
            {name: np.full((2, 3), i, np.float32)},
            modules_to_save=["score"],
        )
        for i in range(2)
    ]
    average_adapters(paths, tmp_path / "out", weights=[1, 3])
    merged = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert np.all(merged[name] == 0.75)
    with pytest.raises(ValueError, match=r"'score.weight' replaces that of the base"):
        plan_adapters(paths, tmp_path / "sum", rule="task_arithmetic")
    (tmp_path / "c").mkdir()
    bare = save_peft(tmp_path / "c" / "d", factors(2))
    with pytest.raises(ValueError, match=r"lacks tensor 'score.weight'"):
        plan_adapters([*paths, bare], tmp_path / "sum")


def test_weights_of_the_base_beside_updates_are_copied(tmp_path: Path) -> None:
    """PEFT stores the weight of an embedding that has an update."""
    name = f"{PREFIX}model.layers.0.q_proj.base_layer.weight"
    weight = np.ones((7, 6), np.float32)
    paths = [
        save_peft(tmp_path / f"{i}", factors(i), {name: weight + (i == 2)})
        for i in range(3)
    ]
    out = tmp_path / "out"
    average_adapters(paths[:2], out, rule="task_arithmetic", weights=[1, -1])
    assert np.array_equal(load_file(out / "adapter_model.safetensors")[name], weight)
    updates = [peft_updates(path) for path in paths]
    assert_same(peft_updates(out), weighted(updates[:2], [1, -1]))
    with pytest.raises(ValueError, match=r"different tensors .*base_layer.weight'"):
        average_adapters(paths, tmp_path / "other")


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"shapes": {"model.layers.0.q_proj": (8, 6)}}, r"8 outputs.*different bases"),
        ({"fan_in_fan_out": True}, r"the same fan_in_fan_out: .* has None"),
    ],
)
def test_adapters_of_different_bases_are_refused(
    tmp_path: Path, second: dict[str, Any], message: str
) -> None:
    shapes = second.pop("shapes", None)
    paths = [
        save_peft(tmp_path / "a", factors(0)),
        save_peft(tmp_path / "b", factors(1, shapes), **second),
    ]
    with pytest.raises(ValueError, match=message):
        plan_adapters(paths, tmp_path / "out")


def test_a_rank_keeps_the_largest_singular_values(tmp_path: Path) -> None:
    paths = [save_peft(tmp_path / f"{i}", factors(i)) for i in range(3)]
    expected = weighted([peft_updates(path) for path in paths], [1 / 3] * 3)
    report = average_adapters(paths, tmp_path / "out", rank=3)
    actual = peft_updates(tmp_path / "out")
    kept = []
    for module, update in expected.items():
        u, s, vt = np.linalg.svd(update, full_matrices=False)
        best = u[:, :3] * s[:3] @ vt[:3]
        np.testing.assert_allclose(actual[module], best, atol=1e-6)
        kept.append(np.sum(s[:3] ** 2) / np.sum(s**2))
    np.testing.assert_allclose([m.energy for m in report.modules], kept)
    assert [m.rank for m in report.modules] == [3, 3]
    total = sum(np.sum(update**2) for update in expected.values())
    lost = sum(np.sum((actual[m] - expected[m]) ** 2) for m in expected)
    assert report.energy == pytest.approx(1 - lost / total, abs=1e-6)


def test_an_energy_takes_the_smallest_rank_that_keeps_it(tmp_path: Path) -> None:
    paths = [save_peft(tmp_path / f"{i}", factors(i)) for i in range(3)]
    expected = weighted([peft_updates(path) for path in paths], [1 / 3] * 3)
    report = average_adapters(paths, tmp_path / "out", energy=0.9)
    for module in report.modules:
        squares = np.linalg.svd(expected[module.name], compute_uv=False) ** 2
        kept = np.cumsum(squares) / squares.sum()
        assert module.rank == 1 + int(np.sum(kept < 0.9))
        assert 0.9 <= module.energy == pytest.approx(kept[module.rank - 1])
    actual = peft_updates(tmp_path / "out")  # checks ranks by the configuration
    assert actual.keys() == expected.keys()


def test_the_result_has_the_same_bytes_for_any_number_of_threads(
    tmp_path: Path,
) -> None:
    paths = [save_peft(tmp_path / f"{i}", factors(i)) for i in range(2)]
    results = []
    for threads in (1, 3):
        out = tmp_path / f"out{threads}"
        average_adapters(paths, out, rank=3, threads=threads)
        results.append({p.name: p.read_bytes() for p in out.iterdir()})
    assert results[0] == results[1]


def test_factors_of_runs_with_a_frozen_factor_keep_their_rank(tmp_path: Path) -> None:
    shared = factors(0)
    others = {m: (shared[m][0], b) for m, (_, b) in factors(1).items()}
    paths = [save_peft(tmp_path / "a", shared), save_peft(tmp_path / "b", others)]
    report = average_adapters(paths, tmp_path / "out", weights=[1, 3])
    assert [module.rank for module in report.modules] == [2, 2]
    expected = weighted([peft_updates(path) for path in paths], [0.25, 0.75])
    assert_same(peft_updates(tmp_path / "out"), expected)


@pytest.mark.parametrize("rank", [None, 2])
def test_other_rules_merge_in_the_space_of_the_factors(
    tmp_path: Path, rank: int | None
) -> None:
    both, first = (
        factors(0),
        {"model.layers.0.q_proj": factors(1)["model.layers.0.q_proj"]},
    )
    paths = [save_peft(tmp_path / "a", both), save_peft(tmp_path / "b", first)]
    # Inner products of updates, and so their spherical interpolation, are the same.
    report = average_adapters(
        paths[:1] * 2, tmp_path / "same", rule="slerp", rank=rank, weights=[1, 3]
    )
    assert_same(peft_updates(tmp_path / "same"), peft_updates(paths[0]))
    params = {"density": 1.0, "normalize": False}
    average_adapters(
        paths, tmp_path / "out", rule="ties", rule_params=params, rank=rank
    )
    merged = peft_updates(tmp_path / "out")
    # An absent update is zero, and TIES of one task vector is the vector.
    alone = peft_updates(paths[0])["model.layers.1.q_proj"]
    np.testing.assert_allclose(merged["model.layers.1.q_proj"], alone, atol=1e-6)
    assert [module.rank for module in report.modules] == [2, 2]


def test_whole_tensors_and_biases_need_a_weighted_sum(tmp_path: Path) -> None:
    bias = {f"{PREFIX}model.layers.0.q_proj.lora_B.bias": np.ones(7, np.float32)}
    score = {f"{PREFIX}score.weight": np.ones((2, 3), np.float32)}
    cases: list[tuple[dict[str, Array], str]] = [(bias, "lora_bias"), (score, "score")]
    for number, (more, message) in enumerate(cases):
        path = save_peft(tmp_path / f"{number}", factors(0), more)
        with pytest.raises(ValueError, match=message):
            plan_adapters([path, path], tmp_path / "out", rule="ties")


def test_equal_second_factors_are_shared_beside_others(tmp_path: Path) -> None:
    shared = factors(0)
    others = {m: (a, shared[m][1]) for m, (a, _) in factors(1).items()}
    paths = [
        save_peft(tmp_path / f"{index}", modules)
        for index, modules in enumerate([shared, others, factors(2)])
    ]
    report = average_adapters(paths, tmp_path / "out", weights=[1, 5, 2])
    assert [module.rank for module in report.modules] == [4, 4]
    updates = [peft_updates(path) for path in paths]
    assert_same(
        peft_updates(tmp_path / "out"), weighted(updates, [1 / 8, 5 / 8, 2 / 8])
    )


def test_modules_whose_name_ends_like_another_keep_their_own_rank(
    tmp_path: Path,
) -> None:
    both = factors(0, {"lin": (4, 5), "a.lin": (4, 5), "b.lin": (4, 5)})
    first = {"lin": factors(1, {"lin": (4, 5)})["lin"]}
    second = {"a.lin": factors(2, {"a.lin": (4, 5)}, rank=3)["a.lin"]}
    paths = [
        save_peft(tmp_path / f"{index}", modules)
        for index, modules in enumerate([both, first, second])
    ]
    average_adapters(paths, tmp_path / "out")
    expected = weighted([peft_updates(path) for path in paths], [1 / 3] * 3)
    assert_same(peft_updates(tmp_path / "out"), expected)


def test_experts_are_merged_one_by_one(tmp_path: Path) -> None:
    """The expert is the slow axis of A and the fast axis of B in ``ParamWrapper``."""
    stem = f"{PREFIX}mlp.experts.lora_"
    updates, paths = [], []
    for seed in range(2):
        rng = np.random.default_rng(seed)
        a, b = rng.standard_normal((3 * 2, 5)), rng.standard_normal((7, 2 * 3))
        more = {f"{stem}A.weight": a, f"{stem}B.weight": b}
        options = {"target_parameters": ["experts.up"], "target_modules": []}
        paths.append(save_peft(tmp_path / f"{seed}", {}, more, **options))
        dense = np.einsum("ore,eri->eoi", b.reshape(7, 2, 3), a.reshape(3, 2, 5))
        updates.append({"all": 1.5 * dense})
    for rank in (None, 4):
        out = tmp_path / f"out{rank}"
        average_adapters(paths, out, weights=[1, 3], rank=rank)
        merged = load_file(out / "adapter_model.safetensors")
        config = json.loads((out / "adapter_config.json").read_text())
        assert config["r"] == 4
        a = merged[f"{stem}A.weight"].reshape(3, 4, 5)
        b = merged[f"{stem}B.weight"].reshape(7, 4, 3)
        scale = config["lora_alpha"] / config["r"]
        actual = {"all": scale * np.einsum("ore,eri->eoi", b, a)}
        assert_same(actual, weighted(updates, [0.25, 0.75]))


def test_a_scale_that_float32_cannot_hold_is_not_an_alpha(tmp_path: Path) -> None:
    """An alpha of 0 would count as the rank."""
    path = save_kohya(tmp_path / "a.safetensors", factors(0, {"lora_unet_q": (4, 5)}))
    out = tmp_path / "out.safetensors"
    average_adapters([path], out, rule="task_arithmetic", weights=[1e-60])
    assert not kohya_updates(out)["lora_unet_q"].any()


def test_the_model_card_has_no_local_path_of_the_base(tmp_path: Path) -> None:
    cached = "/home/me/hub/models--meta--Big/snapshots/1f"
    names = ["/home/me/small", cached, "org/model"]
    paths = [
        save_peft(tmp_path / f"{i}", factors(i), base_model_name_or_path=name)
        for i, name in enumerate(names)
    ]
    average_adapters(paths, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert 'base_model:\n- "small"\n- "meta/Big"\n- "org/model"\ntags:' in card


def test_options_that_are_not_used_may_differ(tmp_path: Path) -> None:
    """Older versions of PEFT do not write the group size of QA-LoRA."""
    newer = save_peft(tmp_path / "new", factors(0), qalora_group_size=16)
    older = save_peft(tmp_path / "old", factors(1))
    average_adapters([newer, older], tmp_path / "out")
    other = save_peft(
        tmp_path / "grouped", factors(1), use_qalora=True, qalora_group_size=8
    )
    with pytest.raises(ValueError, match="same use_qalora"):
        average_adapters([newer, other], tmp_path / "out2")


def test_adapters_without_factors_are_merged(tmp_path: Path) -> None:
    """As extracted from models whose norms alone differ."""
    name = "base_model.model.norm.weight"
    paths = [
        save_peft(tmp_path / f"{i}", {}, {name: np.full(3, i, np.float32)})
        for i in range(2)
    ]
    average_adapters(paths, tmp_path / "out")
    merged = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert merged[name].tolist() == [0.5, 0.5, 0.5]


def test_models_beside_adapters_need_the_base(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    paths = [save_peft(tmp_path / "a", factors(0)), tmp_path / "model"]
    with pytest.raises(ValueError, match=r"/model must have .*pass base=PATH"):
        average_adapters(paths, tmp_path / "out")


def test_values_to_compress_must_be_finite(tmp_path: Path) -> None:
    damaged = factors(1)
    damaged["model.layers.1.q_proj"][0][0, 0] = np.nan
    paths = [save_peft(tmp_path / "a", factors(0)), save_peft(tmp_path / "b", damaged)]
    with pytest.raises(ValueError, match=r"'model.layers.1.q_proj' has NaN.*/b"):
        average_adapters(paths, tmp_path / "out", rank=2)
    with pytest.warns(UserWarning, match="contain NaN"):
        average_adapters(paths, tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank must be a whole number"),
        ({"energy": 1.5}, "energy must be a fraction"),
        ({"energy": "0.9"}, "energy must be a fraction"),
        ({"rank": 2, "energy": 0.5}, "both choose the rank"),
        ({"rule": "fisher"}, "fisher"),
        ({"rule": "tise"}, "did you mean 'ties'"),
        ({"weights": [1, -1]}, "sum"),
        ({"rule_params": {"scale": 2}}, "scale"),
    ],
    ids=str,
)
def test_wrong_options_are_refused(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    paths = [save_peft(tmp_path / f"{i}", factors(i)) for i in range(2)]
    with pytest.raises(ValueError, match=message):
        average_adapters(paths, tmp_path / "out", **options)


def test_rounding_to_a_short_format_is_noted_only_if_it_happens(tmp_path: Path) -> None:
    short = {m: (a.astype("f2"), b.astype("f2")) for m, (a, b) in factors(0).items()}
    other = {m: (a.astype("f2"), b.astype("f2")) for m, (a, b) in factors(1).items()}
    paths = [save_peft(tmp_path / "a", short), save_peft(tmp_path / "b", other)]

    def is_noted(**options: Any) -> bool:
        notes = plan_adapters(paths, tmp_path / "out", **options).notes
        return any("rounded to float16" in note for note in notes)

    assert not is_noted()
    assert is_noted(weights=[1, 2])
    assert not is_noted(weights=[1, 2], dtype="float32")
    expected = weighted([peft_updates(path) for path in paths], [1 / 3, 2 / 3])
    average_adapters(paths, tmp_path / "out", weights=[1, 2], dtype="float32")
    assert_same(peft_updates(tmp_path / "out"), expected)
