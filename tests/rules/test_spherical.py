"""Rows and mean directions: nuslerp, multislerp, and mergekit's numbers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ensembles._typing import Array, Float64
from ensembles.checkpoints import average, plan
from ensembles.dtypes import FLOATS, round_to_dtype
from ensembles.rules import karcher_mean, multislerp, nuslerp, slerp
from ensembles.rules.rule import Rule

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
# Two and three members, and the results of mergekit 0.1.5 on them in float64: functions
# nuslerp, multislerp and karcher_merge_tensors of its merge methods.
PAIR = np.array([[[1, 2, 3], [4, -1, 0.5]], [[2, 0, 1], [1, 1, 1]]])
TRIPLE = np.array(
    [
        [[0.13, -0.13, 0.64, 0.1], [-0.54, 0.36, 1.3, 0.95]],
        [[-0.7, -1.27, -0.62, 0.04], [-2.33, -0.22, -1.25, -0.73]],
        [[-0.54, -0.32, 0.41, 1.04], [-0.13, 1.37, -0.67, 0.35]],
    ]
)


def directions(stack: Array) -> tuple[Float64, Float64]:
    """Unit vectors of the members, and their lengths, with exact sums."""
    flat = stack.reshape(len(stack), -1).astype(np.float64)
    lengths = np.array([math.sqrt(math.fsum(row * row)) for row in flat])
    return flat / lengths[:, None], lengths


def test_nuslerp_is_mergekits_without_rounding_to_the_format_of_members() -> None:
    flat = nuslerp(PAIR, [3, 1])
    expected = [
        [1.3991502380780136, 1.6209653351955668, 2.725781788033465],
        [3.536264455631249, -0.5161488823576682, 0.6995751190390068],
    ]
    np.testing.assert_allclose(flat, expected, rtol=1e-14)
    expected = [  # nuslerp_flatten: false
        [1.3762019656366156, 1.6025794738733299, 2.69132532515997],
        [3.575332391696126, -0.5181793394148538, 0.7098741799184403],
    ]
    rows = nuslerp(PAIR, [3, 1], vectors="row")
    np.testing.assert_allclose(rows, expected, rtol=1e-14)


def test_rows_of_mergekit_are_columns() -> None:
    """Its nuslerp_row_wise takes vectors along the first axis."""
    expected = [
        [1.3569233984392002, 2.233808023282838, 2.5810620510394098],
        [3.4558412123520905, -0.5724611267347086, 0.6516033308196864],
    ]
    columns = nuslerp(PAIR, [3, 1], vectors="column")
    np.testing.assert_allclose(columns, expected, rtol=1e-14)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, BFLOAT16], ids=str)
@pytest.mark.parametrize("shape", [(7, 33), (40_000, 1), (1, 5), (5,), (), (0, 4)])
def test_nuslerp_of_columns_is_that_of_rows_of_the_transpose(
    shape: tuple[int, ...], dtype: Any, rng: np.random.Generator
) -> None:
    stack = round_to_dtype(rng.normal(size=(2, *shape)), np.dtype(dtype))
    found = nuslerp(stack, [2, 3], vectors="column")
    turned = np.array([member.T for member in stack])
    expected = nuslerp(turned, [2, 3], vectors="row").T.astype(np.float64)
    slack = 2 * 2.0 ** -FLOATS[np.dtype(dtype)].mantissa
    np.testing.assert_allclose(found.astype(np.float64), expected, slack, slack)
    assert found.dtype == dtype


def test_columns_without_an_angle_are_interpolated_linearly() -> None:
    first = np.array([[1.0, 2], [0, 0], [3, 4], [1, 0]]).T
    second = np.array([[-2.0, -4], [5, 6], [3, 4], [0, np.nan]]).T
    found = nuslerp([first, second], [3, 1], vectors="column")
    expected = (0.75 * first + 0.25 * second)[:, :3]
    np.testing.assert_allclose(found[:, :3], expected)
    assert np.isnan(found[:, 3]).all()


def test_columns_of_other_tensors_are_refused_by_the_plan() -> None:
    states = [{"w": np.eye(3), "conv": np.ones((2, 3, 4)) * n} for n in (1, 2)]
    options: dict[str, Any] = {"rule": "nuslerp", "rule_params": {"vectors": "column"}}
    with pytest.raises(ValueError, match=r"tensor 'conv': .* at most two axes, found"):
        plan(states, **options)
    found = average(states, **options, exclude=["conv"])
    assert list(found) == ["w"]


def test_columns_are_those_of_matrices() -> None:
    with pytest.raises(ValueError, match=r"at most two axes, found shape \(2, 3, 4\)"):
        nuslerp(np.ones((2, 2, 3, 4)), vectors="column")
    with pytest.raises(ValueError, match="'tensor', 'row', 'column', found 'columns'"):
        nuslerp(np.ones((2, 3, 4)), vectors="columns")
    for size, word in ((1e-170, "small"), (1e160, "large")):
        stack = np.ones((2, 3, 4))
        stack[1, :, 2] = size
        with pytest.raises(ValueError, match=f"too {word}"):
            nuslerp(stack, vectors="column")


@pytest.mark.parametrize("dtype", [np.float32, BFLOAT16], ids=str)
def test_nuslerp_of_tensors_is_slerp(dtype: Any, rng: np.random.Generator) -> None:
    stack = round_to_dtype(rng.normal(size=(2, 30, 40)), np.dtype(dtype))
    found = nuslerp(stack, [1, 3], vectors="tensor")
    assert found.tobytes() == slerp(stack, [1, 3]).tobytes()


@pytest.mark.parametrize("dtype", [np.float64, np.float32, BFLOAT16], ids=str)
@pytest.mark.parametrize("shape", [(7, 33), (3, 2, 16), (1000, 5), (5,), (), (4, 0)])
def test_nuslerp_of_rows_is_slerp_of_each_row(
    shape: tuple[int, ...], dtype: Any, rng: np.random.Generator
) -> None:
    stack = round_to_dtype(rng.normal(size=(2, *shape)), np.dtype(dtype))
    found = nuslerp(stack, [2, 3], vectors="row")
    rows = stack.reshape(2, -1, shape[-1] if shape else 1) if stack.size else stack
    each = [slerp(rows[:, i], [2, 3]) for i in range(rows.shape[1])]
    expected = np.array(each, dtype).reshape(shape).astype(np.float64)
    slack = 2 * 2.0 ** -FLOATS[np.dtype(dtype)].mantissa
    np.testing.assert_allclose(found.astype(np.float64), expected, slack, slack)
    if dtype != np.float64:
        assert (found == expected).mean() > 0.999 if found.size else True


def test_rows_without_an_angle_are_interpolated_linearly() -> None:
    first = np.array([[1.0, 2], [0, 0], [3, 4], [1, 0]])
    second = np.array([[-2.0, -4], [5, 6], [3, 4], [0, 1]])
    found = nuslerp([first, second], [3, 1], vectors="row")
    np.testing.assert_allclose(found[:3], (0.75 * first + 0.25 * second)[:3])
    arc = [math.cos(math.pi / 8), math.sin(math.pi / 8)]
    np.testing.assert_allclose(found[3], arc, rtol=1e-15)


def test_a_nan_in_a_row_stays_in_the_row(rng: np.random.Generator) -> None:
    stack = rng.normal(size=(2, 3, 4))
    stack[1, 1, 2] = np.nan
    found = nuslerp(stack, vectors="row")
    assert np.isnan(found).any(axis=1).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("size", "word"), [(1e-170, "small"), (5e-324, "small"), (1e160, "large")]
)
def test_a_row_whose_squares_float64_cannot_hold_is_refused(
    size: float, word: str
) -> None:
    stack = np.ones((2, 3, 4))
    stack[1, 2] = size
    with pytest.raises(ValueError, match=rf"^members .*members\[1\] are too {word};"):
        nuslerp(stack, vectors="row")


def test_unknown_vectors_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^vectors of 'nuslerp' must be one of 'tens"):
        nuslerp.check(2, {"vectors": "rows"})
    nuslerp.check(2, {"vectors": "column"})


def test_multislerp_is_mergekits() -> None:
    expected = [
        [
            [-0.7025553485908179, -0.8066302697907631, 0.335806905505205],
            [0.9710235786735054, -1.1710931288410922, 1.2495254504898445],
            [-0.6490454821934124, 0.3408057926649469],
        ],
        [  # normalize_weights: false
            [-4.2153320915449095, -4.839781618744579, 2.014841433031231],
            [5.826141472041032, -7.026558773046555, 7.4971527029390685],
            [-3.8942728931604718, 2.044834755989681],
        ],
    ]
    for normalize, parts in zip((True, False), expected, strict=True):
        found = multislerp(TRIPLE, [1, 2, 3], normalize=normalize, eps=1e-8)
        np.testing.assert_allclose(found.ravel(), np.concatenate(parts), rtol=1e-14)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, BFLOAT16], ids=str)
@pytest.mark.parametrize("offset", [0.0, 3.0])
def test_multislerp_is_the_mean_direction_rounded_once(
    dtype: Any, offset: float, rng: np.random.Generator
) -> None:
    wide = rng.normal(size=(4, 500)) + offset
    stack, weights = round_to_dtype(wide, np.dtype(dtype)), np.array([1, 2, 0.5, 0.25])
    units, lengths = directions(stack)
    total = np.array([math.fsum(column) for column in (weights[:, None] * units).T])
    expected = total / math.sqrt(math.fsum(total**2))
    expected = expected * math.fsum(weights * lengths) / math.fsum(weights)
    found = multislerp(stack, weights)
    rounded = round_to_dtype(expected, np.dtype(dtype))
    if dtype == np.float64:
        np.testing.assert_allclose(found, expected, rtol=0, atol=4e-15)
    else:
        assert (found != rounded).sum() <= 1


def test_directions_have_no_mean_tangent_at_their_mean(
    rng: np.random.Generator,
) -> None:
    """So that the tangent-space step of mergekit's formula adds rounding errors."""
    units, _ = directions(rng.normal(size=(3, 40)))
    weights = np.array([0.2, 0.3, 0.5])
    mean = weights @ units
    mean /= np.linalg.norm(mean)
    tangents = units - (units @ mean)[:, None] * mean
    assert np.abs(weights @ tangents).max() < 1e-15


