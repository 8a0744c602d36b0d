"""Random words and masks: known answers, uniformity, independence, any division."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numba
import numpy as np
import pytest

from ensembles._typing import Float64
from ensembles.kernels import jit
from ensembles.kernels.jit import LANE
from ensembles.kernels.task_vectors.random_masks import (
    RESOLUTION,
    philox,
    random_words,
    scale_randomly,
    stream_key,
)

PLAIN = bool(numba.config.DISABLE_JIT)  # type: ignore[attr-defined]  # set when loaded
SIZE = 1 << 20  # words in a statistical test
SIGMAS = 5  # of 60 seeded comparisons, none lies outside by chance

# Counter, key and words of Philox4x32-10, from the known answers that its authors
# distribute with Random123 (tests/kat_vectors).
ONES, PI = 0xFFFFFFFF, 0x243F6A88
KNOWN = [
    ([0, 0, 0, 0], [0, 0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([ONES] * 4, [ONES] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [PI, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.fixture(params=["loops", "numpy"])
def implementation(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    worthwhile = -1 if request.param == "loops" else 1 << 62
    monkeypatch.setattr(jit, "WORTHWHILE", worthwhile)


def masked(values: Float64, p: float, start: int = 0, **key: Any) -> Float64:
    """Values, divided by p where they are kept."""
    out, size = values.copy(), len(values)
    key = {"seed": 0, "name": "w", "member": 0, **key}
    scale_randomly(out, np.full(size, p), np.full(size, 1 / p), start=start, **key)
    return out


def uniforms(**key: Any) -> Float64:
    words = random_words(
        **{"seed": 0, "name": "w", "member": 0, "start": 0, "size": SIZE, **key}
    )
    return words.astype(np.float64) * RESOLUTION - 0.5


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_words_are_those_of_philox(
    counter: list[int], key: list[int], expected: list[int]
) -> None:
    first, second = np.array(key, np.uint32)
    words = first, second, np.uint32(counter[3])
    start = counter[0] + (counter[1] << 32)
    assert philox(words, counter[2], start, 1).tolist() == expected


def test_a_number_has_a_byte_of_one_counter_and_the_rest_of_another() -> None:
    key, member, start, size = stream_key(7, "w"), 3, 37, 100
    numbers = random_words(7, "w", member, start, size)
    for index, number in enumerate(numbers.tolist(), start):
        words = philox(key, member, index // 16, 1)
        highest = words[index % 16 // 4] >> np.uint32(index % 4 * 8) & np.uint32(255)
        rest = philox(key, member + (1 << 31), index // 4, 1)[index % 4]
        assert number == (int(highest) << 24) + (int(rest) >> 8)


@pytest.mark.parametrize("start", [0, 1, 3, 6, 1023, (1 << 34) + 2])
@pytest.mark.parametrize("size", [0, 1, 5, LANE, 3 * LANE + 7])
def test_loops_equal_numpy_bit_for_bit(
    start: int, size: int, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = rng.normal(size=size)[: 20 if PLAIN else size]
    results = []
    for worthwhile in (-1, 1 << 62):
        monkeypatch.setattr(jit, "WORTHWHILE", worthwhile)
        results.append(masked(values, 0.3, start, seed=5, member=2).tobytes())
    assert results[0] == results[1]


@pytest.mark.usefixtures("implementation")
def test_any_division_gives_the_same_mask(rng: np.random.Generator) -> None:
    size = 300 if PLAIN else 9_000
    values = rng.normal(size=size)
    cuts = [0, 1, 2, 7, *sorted(rng.integers(8, size, 5).tolist()), size]
    pieces = [masked(values[a:b], 0.4, a) for a, b in pairwise(cuts)]
    assert np.concatenate(pieces).tobytes() == masked(values, 0.4).tobytes()


def test_each_bit_and_each_byte_of_the_words_is_uniform() -> None:
    words = random_words(1, "w", 3, 17, SIZE)
    for bit in range(32):
        n_ones = int((words >> np.uint32(bit) & 1).sum())
        assert abs(n_ones - SIZE / 2) < SIGMAS * math.sqrt(SIZE) / 2
    for shift in (0, 8, 16, 24):
        counts = np.bincount(words >> np.uint32(shift) & 255, minlength=256)
        chi_squared = ((counts - SIZE / 256) ** 2).sum() / (SIZE / 256)
        assert abs(chi_squared - 255) < SIGMAS * math.sqrt(2 * 255)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"member": 0}, {"member": 1}),
        ({"seed": 0}, {"seed": 1}),
        ({"seed": 1, "member": 0}, {"seed": 0, "member": 1}),
        ({"name": "layers.1.w"}, {"name": "layers.2.w"}),
        ({"seed": 1, "name": "0"}, {"seed": 10, "name": ""}),
        *(({"start": 0}, {"start": lag}) for lag in (1, 2, 3, 4, 5, 1024)),
    ],
    ids=str,
)
def test_members_elements_seeds_and_tensors_are_independent(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    a, b = uniforms(**one), uniforms(**other)
    assert abs((a * b).mean()) * 12 < SIGMAS / math.sqrt(SIZE)
    # Both kept, with probability 0.1 each.
    both = int(((a < -0.4) & (b < -0.4)).sum())
    assert abs(both - SIZE / 100) < SIGMAS * math.sqrt(SIZE / 100)


@pytest.mark.parametrize("p", [2.0**-16, 0.001, 0.1, 0.5, 0.9])
def test_elements_are_kept_with_their_probability(p: float) -> None:
    n_kept = np.count_nonzero(masked(np.ones(SIZE), p, 3, seed=2, member=1))
    assert abs(n_kept - p * SIZE) < SIGMAS * math.sqrt(p * (1 - p) * SIZE)


@pytest.mark.usefixtures("implementation")
def test_probabilities_are_multiples_of_the_resolution() -> None:
    words = random_words(0, "w", 0, 0, 200)
    for n, expected in ((0, 0), (0.5, 1), (1, 1)):  # bytes decide for none of them
        values = np.ones(200)
        p = (words.astype(np.float64) + n) * RESOLUTION
        scale_randomly(values, p, np.ones(200), seed=0, name="w", member=0, start=0)
        assert (values == expected).all()
    assert (masked(np.ones(200), 1.0) == 1).all()


@pytest.mark.usefixtures("implementation")
def test_values_that_are_dropped_are_zero_and_not_finite_ones_nan() -> None:
    values = np.where(np.arange(400) % 2, 2.0, np.inf)
    result = masked(values, 0.5)
    kept = random_words(0, "w", 0, 0, 400) < 2**31
    assert 100 < kept.sum() < 300
    assert (result[1::2] == 4.0 * kept[1::2]).all()
    assert np.isnan(result[::2][~kept[::2]]).all()
    assert (result[::2][kept[::2]] == np.inf).all()
