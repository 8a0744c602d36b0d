"""Weights of the members of averages along a run, against their formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ensembles.checkpoints import EMA, LAWA, SWA, PowerEMA
from ensembles.checkpoints.averaging.moving_averages import Average


def weights(average: Average, n_steps: int) -> np.ndarray[Any, Any]:
    """Weight of the parameters of each step in the average, from its updates."""
    assert not isinstance(average, LAWA)
    found, total, previous, n_members = np.zeros(n_steps), 1.0, 0, 0
    for step in range(1, n_steps + 1):
        if not average.has_member_at(step):
            continue
        if n_members:
            total = average.total_weight(total, n_members, step, previous)
        found *= 1 - 1 / total
        found[step - 1] = 1 / total
        previous, n_members = step, n_members + 1
    return found


def test_an_ema_shrinks_the_weight_of_its_first_member_too() -> None:
    expected = [0.9**4, *(0.1 * 0.9**age for age in (3, 2, 1, 0))]
    np.testing.assert_allclose(weights(EMA(0.9), 5), expected, rtol=1e-14)


def test_a_normalized_ema_has_the_weights_of_the_formula() -> None:
    expected = 0.9 ** np.arange(49, -1, -1.0)
    found = weights(EMA(0.9, warmup="normalized"), 50)
    np.testing.assert_allclose(found, expected / expected.sum(), rtol=1e-12)


def test_weights_are_halved_in_a_half_life() -> None:
    found = weights(EMA(half_life=10), 100)
    np.testing.assert_allclose(found[20:], 2 * found[10:-10], rtol=1e-12)


def test_a_half_life_counts_steps_however_often_the_average_is_updated() -> None:
    found = weights(EMA(half_life=10, every=5, warmup="normalized"), 100)
    members = found[4::5]
    assert np.count_nonzero(found) == 20
    np.testing.assert_allclose(members[2:], 2 * members[:-2], rtol=1e-12)
    np.testing.assert_allclose(
        weights(EMA(0.5**0.1, every=5), 100),
        weights(EMA(half_life=10, every=5), 100),
        rtol=1e-12,
    )


@pytest.mark.parametrize(
    ("warmup", "decay"),
    [
        ("ratio", lambda n: (1 + n) / (10 + n)),
        ((1.0, 2 / 3), lambda n: 1 - (1 + n) ** (-2 / 3)),
        ((5.0, 1.0), lambda n: 1 - 1 / (1 + n / 5)),
    ],
)
def test_a_warmup_limits_the_decay(warmup: Any, decay: Any) -> None:
    expected = np.zeros(40)
    expected[0] = 1
    for n in range(1, 40):
        limited = min(0.95, decay(n))
        expected *= limited
        expected[n] = 1 - limited
    found = weights(EMA(0.95, warmup=warmup), 40)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_power_function_average_has_the_weights_of_the_paper() -> None:
    """Its update is (1 - 1/t) ** (gamma + 1), which sums to t ** gamma."""
    found = weights(PowerEMA(gamma=6.94), 1000)
    t = np.arange(1, 1001.0)
    expected = t**7.94 - (t - 1) ** 7.94
    np.testing.assert_allclose(found, expected / expected.sum(), rtol=1e-9)
    mean = found @ t
    spread = np.sqrt(found @ (t - mean) ** 2) / 1000
    assert spread == pytest.approx(0.1, rel=2e-3)
    rare = weights(PowerEMA(gamma=6.94, every=10), 1000)
    np.testing.assert_allclose(rare[9::10], found.reshape(-1, 10).sum(1), rtol=1e-9)


def test_swa_has_equal_weights_from_its_start() -> None:
    found = weights(SWA(start=5, every=3), 15)
    assert np.flatnonzero(found).tolist() == [4, 7, 10, 13]
    np.testing.assert_allclose(found[4::3], 1 / 4, rtol=1e-15)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EMA(), "needs either decay or half_life, found decay=None"),
        (lambda: EMA(0.9, half_life=3), "needs either decay or half_life"),
        (lambda: EMA(1.0), "decay must be between 0 and 1, found 1.0"),
        (lambda: EMA(half_life=0), "half_life must be positive, found 0"),
        (lambda: EMA(0.9, warmup="linear"), "warmup must be 'ratio', 'normalized'"),
        (lambda: EMA(0.9, warmup=(0, 1)), "warmup must be 'ratio', 'normalized'"),
        (lambda: SWA(every=0), "every must be at least 1, found 0"),
        (lambda: SWA(start=-1), "start must be at least 0, found -1"),
        (lambda: LAWA(k=0), "k must be at least 1, found 0"),
        (lambda: PowerEMA(), "needs either gamma or sigma_rel"),
        (lambda: PowerEMA(sigma_rel=0.5), "sigma_rel must be positive and at most"),
    ],
)
def test_invalid_settings_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_count_must_be_an_integer() -> None:
    with pytest.raises(TypeError, match=r"every must be an integer, found 2\.5"):
        SWA(every=2.5)  # type: ignore[arg-type]


def test_the_time_of_a_power_function_average_is_measured_from_its_start() -> None:
    late, early = PowerEMA(gamma=3, start=100), PowerEMA(gamma=3)
    for step in (2, 3, 50):
        shares = [
            a.total_weight(1, 1, a.start + step, a.start + 1) for a in (late, early)
        ]
        assert shares[0] == shares[1] == 1 / (1 - float((1 / step) ** 4))