def test_multislerp_minimizes_squared_chords(rng: np.random.Generator) -> None:
    stack = rng.normal(size=(3, 6)) + 1
    weights = np.array([1.0, 2.0, 0.5])
    units, _ = directions(stack)
    point = multislerp(stack, weights)
    point /= np.linalg.norm(point)

    def chords(unit: Float64) -> float:
        return float(weights @ ((units - unit) ** 2).sum(axis=1))

    for step in 1e-3 * rng.normal(size=(20, 6)):
        other = point + step
        assert chords(other / np.linalg.norm(other)) > chords(point)


def test_two_equal_weights_have_the_direction_of_slerp(
    rng: np.random.Generator,
) -> None:
    stack = rng.normal(size=(2, 50))
    units, lengths = directions(stack)
    np.testing.assert_allclose(
        multislerp(stack), slerp(units) * lengths.mean(), rtol=0, atol=1e-14
    )


def test_directions_that_cancel_have_the_mean_of_members() -> None:
    assert multislerp([[1.0, 0], [-3.0, 0]]).tolist() == [-1, 0]
    stack = np.array([[3.0, 0], [-1, math.sqrt(3)], [-2, -math.sqrt(12)]])
    np.testing.assert_allclose(multislerp(stack), stack.mean(0), atol=1e-15)
    assert multislerp([[1.0, 0], [-3.0, 0]], [2, 2], normalize=False).tolist() == [
        -4,
        0,
    ]


