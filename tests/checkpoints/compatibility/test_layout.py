"""Members that differ: in their tensors' names, dtypes, shapes and integers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from ensembles.checkpoints import average, plan, write
from tests.checkpoints import oracles
from tests.checkpoints.building import FLOATS, floats, load, save

BF16 = np.dtype(ml_dtypes.bfloat16)
FULL = {"w": np.array([1.0, 3.0], np.float32), "v": np.array([5.0], np.float32)}
PART = {"w": np.array([3.0, 5.0], np.float32)}


def test_a_tensor_that_a_member_lacks_is_an_error(tmp_path: Path) -> None:
    full = save(tmp_path / "full.safetensors", FULL)
    part = save(tmp_path / "part.safetensors", PART)
    for members in ([full, part], [part, full]):
        message = r"'v': .*full\.safetensors has it, .*part\.safetensors lacks it; pass"
        with pytest.raises(ValueError, match=message):
            plan(members)


def test_a_tensor_that_a_member_lacks_is_left_out() -> None:
    assert average([FULL, PART], missing="skip").keys() == {"w"}
    assert average([PART, FULL], missing="skip").keys() == {"w"}
    assert plan([FULL, PART], missing="skip").notes == (
        "v left out: members[1] lacks it",
    )


def test_a_tensor_that_a_member_lacks_is_copied_from_the_first() -> None:
    found = average([FULL, PART], missing="first", weights=[1, 3])
    assert found["v"].tolist() == [5.0]
    assert found["w"].tolist() == [2.5, 4.5]
    assert average([PART, FULL], missing="first").keys() == {"w"}


@pytest.mark.parametrize("rule", ["mean", "median", "slerp"])
def test_a_copied_tensor_has_the_dtype_that_was_asked_for(rule: str) -> None:
    full = {
        "w": np.ones(2, np.float32),
        "v": np.array([1 + 2**-8 + 2**-20], np.float32),
    }
    part = {"w": np.ones(2, np.float32)}
    found = average([full, part], missing="first", dtype="bfloat16", rule=rule)
    assert found["v"].dtype == BF16
    assert found["v"].astype(float).tolist() == [1 + 2**-7]


@pytest.mark.parametrize("shape", [(3,), (1, 2), (2, 1), (), (1,)])
def test_shapes_are_not_broadcast(shape: tuple[int, ...]) -> None:
    members: list[dict[str, Any]] = [
        {"w": np.ones(size, np.float32)} for size in ((2,), shape)
    ]
    message = r"members\[0\] has \(float32, \(2,\)\), members\[1\] has \(float32, \("
    with pytest.raises(ValueError, match=message):
        plan(members)


def test_floats_and_integers_do_not_mix() -> None:
    a: dict[str, Any] = {"w": np.ones(2, np.float32)}
    b: dict[str, Any] = {"w": np.ones(2, np.int32)}
    for members in ([a, b], [b, a]):
        with pytest.raises(ValueError, match=r"'w'.*float32|'w'.*int32"):
            plan(members)
    with pytest.raises(ValueError, match=r"int32.*int64"):
        plan([b, {"w": np.ones(2, np.int64)}])


@pytest.mark.parametrize("first", FLOATS, ids=str)
@pytest.mark.parametrize("asked", [None, "bf16", "float16", "float64"])
def test_precisions_may_mix(
    rng: np.random.Generator, first: Any, asked: str | None
) -> None:
    others = [dtype for dtype in FLOATS if dtype != first][:3]
    arrays = [floats(rng, (300,), d, wide=False) for d in (first, *others)]
    members = [{"w": array} for array in arrays]
    weights = [0.3, 0.7, 1.1, 0.1]
    (found,) = average(members, weights=weights, dtype=asked).values()
    dtype = BF16 if asked == "bf16" else np.dtype(asked or first)
    expected = oracles.mean(arrays, weights, dtype)
    assert found.dtype == dtype
    if dtype == np.float64:
        columns = np.array([array.astype(np.float64) for array in arrays]).T
        expected = np.array([oracles.exact_mean(c, weights) for c in columns])
        np.testing.assert_array_max_ulp(found, expected, 1)
    else:
        assert found.tobytes() == expected.tobytes()
    (note,) = plan(members).notes
    assert "have different precisions in the members" in note
    assert f"written as {first}" in note


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8, np.bool_])
def test_integers_that_are_alike_are_copied(dtype: Any) -> None:
    state = {"n": np.array([1, 0, 1], dtype), "w": np.ones(2)}
    found = average([state, state, state])
    assert found["n"].dtype == dtype
    assert np.array_equal(found["n"], state["n"])


def test_integers_that_differ_take_a_policy(tmp_path: Path) -> None:
    a = {"ids": np.array([1, 5, 3]), "on": np.array([True, False])}
    b = {"ids": np.array([2, 4, 3]), "on": np.array([False, False])}
    message = r"integer tensor '(ids|on)' differs between .*; pass integers='first' "
    with pytest.raises(ValueError, match=message):
        average([a, b], tmp_path / "out.safetensors")
    assert not list(tmp_path.iterdir())
    assert average([a, b], integers="first")["ids"].tolist() == [1, 5, 3]
    assert average([a, b], integers="max")["ids"].tolist() == [2, 5, 3]
    assert average([a, b], integers="max")["on"].tolist() == [True, False]
    assert average([b, a], integers="first")["on"].tolist() == [False, False]


@pytest.mark.parametrize("integers", ["error", "first", "max"])
def test_counts_of_batches_take_the_largest(integers: Any) -> None:
    counts = [{"bn.num_batches_tracked": np.array(n)} for n in (3, 9, 5)]
    (found,) = average(counts, integers=integers).values()
    assert found.shape == ()
    assert found == 9


def test_integers_are_settled_alike_by_any_number_of_threads(
    rng: np.random.Generator,
) -> None:
    a, b = ({"n": rng.integers(0, 9, 700_000)} for _ in range(2))
    for threads in (1, 4):
        (found,) = average([a, b], integers="max", threads=threads).values()
        assert np.array_equal(found, np.maximum(a["n"], b["n"]))


@pytest.mark.parametrize("rule", ["mean", "median", "slerp", "karcher_mean"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_what_is_no_number_is_told_by_its_tensor(
    rule: str, bad: float, dtype: Any, tmp_path: Path
) -> None:
    a = {"good": np.ones(3, dtype), "bad": np.array([bad, 1.0], dtype)}
    b = {"good": np.ones(3, dtype), "bad": np.array([bad, 2.0], dtype)}
    with pytest.warns(UserWarning, match=r"^1 tensor of the result .*'bad'; look") as w:
        report = average([a, b], tmp_path / "out.safetensors", rule=rule)
    assert len(w) == 1
    assert report.nonfinite_tensors == ["bad"]
    assert load(tmp_path / "out.safetensors")["good"].tolist() == [1, 1, 1]


def test_a_warning_is_told_where_the_call_stands(tmp_path: Path) -> None:
    members, out = [{"w": np.array([np.nan])}], tmp_path / "out.safetensors"
    planned = plan(members, out, force=True)
    calls: list[Any] = [
        lambda: average(members),
        lambda: average(members, out),
        lambda: write(planned),
    ]
    for call in calls:
        with pytest.warns(
            UserWarning, match="1 tensor of the result contains"
        ) as caught:
            call()
        assert caught[0].filename == __file__
        assert caught[0].lineno == call.__code__.co_firstlineno


def test_an_overflow_is_told_too() -> None:
    state = {"w": np.array([1e30], np.float32)}
    with pytest.warns(UserWarning, match="'w'"):
        found = average([state, state], dtype="float16")
    assert np.isinf(found["w"].astype(float)).all()


@pytest.mark.parametrize(
    "value",
    [
        np.ones(2, complex),
        np.ones(2, np.longdouble),
        np.array(["a"]),
        np.array([None]),
        np.ones(2, "V3"),
        torch.ones(2, dtype=torch.complex64),
        torch.eye(2).to_sparse(),
        torch.ones(2, device="meta"),
    ],
    ids=lambda value: str(value.dtype),
)
def test_what_has_no_mean_is_refused_in_memory(value: Any) -> None:
    message = r"members\[0\]: tensor 'w' (has dtype|is sparse or has no data)"
    with pytest.raises(ValueError, match=message):
        average([{"w": value}], integers="first")


def test_another_byte_order_is_read() -> None:
    big = [{"w": np.array([v, 2.0], ">f4")} for v in (1.0, 3.0)]
    (found,) = average(big).values()
    assert found.dtype == np.dtype("<f4")
    assert found.tolist() == [2.0, 2.0]


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            {"w": None},
            r"tensor 'w' must be a NumPy array or a torch tensor, found None",
        ),
        ({"w": [1.0]}, r"tensor 'w' must be .* found list"),
        ({3: np.ones(1)}, r"members\[0\]: tensors must be named by str, found 3"),
    ],
)
def test_what_is_no_state_dict_is_a_type_error(state: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        average([state])


def test_what_is_no_member_is_a_type_error() -> None:
    members: Any = [3]
    with pytest.raises(TypeError, match=r"members\[0\] has type int"):
        average(members)
