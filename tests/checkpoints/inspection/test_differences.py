"""Differences of two checkpoints against a float64 oracle in NumPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from ensembles.checkpoints import diff
from tests.checkpoints.building import FLOATS, floats, save, save_shards

Pair = tuple[dict[str, Any], dict[str, Any]]


def oracle(a: Any, b: Any) -> tuple[float, float, float]:
    """Relative change, cosine and largest change over the finite elements."""
    x, y = (np.asarray(v).astype(np.float64).ravel() for v in (a, b))
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = x[finite], y[finite]
    top = max(np.abs(x).max(initial=0), np.abs(y).max(initial=0)) or 1.0
    largest = np.abs(y - x).max(initial=0)
    x, y = x / top, y / top
    norms = np.linalg.norm(x), np.linalg.norm(y)
    change = np.linalg.norm(y - x)
    relative = change / norms[0] if norms[0] else (np.inf if change else 0.0)
    cosine = x @ y / (norms[0] * norms[1]) if norms[0] * norms[1] else np.nan
    return float(relative), float(cosine), float(largest)


@st.composite
def pairs(draw: st.DrawFn) -> Pair:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    a: dict[str, Any] = {}
    b: dict[str, Any] = {}
    for number in range(draw(st.integers(1, 4))):
        name = f"layer.{number}.weight"
        shape = tuple(draw(st.lists(st.integers(0, 40), max_size=2)))
        a[name] = floats(rng, shape, draw(st.sampled_from(FLOATS)))
        kind = draw(st.sampled_from(["equal", "other", "dtype", "nan", "zero"]))
        b[name] = a[name].copy()
        if kind in ("other", "dtype"):
            dtype = draw(st.sampled_from(FLOATS)) if kind == "dtype" else a[name].dtype
            b[name] = floats(rng, shape, dtype)
        elif kind == "nan" and a[name].size:
            b[name].reshape(-1)[0] = np.nan
        elif kind == "zero":
            b[name] = np.zeros_like(a[name])
    return a, b


@given(pairs())
def test_every_number_is_that_of_the_oracle(pair: Pair) -> None:
    a, b = pair
    found = diff(a, b)
    assert [tensor.name for tensor in found.tensors] == list(a)
    for tensor in found.tensors:
        x, y = a[tensor.name], b[tensor.name]
        relative, cosine, largest = oracle(x, y)
        # The squares of one of them may underflow beside those of the other.
        sizes = [np.nan_to_num(np.abs(v.astype(float))).max(initial=0) for v in (x, y)]
        if any(0 < size < 1e-120 for size in sizes):
            continue
        if not relative >= 1e80:
            assert tensor.relative == pytest.approx(relative, rel=1e-9)
        if not np.isnan(cosine) or not (np.any(x) and np.any(y)):
            assert tensor.cosine == pytest.approx(cosine, abs=1e-9, nan_ok=True)
        assert tensor.largest == largest
        same = x.dtype == y.dtype and x.tobytes() == y.tobytes()
        assert tensor.is_identical == same
        finite = np.isfinite(x.astype(float)) & np.isfinite(y.astype(float))
        assert tensor.n_nonfinite == np.count_nonzero(~finite)
    dtypes = {n: (str(a[n].dtype), str(b[n].dtype)) for n in a}
    assert found.dtypes == {n: pair for n, pair in dtypes.items() if len({*pair}) > 1}


@given(pairs())
def test_a_module_is_all_of_its_tensors_together(pair: Pair) -> None:
    a, b = (np.concatenate([v.astype(float).ravel() for v in m.values()]) for m in pair)
    whole = diff(*pair).whole
    relative, cosine, largest = oracle(a, b)
    assume(relative < 1e80)  # else squares of one of them underflow in either
    assert whole.size == a.size
    assert whole.relative == pytest.approx(relative, rel=1e-9)
    assert whole.cosine == pytest.approx(cosine, abs=1e-9, nan_ok=True)
    assert whole.largest == largest


def test_digits_do_not_depend_on_threads_memory_or_shards(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    a = {"w": floats(rng, (1_300_000,), wide=False), "v": floats(rng, (70_000,))}
    b = {name: value + np.float32(1e-3) for name, value in a.items()}
    one = [save(tmp_path / f"{n}.safetensors", m) for n, m in (("a", a), ("b", b))]
    shards = [{"v": b["v"]}, {"w": b["w"]}]
    many = [one[0], save_shards(tmp_path / "many", shards)]
    found = [
        [tensor.sums for tensor in diff(*pair, threads=n, memory=memory).tensors]
        for pair in (one, many)
        for n, memory in ((1, 2 << 20), (3, 64 << 20))
    ]
    assert all(sums == found[0] for sums in found)


def test_layers_that_a_fine_tune_touched_come_first(tmp_path: Path) -> None:
    a = {f"h.{i}.{n}.weight": np.ones(4) for i in range(3) for n in ("fc", "out")}
    b = {**a, "h.1.fc.weight": np.full(4, 1.5), "h.2.out.weight": np.full(4, 0.9)}
    found = diff(a, b)
    assert [m.name for m in found.modules()] == ["h.1", "h.2", "h.0"]
    first = found.modules()[0]
    assert (first.n_identical, first.n_tensors) == (1, 2)
    assert first.largest_tensor == "h.1.fc.weight"
    assert [m.name for m in found.modules(1)] == ["h"]
    names = [m.name for m in found.modules(3)]
    assert names[:2] == ["h.1.fc", "h.2.out"]
    assert len(names) == 6


def test_signed_zeros_and_bits_of_nan_are_not_identical() -> None:
    a = np.array([0.0, np.nan])
    for b in (np.array([-0.0, np.nan]), np.array([0.0, -np.nan])):
        found = diff({"w": a}, {"w": b}).tensors[0]
        assert not found.is_identical
        assert found.largest == 0
    assert diff({"w": a}, {"w": a.copy()}).is_identical


def test_tensors_that_cannot_be_compared_are_listed() -> None:
    a = {"w": np.ones(2), "s": np.ones((2, 3)), "x": np.ones(1)}
    b = {"w": np.ones(2, np.float32), "s": np.ones((3, 2)), "y": np.ones(1)}
    found = diff(a, b)
    assert [tensor.name for tensor in found.tensors] == ["w"]
    assert found.only_a == ["x"]
    assert found.only_b == ["y"]
    assert found.shapes == {"s": ((2, 3), (3, 2))}
    assert found.dtypes == {"w": ("float64", "float32")}
    assert not found.is_identical
    assert not found.tensors[0].is_identical


def test_names_with_another_prefix_are_matched_with_a_note() -> None:
    a = {"fc.weight": np.ones(2), "fc.bias": np.ones(2)}
    b = {f"model.{name}": value for name, value in a.items()}
    found = diff(a, b)
    assert found.is_identical
    assert any("are matched to those of members[0]" in note for note in found.notes)


def test_tensors_tied_in_both_are_compared_once() -> None:
    w = np.ones(3)
    assert len(diff({"a": w, "b": w}, {"a": w, "b": w}).tensors) == 1
    untied = diff({"a": w, "b": w}, {"a": w, "b": w + 1})
    assert [tensor.relative for tensor in untied.tensors] == [0.0, 1.0]


def test_formats_can_be_mixed_and_their_checksums_are_verified(tmp_path: Path) -> None:
    w = np.arange(500, dtype=np.float32).astype(ml_dtypes.bfloat16)
    one = save(tmp_path / "a.safetensors", {"w": w})
    other = tmp_path / "b.pt"
    tensor = torch.arange(500, dtype=torch.float32).bfloat16()
    torch.save({"w": tensor}, other)
    assert diff(one, other).is_identical
    content = bytearray(other.read_bytes())
    content[content.index(w.tobytes()) + 7] ^= 1
    other.write_bytes(content)
    with pytest.raises(ValueError, match=r"b\.pt is damaged"):
        diff(one, other)


def test_too_little_memory_is_one_error(rng: np.random.Generator) -> None:
    w = floats(rng, (100_000,))
    with pytest.raises(ValueError, match="memory must be at least"):
        diff({"w": w}, {"w": w}, memory=1000)


def test_progress_counts_every_byte(tmp_path: Path) -> None:
    path = save(tmp_path / "a.safetensors", {"w": np.ones(300_000)})
    n_read: list[int] = []
    diff(path, path, progress=n_read.append)
    assert sum(n_read) == 2 * 2_400_000
