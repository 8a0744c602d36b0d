"""Members combined in memory: the bytes of an average, with any rule and dtype."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from ensembles.checkpoints import average
from ensembles.checkpoints.directories.open import open_checkpoint
from ensembles.checkpoints.formats import state_dict
from ensembles.checkpoints.methods.builtin import RULES
from ensembles.checkpoints.model_soup import parameter_arrays
from ensembles.checkpoints.model_soup.parameter_arrays import ParameterWriter

WEIGHTS = [0.2, 0.5, 0.3]


def states(dtype: Any, n_members: int = 3) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    return [
        {
            "h.0.w": rng.uniform(0.5, 1, (70, 3)).astype(dtype),
            "h.1.w": rng.uniform(0.5, 1, 5).astype(dtype),
            "wide": rng.uniform(0.5, 1, 7),
            "empty": np.zeros((0, 2), dtype),
            "count": np.arange(4),
        }
        for _ in range(n_members)
    ]


def writer(members: list[Any], rule: str = "mean", **more: Any) -> ParameterWriter:
    opened = [
        state_dict.read(m, "m") if isinstance(m, dict) else open_checkpoint(m, 0)
        for m in members
    ]
    arrays = {
        name: np.empty(tensor.shape, tensor.dtype)
        for name, tensor in opened[0].layout.items()
    }
    given = {"params": {}, "integers": "error", **more}
    return ParameterWriter(opened, arrays, rule=RULES[rule], **given)


def same(write: ParameterWriter, expected: dict[str, Any]) -> None:
    for name, array in write.arrays.items():
        assert array.tobytes() == np.asarray(expected[name]).tobytes(), name


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize(
    "rule", sorted(n for n, r in RULES.items() if r.needs_moments is None)
)
@pytest.mark.filterwarnings("ignore:.* the same initialization")
def test_every_rule_has_the_bytes_of_average(rule: str, dtype: Any) -> None:
    members = states(dtype)[: RULES[rule].n_members]
    weights = np.array(WEIGHTS[: len(members)] if RULES[rule].weighted else [1.0, 1.0])
    base, opened = None, None
    if RULES[rule].needs_base:
        base = {name: tensor / 2 for name, tensor in members[0].items()}
        base["count"] = members[0]["count"]
        opened = state_dict.read(base, "base")
    write = writer(members, rule, base=opened)
    write(weights)
    same(write, average(members, base=base, rule=rule, weights=weights))


@pytest.mark.parametrize("place", ["memory", "large", "files"])
def test_counts_have_the_bytes_of_repeated_members(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members: list[Any] = states(np.float32)
    if place == "large":
        monkeypatch.setattr(parameter_arrays, "SMALL", 0)
    if place == "files":
        paths = [tmp_path / f"{index}.safetensors" for index in range(3)]
        for path, member in zip(paths, members, strict=True):
            save_file(member, path)
        members = paths
    write = writer(members)
    for counts, order in (
        ([0, 0, 1], [2]),
        ([0, 1, 1], [1, 2]),
        ([0, 1, 2], [1, 2, 2]),
        ([1, 1, 2], [1, 2, 2, 0]),
    ):
        write(np.array(counts) / sum(counts), np.array(counts))
        same(write, average([members[index] for index in order]))
    write(np.array(WEIGHTS))
    same(write, average(members, weights=WEIGHTS))


@pytest.mark.parametrize("large", [False, True])
def test_layers_have_weights_of_their_own(
    large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if large:
        monkeypatch.setattr(parameter_arrays, "SMALL", 0)
    members = states(np.float32)
    write = writer(members)
    weights = np.random.default_rng(1).uniform(0.1, 1, (3, len(write.layers)))
    write(weights)
    for column, names in zip(weights.T, write.layers.values(), strict=True):
        expected = average(members, weights=column)
        for name in names:
            assert write.arrays[name].tobytes() == expected[name].tobytes()


def test_integers_are_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    members = states(np.float32)
    members[1]["count"] = np.arange(4)[::-1].copy()
    with pytest.raises(ValueError, match="integer tensor 'count' differs"):
        writer(members)(np.ones(3))
    for policy in ("first", "max"):
        write = writer(members, integers=policy)
        write(np.ones(3))
        same(write, average(members, integers=policy))


def test_dtypes_that_do_not_match_are_refused() -> None:
    members = states(np.float32)
    members[1]["wide"] = np.arange(7)
    with pytest.raises(ValueError, match="checkpoints differ at tensor 'wide'"):
        writer(members)


def test_members_of_several_float_formats_round_once() -> None:
    members = [states(dtype)[0] for dtype in (np.float32, np.float16, np.float64)]
    write = writer(members)
    write(np.array(WEIGHTS))
    same(write, average(members, weights=WEIGHTS))


def test_an_error_of_a_rule_names_the_tensor() -> None:
    members = [{"w": np.full(3, 1e200)}, {"w": np.ones(3)}]
    with pytest.raises(ValueError, match=r"^tensor 'w': .* too large"):
        writer(members, "slerp")(np.ones(2))
