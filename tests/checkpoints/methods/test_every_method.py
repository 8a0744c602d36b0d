"""Every merge method runs on every kind of checkpoint, with the same bytes."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from ensembles._typing import Array
from ensembles.checkpoints import ModelSoup, average, get_state, plan
from ensembles.checkpoints.merging import streaming
from ensembles.checkpoints.methods.builtin import RULES
from ensembles.rules.rule import Rule
from tests.checkpoints.building import load, same_bytes, save, save_shards
from tests.checkpoints.directories.test_distributed import write
from tests.rules.test_rules_with_a_base import variants

METHODS = [r for r in RULES.values() if r.needs_base and r.n_members is None]
each_method = pytest.mark.parametrize("rule", METHODS, ids=lambda rule: rule.name)
NAMES = ("base", "x", "y", "z")
SOME = "layers.0.weight"
PATTERNS = {"exclude", "transposed"}  # parameters that are text


def last_variant(rule: Rule) -> dict[str, Any]:
    """Parameters that differ from the defaults, as many as go together."""
    *_, params = variants(rule)
    return params


def model(rng: np.random.Generator, base: Mapping[str, Array] | None) -> dict[str, Any]:
    """A mixture of experts in two formats, with a bias, a number and nothing."""
    shapes = {
        SOME: (300, 257),
        "layers.0.bias": (7,),
        "layers.0.mlp.experts.gate_up_proj": (4, 16, 24),
        "layers.1.mlp.experts.0.w1.weight": (8, 12),
        "layers.1.mlp.experts.1.w1.weight": (8, 12),
        "logit_scale": (),
        "unused": (0, 4),
    }
    state: dict[str, Any] = {}
    for name, shape in shapes.items():
        dtype: Any = ml_dtypes.bfloat16 if "experts" in name else np.float32
        tensor = rng.normal(size=shape)
        if base is not None:
            is_changed = rng.random(shape) < 0.6
            tensor = base[name].astype(np.float64) + 0.05 * tensor * is_changed
        state[name] = np.asarray(tensor, dtype)
    state["steps"] = np.array([3])
    return state


@pytest.fixture(scope="module")
def states() -> dict[str, dict[str, Any]]:
    rng = np.random.default_rng(0)
    base = model(rng, None)
    return {"base": base} | {name: model(rng, base) for name in "xyz"}


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory, states: dict[str, dict[str, Any]]
) -> Path:
    """The same models in files, directories, PyTorch and distributed checkpoints."""
    import torch

    folder = tmp_path_factory.mktemp("methods")
    for number, (name, state) in enumerate(states.items()):
        save(folder / f"{name}.safetensors", state)
        names = sorted(state, key=lambda n: (len(n) * (number + 3)) % 7)
        parts = [names[:2], names[2:]] if number % 2 else [[n] for n in names]
        save_shards(folder / name, [{n: state[n] for n in part} for part in parts])
        tensors = {
            n: torch.from_numpy(np.atleast_1d(t).view(np.uint16)).view(torch.bfloat16)
            if t.dtype == ml_dtypes.bfloat16
            else torch.from_numpy(np.array(t))
            for n, t in state.items()
        }
        torch.save(tensors, folder / f"{name}.pt")
        write(folder / f"{name}-dcp", tensors)
    return folder


def tensors_of(out: Path) -> dict[str, Any]:
    files = sorted(out.rglob("*.safetensors")) if out.is_dir() else [out]
    return {name: t for file in files for name, t in load(file).items()}


def merge(folder: Path, suffix: str, out: Path, **how: Any) -> dict[str, Any]:
    base, *members = [folder / f"{name}{suffix}" for name in NAMES]
    report = average(members, out, base=base, weights=[1, 2, 1], **how)
    assert report.plan.base is not None
    return tensors_of(out)


@each_method
def test_files_of_any_kind_threads_and_memory_give_the_same_bytes(
    rule: Rule,
    folder: Path,
    states: dict[str, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streaming, "BLOCK", 1 << 18)  # several jobs for each tensor
    base, *members = [states[name] for name in NAMES]
    # With the defaults, rules for matrices take seconds.
    tried = [{}, last_variant(rule)][rule.unit == "matrix" :]
    for number, params in enumerate(tried):
        how: Any = {"rule": rule.name, "rule_params": params}
        expected = average(members, base=base, weights=[1, 2, 1], **how)
        smallest = 5 << 20
        for suffix, threads, memory in (
            (".safetensors", 1, smallest),
            ("", 3, 64 << 20),
            (".pt", 2, 8 << 20),
            ("-dcp", 4, 64 << 20),
        ):
            kind = {"": ""}.get(suffix, ".safetensors")
            out = tmp_path / f"{number}{suffix.strip('.-')}{kind}"
            found = merge(folder, suffix, out, threads=threads, memory=memory, **how)
            found = {n: t.reshape(expected[n].shape) for n, t in found.items()}
            assert same_bytes(found, expected), suffix
        assert expected["steps"].tolist() == [3]


@each_method
def test_members_and_base_of_different_formats(
    rule: Rule, states: dict[str, dict[str, Any]]
) -> None:
    """The result has the format of the first member, and is rounded once."""
    wide = {
        name: {
            n: t.astype(np.float64) if t.dtype != np.int64 else t
            for n, t in state.items()
        }
        for name, state in states.items()
    }
    mixed = [wide["base"], states["x"], wide["y"], states["z"]]
    how: Any = {"rule": rule.name, "rule_params": last_variant(rule)}
    found = average(mixed[1:], base=mixed[0], **how)
    expected = average([wide[name] for name in "xyz"], base=wide["base"], **how)
    for name, tensor in expected.items():
        dtype = states["x"][name].dtype
        assert found[name].dtype == dtype
        if dtype != np.int64 and rule.unit != "matrix":
            assert found[name].tobytes() == tensor.astype(dtype).tobytes(), name


@each_method
def test_tied_tensors_stay_tied(
    rule: Rule, states: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    import torch

    for name in NAMES:
        embedding = torch.from_numpy(states[name][SOME])
        state = {"embed.weight": embedding, "lm_head.weight": embedding}
        torch.save(state, tmp_path / f"{name}.pt")
    how: Any = {"rule": rule.name, "rule_params": last_variant(rule)}
    base, *members = [tmp_path / f"{name}.pt" for name in NAMES]
    average(members, tmp_path / "out.pt", base=base, **how)
    found = torch.load(tmp_path / "out.pt", weights_only=True)
    assert found["embed.weight"].data_ptr() == found["lm_head.weight"].data_ptr()
    alone = [{"embed.weight": states[name][SOME]} for name in NAMES]
    expected = average(alone[1:], base=alone[0], **how)["embed.weight"]
    assert found["embed.weight"].numpy().tobytes() == expected.tobytes()


@each_method
def test_a_soup_of_estimators_is_the_average_of_their_parameters(
    rule: Rule, rng: np.random.Generator
) -> None:
    from sklearn.linear_model import LinearRegression

    def fitted(coef: Array) -> Any:
        model = LinearRegression(fit_intercept=False).fit(np.eye(9), np.zeros((9, 6)))
        model.coef_ = coef
        return model

    base, *members = [fitted(coef) for coef in rng.normal(size=(4, 6, 9))]
    how: Any = {"rule": rule.name, "rule_params": last_variant(rule)}
    soup = ModelSoup(LinearRegression(), members, base=base, **how).fit()
    states = [get_state(member) for member in members]
    expected = average(states, base=get_state(base), **how)
    assert soup.estimator_.coef_.tobytes() == expected["coef_"].tobytes()


@each_method
def test_errors_come_before_a_tensor_is_read(
    rule: Rule, folder: Path, states: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    base, *members = [folder / f"{name}.safetensors" for name in NAMES]
    how: Any = {"rule": rule.name}
    with pytest.raises(ValueError, match="is the base, from which it does not differ"):
        plan([base, *members], base=base, **how)
    with pytest.raises(ValueError, match="must not sum to zero"):
        plan(members, base=base, weights=[0, 0, 0], **how)
    other = {**states["base"], SOME: np.ones((301, 257), np.float32)}
    with pytest.raises(ValueError, match=r"(?s)layers.0.weight.*\(301, 257\)"):
        plan(members, base=save(tmp_path / "vocabulary.safetensors", other), **how)
    damaged = shutil.copy(base, tmp_path / "short.safetensors")
    Path(damaged).write_bytes(base.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"short\.safetensors"):
        plan(members, base=damaged, **how)


@pytest.mark.parametrize("value", ["false", "0.5", [], np.nan], ids=str)
@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.name)
def test_values_of_another_kind_are_refused_before_reading(
    rule: Rule, value: Any
) -> None:
    """Text counts as true and NaN fails no comparison, so that each must be checked."""
    state = {"w": np.ones((4, 4), np.float32)}
    how: dict[str, Any] = {"base": state} if rule.needs_base else {}
    for name in rule.params.keys() - PATTERNS:
        if not rule.needs_moments:
            with pytest.raises(ValueError, match=name):
                plan([state, state], rule=rule, rule_params={name: value}, **how)