def test_zero_members_have_no_direction() -> None:
    stack = np.array([[3.0, 4.0], [0, 0]])
    np.testing.assert_allclose(multislerp(stack, [3, 1]), [2.25, 3.0], rtol=1e-15)
    assert multislerp(np.zeros((3, 2))).tolist() == [0, 0]


@pytest.mark.parametrize("eps", [-1e-8, math.nan, math.inf, "0"])
def test_eps_must_be_a_length(eps: Any) -> None:
    with pytest.raises(ValueError, match=r"^eps of 'multislerp' must be .* found "):
        multislerp.check(3, {"eps": eps})


@pytest.mark.parametrize("normalize", ["false", None, 1.5])
def test_normalize_must_be_a_bool(normalize: Any) -> None:
    """Text counts as true, so that `--param normalize=False` would be ignored."""
    with pytest.raises(ValueError, match="normalize of 'multislerp' must be True or"):
        multislerp(np.eye(2), normalize=normalize)


def test_slerp_of_members_near_each_other_is_on_the_arc() -> None:
    """Others interpolate linearly where the cosine exceeds 0.9995."""
    angle = 0.03
    members = np.array([[1, 0], [math.cos(angle), math.sin(angle)]])
    found = slerp(members, [0.5, 0.5])
    expected = [math.cos(angle / 2), math.sin(angle / 2)]
    np.testing.assert_allclose(found, expected, rtol=1e-14)
    assert abs(np.linalg.norm(members.mean(axis=0)) - 1) > 1e-4


