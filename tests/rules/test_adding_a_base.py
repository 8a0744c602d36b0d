"""A merge method of one's own, with a base and statistics, added in one place."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

from ensembles._typing import Array, Float64
from ensembles.checkpoints import average, plan
from ensembles.checkpoints.formats.detection import read_metadata
from ensembles.checkpoints.merging.provenance import KEY
from ensembles.predictions import EnsembleRegressor
from ensembles.registry import register
from ensembles.rules import RULES
from ensembles.rules.statistics import blockwise
from ensembles_cli.main import cli
from tests.checkpoints.building import save_shards

SIZE = 2_200_003  # elements: more than one job, and no whole number of blocks
LOWEST, HIGHEST = -60, 60  # binary exponents that are told apart


@blockwise
def magnitudes(block: Float64, *, base: Float64) -> Float64:
    """Histogram of the binary exponents of each member's differences."""
    exponents = np.frexp(block - base)[1].clip(LOWEST, HIGHEST - 1) - LOWEST
    bins = HIGHEST - LOWEST
    counts = [np.bincount(row, minlength=bins) for row in exponents]
    return np.array(counts, np.float64)


def thresholds(total: Float64, weights: Float64, *, density: float = 0.2) -> Float64:
    """Magnitude of each member from which at most ``density`` of its entries are."""
    if not 0 < density <= 1:
        raise ValueError(f"density must be in (0, 1], found {density}")
    n_above = np.cumsum(total[:, ::-1], axis=1)[:, ::-1]
    first = (n_above <= density * n_above[:, :1]).argmax(axis=1)
    return np.asarray(np.ldexp(0.5, first + LOWEST))


def add_large_differences(
    stack: Float64,
    weights: Float64,
    *,
    base: Float64,
    state: Float64,
    scale: float = 1.0,
) -> Float64:
    """Base plus the weighted sum of the members' largest differences from it."""
    total = np.zeros(base.shape)
    for row, weight, threshold in zip(stack, weights, state, strict=True):
        difference = row - base
        total += weight * np.where(np.abs(difference) < threshold, 0.0, difference)
    return base + scale * total


@pytest.fixture
def sparse() -> Iterator[str]:
    register(
        RULES,
        statistics=magnitudes,
        finish=thresholds,
        needs_base=True,
        signed=True,
    )(add_large_differences)
    yield "add_large_differences"
    del RULES["add_large_differences"]


def merged(
    base: Array, members: list[Array], weights: Any, density: float, scale: float
) -> Float64:
    """The same, of whole tensors in float64."""
    wide, origin = [m.astype(np.float64) for m in members], base.astype(np.float64)
    total = np.zeros(origin.shape)
    for member, weight in zip(wide, weights, strict=True):
        difference = member - origin
        exponents = np.frexp(difference)[1].clip(LOWEST, HIGHEST - 1)
        for exponent in range(LOWEST, HIGHEST):
            if (exponents >= exponent).sum() <= density * difference.size:
                break
        kept = np.abs(difference) >= np.ldexp(0.5, exponent)
        total += weight * np.where(kept, difference, 0)
    return origin + scale * total


