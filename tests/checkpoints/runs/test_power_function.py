"""Exponents and relative standard deviations of power-function averages."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ensembles.checkpoints import gamma_to_sigma_rel, sigma_rel_to_gamma
from ensembles.checkpoints.runs.power_function import (
    LARGEST_SIGMA_REL,
    resolve_gamma,
)


@given(gamma=st.floats(0, 1e6))
@example(gamma=2.0**-52)
def test_gamma_is_found_again(gamma: float) -> None:
    found = sigma_rel_to_gamma(gamma_to_sigma_rel(gamma))
    assert found == pytest.approx(gamma, rel=1e-12, abs=1e-12)


@given(sigma_rel=st.floats(1e-6, LARGEST_SIGMA_REL))
def test_sigma_rel_is_found_again(sigma_rel: float) -> None:
    found = gamma_to_sigma_rel(sigma_rel_to_gamma(sigma_rel))
    assert found == pytest.approx(sigma_rel, rel=1e-12)


@pytest.mark.parametrize("sigma_rel", [0.01, 0.05, 0.1, 0.15, 0.25])
def test_gamma_is_the_largest_root_of_the_polynomial(sigma_rel: float) -> None:
    t = sigma_rel**-2  # algorithm 2 of Karras et al.
    roots = np.roots([1, 7, 16 - t, 12 - t]).real
    assert sigma_rel_to_gamma(sigma_rel) == pytest.approx(roots.max(), rel=1e-10)


def test_sigma_rel_is_the_deviation_of_the_profile() -> None:
    t = (np.arange(200_000) + 0.5) / 200_000
    profile = t**6.94
    profile /= profile.sum()
    deviation = math.sqrt(profile @ t**2 - (profile @ t) ** 2)
    assert gamma_to_sigma_rel(6.94) == pytest.approx(deviation, rel=1e-6)


def test_equal_weights_are_at_the_end_of_the_range() -> None:
    assert sigma_rel_to_gamma(LARGEST_SIGMA_REL) == pytest.approx(0, abs=1e-12)
    assert resolve_gamma(2, None) == 2.0


@pytest.mark.parametrize("value", [0, -0.1, 0.2887, math.nan, math.inf])
def test_sigma_rel_out_of_range_is_an_error(value: float) -> None:
    with pytest.raises(ValueError, match="sigma_rel must be positive and at most 1"):
        sigma_rel_to_gamma(value)


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_gamma_out_of_range_is_an_error(value: float) -> None:
    with pytest.raises(ValueError, match="gamma must not be negative, found"):
        gamma_to_sigma_rel(value)


@pytest.mark.parametrize("params", [(None, None), (1, 0.1)])
def test_one_of_both_parameters_is_needed(params: Any) -> None:
    with pytest.raises(ValueError, match="needs either gamma or sigma_rel, found"):
        resolve_gamma(*params)