def test_mergekits_karcher_converges_to_ours() -> None:
    expected = [  # max_iter: 100, tol: 1e-15
        [-0.5489646363726819, -0.852444174132569, 0.4714919713479773],
        [0.7521142004923536, -1.5005554231812048, 1.0437848311751894],
        [0.008659250720834871, 0.6185535468798684],
    ]
    found = karcher_mean(TRIPLE).ravel()
    np.testing.assert_allclose(found, np.concatenate(expected), rtol=1e-11)
    expected = [  # its defaults, max_iter: 10, tol: 1e-5
        [-0.5489654941836487, -0.8524430513372372, 0.47149282630889633],
        [0.7521170412773798, -1.5005514129920274, 1.043788517152106],
        [0.008656503125208326, 0.6185537738980432],
    ]
    np.testing.assert_allclose(found, np.concatenate(expected), rtol=0, atol=5e-6)


@pytest.mark.parametrize("vectors", ["tensor", "row", "column"])
def test_streamed_rows_are_the_same_for_any_memory_and_threads(
    vectors: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    shapes = {"wide": (700, 513), "long": (300_001,), "thin": (150_000, 2)}
    if vectors != "column":
        shapes["deep"] = (3, 50_000, 2)
    paths = [tmp_path / f"{name}.safetensors" for name in "ab"]
    shared = {n: 2 * rng.normal(size=shape) for n, shape in shapes.items()}
    for path in paths:
        tensors = {n: t + rng.normal(size=t.shape) for n, t in shared.items()}
        save_file({n: t.astype(np.float32) for n, t in tensors.items()}, path)
    contents = set()
    for memory, threads in ((8 << 20, 1), (64 << 20, 2)):
        out = tmp_path / f"{memory}.safetensors"
        params: Any = {"vectors": vectors}
        average(
            paths,
            out,
            rule="nuslerp",
            rule_params=params,
            memory=memory,
            threads=threads,
        )
        contents.add(out.read_bytes())
    assert len(contents) == 1
    members = [load_file(path) for path in paths]
    for name, tensor in load_file(out).items():
        stack = np.array([member[name] for member in members])
        expected = nuslerp(stack, vectors=vectors)
        assert tensor.tobytes() == expected.tobytes()


@pytest.mark.parametrize("rule", [nuslerp, multislerp], ids=lambda rule: rule.name)
def test_members_of_two_formats_are_combined_in_float64(
    rule: Rule, rng: np.random.Generator
) -> None:
    wide = rng.normal(size=(2, 60))
    states = [{"w": wide[0].astype(np.float32)}, {"w": wide[1]}]
    found = average(states, rule=rule, dtype="float64")["w"]
    stack = np.array([state["w"].astype(np.float64) for state in states])
    np.testing.assert_allclose(found, rule(stack), rtol=1e-15)
