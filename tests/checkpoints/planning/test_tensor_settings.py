"""Weights and parameters of single tensors."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ensembles.checkpoints import TensorSettings, average, plan, verify
from ensembles.rules import RULES


def members(
    n: int, seed: int = 0, names: tuple[str, ...] = ("a", "b", "c")
) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    return [
        {name: rng.standard_normal((7, 11)).astype(np.float32) for name in names}
        for _ in range(n)
    ]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("rule", ["mean", "slerp", "power_mean", "karcher_mean"])
def test_each_tensor_equals_an_average_with_its_own_settings(
    rule: str, threads: int
) -> None:
    stack = [{k: np.abs(v) for k, v in m.items()} for m in members(2)]
    params: dict[str, Any] = {"p": 3} if rule == "power_mean" else {}
    settings = {"b": TensorSettings([0.25, 0.75], params), "c": TensorSettings([1, 3])}
    merged = average(
        stack, rule=rule, weights=[2, 1], settings=settings, threads=threads
    )
    expected: dict[str, Any] = {
        "a": ([2, 1], {}),
        "b": ([0.25, 0.75], params),
        "c": ([1, 3], {}),
    }
    for name, (weights, own) in expected.items():
        alone = average(
            [{name: m[name]} for m in stack],
            rule=rule,
            weights=weights,
            rule_params=own,
        )
        np.testing.assert_array_equal(merged[name], alone[name])


def test_passes_are_left_out_of_the_tensors_that_do_not_need_them() -> None:
    stack, (base,) = members(3), members(1, seed=1)
    settings = {"b": TensorSettings(None, {"density": 1.0})}
    merged = average(
        stack,
        base=base,
        rule="ties",
        rule_params={"density": 0.3, "scope": "tensor"},
        settings=settings,
    )
    for name, density in {"a": 0.3, "b": 1.0, "c": 0.3}.items():
        alone = RULES["ties"](
            np.stack([m[name].ravel() for m in stack]),
            base=base[name].ravel(),
            density=density,
        )
        np.testing.assert_array_equal(merged[name].ravel(), alone.astype(np.float32))


def test_the_result_records_the_settings(tmp_path: Path) -> None:
    stack = members(2)
    for index, member in enumerate(stack):
        save_file(member, tmp_path / f"{index}.safetensors")
    paths = [tmp_path / "0.safetensors", tmp_path / "1.safetensors"]
    out = tmp_path / "out.safetensors"
    average(paths, out, settings={"b": TensorSettings([1, 3])})
    np.testing.assert_array_equal(
        load_file(out)["b"], average(stack, weights=[1, 3])["b"]
    )
    header = out.read_bytes()[8 : 8 + int.from_bytes(out.read_bytes()[:8], "little")]
    recipe = json.loads(json.loads(header)["__metadata__"]["ensembles"])
    assert recipe["settings"] == [
        {"weights": [1.0, 3.0], "params": {}, "tensors": ["b"]}
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"z": TensorSettings([1, 1])}, "settings must name tensors.*'z'"),
        ({"a": TensorSettings([1, 1, 1])}, "tensor 'a'.*2 members"),
        ({"a": TensorSettings(None, {"q": 1})}, "'q'"),
    ],
)
def test_settings_that_do_not_fit_are_refused_by_name(
    settings: dict[str, TensorSettings], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        average(members(2), settings=settings)


@pytest.mark.parametrize("settings", [{"a": [1, 2]}, {"a": {"weights": None}}, [1, 2]])
def test_settings_of_another_type_are_refused(settings: Any) -> None:
    with pytest.raises(TypeError, match=r"settings must be .* TensorSettings"):
        average(members(2), settings=settings)


@pytest.mark.parametrize("rule", ["ties", "magnitude_prune", "breadcrumbs_ties"])
def test_statistics_of_the_whole_model_need_all_members_in_each_tensor(
    rule: str,
) -> None:
    (base,), stack = members(1, seed=1), members(3)
    del stack[1]["b"]
    params = {"scope": "model", "density": 0.5}
    with pytest.raises(ValueError, match="'b'; pass scope='tensor'"):
        plan(stack, base=base, rule=rule, rule_params=params, missing="present")


def test_statistics_of_the_whole_model_need_the_same_settings() -> None:
    with pytest.raises(ValueError, match="scope='tensor'"):
        plan(
            members(2),
            base=members(1, seed=1)[0],
            rule="ties",
            rule_params={"scope": "model"},
            settings={"a": TensorSettings([1, 2], {"scope": "model"})},
        )


def test_tensors_are_combined_from_the_members_that_have_them(tmp_path: Path) -> None:
    stack = members(3, names=("a", "b", "c", "d"))
    del stack[0]["b"], stack[1]["c"], stack[1]["b"], stack[2]["d"]
    settings = {"c": TensorSettings([1, 4])}
    options: dict[str, Any] = {"weights": [1, 2, 3], "settings": settings}
    merged = average(stack, missing="present", **options)
    expected: dict[str, dict[int, float]] = {
        "a": {0: 1, 1: 2, 2: 3},
        "b": {2: 3},
        "c": {0: 1, 2: 4},
        "d": {0: 1, 1: 2},
    }
    assert merged.keys() == expected.keys()
    for name, weights in expected.items():
        alone = average(
            [{name: stack[index][name]} for index in weights],
            weights=[*weights.values()],
        )
        np.testing.assert_array_equal(merged[name], alone[name])
    paths = [tmp_path / f"{index}.safetensors" for index in range(3)]
    for path, member in zip(paths, stack, strict=True):
        save_file(member, path)
    out = tmp_path / "out.safetensors"
    report = average(paths, out, missing="present", **options)
    alone_digests = [average([p], tmp_path / f"{p.name}.pt").digest for p in paths]
    assert report.member_digests == alone_digests
    assert not verify(out, paths).problems


def test_subsets_of_the_members_are_checked_by_the_rule() -> None:
    stack = members(2)
    del stack[1]["b"]
    with pytest.raises(ValueError, match=r"'b' has 1 of 2 members.*needs 2 members"):
        average(stack, rule="slerp", missing="present")
    with pytest.raises(ValueError, match=r"'b': members\[0\] has it, base lacks it"):
        average(members(2), base=stack[1], rule="ties", missing="present")
    with pytest.raises(ValueError, match="'b' has 1 of 2 members"):
        average(stack, weights=[0, 1], missing="present")