def tensors(rng: np.random.Generator, dtype: Any = np.float32) -> dict[str, Array]:
    return {
        "a.w": rng.normal(size=SIZE).astype(dtype),
        "b.w": rng.normal(size=(31, 41)).astype(dtype),
        "c": rng.normal(size=3).astype(dtype),
        "n": np.array([4]),
    }


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two members and their base, in files and in directories."""
    folder, rng = tmp_path_factory.mktemp("base"), np.random.default_rng(0)
    origin = tensors(rng)
    # A base in another format than the members.
    states = {"base": {n: t.astype(ml_dtypes.bfloat16) for n, t in origin.items()}}
    states["base"]["n"] = np.array([7])  # integers of a base do not matter
    for name in "xy":
        states[name] = {
            n: t + rng.normal(size=t.shape).astype(t.dtype) if n != "n" else t
            for n, t in origin.items()
        }
    found = {}
    for name, state in states.items():
        found[name] = folder / f"{name}.safetensors"
        save_file(state, found[name])
        parts = [{"a.w": state.pop("a.w")}, state]
        found[f"{name}/"] = save_shards(folder / name, parts)
    return found


@pytest.mark.parametrize("kind", ["", "/"])
def test_files_and_directories_are_merged_whatever_the_memory_and_the_threads(
    sparse: str, paths: dict[str, Path], kind: str, tmp_path: Path
) -> None:
    members, base = [paths[f"x{kind}"], paths[f"y{kind}"]], paths[f"base{kind}"]
    params = {"density": 0.3, "scale": 0.5}
    read: list[int] = []
    contents, digests = set(), set()
    for memory, threads in ((4 << 20, 1), (9 << 20, 2), (64 << 20, 3)):
        out = tmp_path / (f"{memory}" if kind else f"{memory}.safetensors")
        read.clear()
        report = average(
            members,
            out,
            base=base,
            rule=sparse,
            weights=[0.5, -1],
            rule_params=params,
            memory=memory,
            threads=threads,
            progress=read.append,
        )
        assert sum(read) == report.plan.read_bytes
        assert report.plan.peak_bytes <= memory
        parts = sorted(out.rglob("*.safetensors")) if kind else [out]
        contents.add(b"".join(part.read_bytes() for part in parts))
        digests.add((report.digest, report.base_digest, *report.member_digests))
    assert len(contents) == len(digests) == 1
    found = {name: t for part in parts for name, t in load_file(part).items()}
    x, y, origin = (load_file(paths[name]) for name in ("x", "y", "base"))
    for name in ("a.w", "b.w", "c"):
        exact = merged(origin[name], [x[name], y[name]], [0.5, -1], 0.3, 0.5)
        assert found[name].tobytes() == exact.astype(np.float32).tobytes()
    assert found["n"].tolist() == [4]


def test_the_base_is_in_the_metadata_the_report_and_the_card(
    sparse: str, paths: dict[str, Path], tmp_path: Path
) -> None:
    members, base = [paths["x/"], paths["y/"]], paths["base/"]
    (members[0] / "README.md").write_text("# x\n")
    report = average(members, tmp_path / "out", base=base, rule=sparse)
    recipe = json.loads(
        read_metadata(next((tmp_path / "out").glob("*.safetensors")))[KEY]
    )
    assert recipe["base"] == f"xxh3-128:{report.base_digest}"
    assert len(recipe["members"]) == len(report.member_digests) == 2
    assert report.plan.base is not None
    assert report.plan.base.path == base
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"| base | `xxh3-128:{report.base_digest}` |" in card
    # The digest is that of its tensors, without the integers, which are not read.
    floats = {n: t for n, t in load_file(paths["base"]).items() if n != "n"}
    again = average([floats], tmp_path / "again.safetensors")
    assert again.digest == report.base_digest
    plain = average(members, tmp_path / "plain.safetensors")
    assert plain.base_digest is None
    assert "base" not in json.loads(read_metadata(plain.out)[KEY])


def test_in_memory_it_gives_the_same(sparse: str, paths: dict[str, Path]) -> None:
    x, y, origin = (load_file(paths[name]) for name in ("x", "y", "base"))
    found = average([x, y], base=origin, rule=sparse)
    wide = origin["a.w"].astype(np.float64)
    alone = RULES[sparse](np.array([x["a.w"], y["a.w"]]), base=wide)
    assert found["a.w"].tobytes() == alone.tobytes()


def test_the_command_takes_a_base(
    sparse: str, paths: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out.safetensors"
    arguments = ["avg", paths["x"], paths["y"], "--base", paths["base"], "-o", out]
    arguments += ["--rule", sparse, "--param", "density=.3", "--json"]
    result = CliRunner().invoke(cli, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    members = [paths["x"], paths["y"]]
    params = {"density": 0.3}
    library = average(
        members,
        tmp_path / "library.safetensors",
        base=paths["base"],
        rule=sparse,
        rule_params=params,
    )
    assert out.read_bytes() == library.out.read_bytes()
    shown = json.loads(result.stdout)
    assert shown["base"] == {
        "path": str(paths["base"]),
        "digest": f"xxh3-128:{library.base_digest}",
    }
    planned = CliRunner().invoke(cli, [*map(str, arguments[:-1]), "--plan", "--force"])
    assert f"base {paths['base']}" in " ".join(planned.stdout.split())
    listed = CliRunner().invoke(cli, ["rules"]).stdout
    (row,) = [line for line in listed.splitlines() if line.startswith(sparse)]
    assert "\tany\tbase\telement\ttensor\tsigned\t" in row


def test_bases_and_rules_that_do_not_fit_are_reported(
    sparse: str, paths: dict[str, Path]
) -> None:
    members = [paths["x"], paths["y"]]
    message = "rule 'add_large_differences' needs the checkpoint .*; pass it as base=PA"
    with pytest.raises(ValueError, match=message):
        plan(members, rule=sparse)
    with pytest.raises(ValueError, match="rule 'mean' does not use a base; leave"):
        plan(members, base=paths["base"])
    with pytest.raises(TypeError, match="base must be a path or a state dict, found"):
        plan(members, base=3, rule=sparse)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match="no checkpoint at nowhere"):
        plan(members, base="nowhere", rule=sparse)
    params = {"density": 2}
    with pytest.raises(ValueError, match=r"density must be in \(0, 1\], found 2"):
        plan(members, base=paths["base"], rule=sparse, rule_params=params)
    result = CliRunner().invoke(cli, ["avg", *map(str, members), "--rule", sparse])
    assert "pass it as base=PATH (--base PATH)" in result.stderr
    with pytest.raises(ValueError, match=r"shape of a member, \(2,\), found \(3,\)"):
        RULES[sparse](np.ones((2, 2)), base=np.ones(3))


def test_a_base_with_another_layout_is_reported_by_name(
    sparse: str, paths: dict[str, Path]
) -> None:
    state, other = {"w": np.ones(3), "v": np.ones(2)}, {"w": np.ones(4)}
    with pytest.raises(ValueError, match="differ at tensor 'w'") as caught:
        plan([state] * 2, base=other, rule=sparse)
    second, first = str(caught.value).splitlines()
    assert first.startswith("checkpoints differ at tensor 'v': members[0] has it, base")
    assert second.endswith("members[0] has (float64, (3,)), base has (float64, (4,))")
    with pytest.raises(ValueError, match=r"'v': members.0. has it, base .*base.safete"):
        plan([state], base=paths["base"], rule=sparse)


def test_tensors_that_a_base_lacks_are_skipped_or_copied(sparse: str) -> None:
    members = [{"w": np.ones(3), "v": np.full(2, n)} for n in (2.0, 3.0)]
    base = {"w": np.zeros(3), "head": np.zeros(5), "head.b": np.zeros(1)}
    how: Any = {"base": base, "rule": sparse, "rule_params": {"density": 1}}
    skipped = plan(members, missing="skip", **how)
    assert [t.name for t in skipped.targets] == ["w"]
    assert "v left out: base lacks it" in skipped.notes
    assert "2 tensors of base, such as head, are in no member, and have no effect" in (
        skipped.notes
    )
    assert not any("missing='skip'" in note for note in skipped.notes)
    bases = {"base": {**base, "v": np.zeros(2)}}
    complete = plan(members, missing="skip", **{**how, **bases})
    assert any(
        "missing='skip' (--missing skip) has no eff" in n for n in complete.notes
    )
    copied = average(members, missing="first", **how)
    assert copied["v"].tolist() == [2, 2]
    assert copied["w"].tolist() == [2, 2, 2]


def test_a_prefix_of_a_base_is_left_out(sparse: str) -> None:
    state = {"enc.w": np.ones(3), "enc.b": np.ones(2)}
    base = {f"model.{name}": np.zeros_like(t) for name, t in state.items()}
    found = average([state], base=base, rule=sparse, rule_params={"density": 1})
    assert found["enc.w"].tolist() == [1, 1, 1]


def test_checksums_of_a_base_are_verified(sparse: str, tmp_path: Path) -> None:
    import torch

    base = tmp_path / "base.pt"
    state = {"w": torch.arange(3000.0)}
    torch.save(state, base)
    read: list[int] = []
    how: Any = {"base": base, "rule": sparse, "progress": read.append}
    report = average([state], tmp_path / "out.safetensors", **how)
    assert sum(read) == report.plan.read_bytes > 3 * 12_000
    content = bytearray(base.read_bytes())
    start = content.index(np.arange(3000, dtype=np.float32).tobytes())
    content[start + 4_001] ^= 1
    base.write_bytes(content)
    with pytest.raises(ValueError, match=r"base\.pt is damaged"):
        average([state], tmp_path / "other.safetensors", **how)


def test_an_output_must_not_replace_the_base(
    sparse: str, paths: dict[str, Path]
) -> None:
    with pytest.raises(ValueError, match=r"base\.safetensors is or .* the member base"):
        plan([paths["x"]], paths["base"], base=paths["base"], rule=sparse, force=True)


def test_a_base_from_another_initialization_is_warned_of(
    sparse: str, rng: np.random.Generator
) -> None:
    a, other = (
        {f"{i}.weight": rng.normal(size=(40, 50)) for i in range(3)} for _ in "ab"
    )
    b = {name: tensor + 0.01 for name, tensor in a.items()}
    with pytest.warns(
        UserWarning, match=r"^base and members\[0\] may not be fine-tuned"
    ):
        average([a, b], base=other, rule=sparse)
    copied = {name: tensor.copy() for name, tensor in a.items()}
    assert average([a, b], base=copied, rule=sparse).keys() == a.keys()


def test_a_base_that_is_also_a_member_is_refused(
    sparse: str, paths: dict[str, Path]
) -> None:
    members = [paths["x"], paths["y"]]
    with pytest.raises(ValueError, match=r"x\.safetensors is the base, .*leave it out"):
        plan(members, base=paths["x"], rule=sparse)


def test_predictions_have_no_base(sparse: str) -> None:
    from sklearn.linear_model import Ridge

    pair = [("a", Ridge()), ("b", Ridge(10))]
    with pytest.raises(ValueError, match="unknown rule 'add_large_differences'"):
        EnsembleRegressor(pair, rule=sparse).fit(np.eye(4), np.arange(4))


def test_a_fused_rule_gets_members_and_base_in_one_format() -> None:
    seen = []

    @register(RULES, needs_base=True, fused=True)
    def first_difference(stack: Array, weights: Float64, *, base: Array) -> Array:
        seen.append((stack.dtype, base.dtype))
        return np.asarray(stack[0] - base)

    state = {"w": np.full(3, 2, np.float32)}
    for dtype in (np.float32, np.float16):
        base = {"w": np.ones(3, dtype)}
        found = average([state], base=base, rule="first_difference")
        assert found["w"].tolist() == [1, 1, 1]
        assert found["w"].dtype == np.float32
    del RULES["first_difference"]
    # Before each, a small stack of float64 is tried.
    wide, narrow = np.dtype(np.float64), np.dtype(np.float32)
    assert seen == [(d, d) for d in (wide, narrow, wide, wide)]


def test_weights_of_a_rule_with_a_base_are_not_scaled() -> None:
    @register(RULES, needs_base=True)
    def scaled(stack: Array, weights: Float64, *, base: Array) -> Array:
        return np.asarray(base + weights[0] * (stack[0] - base))

    found = scaled([[3.0]], [2.0**70], base=[1.0])
    del RULES["scaled"]
    assert found.tolist() == [1 + 2.0**71]
