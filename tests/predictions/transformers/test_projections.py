from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.linalg import orthogonal_procrustes
from scipy.stats import ortho_group

from ensembles.predictions.transformers.projections import (
    check_n_components,
    fit_rotations,
)


@pytest.fixture
def outputs(rng: np.random.Generator) -> Any:
    return [rng.normal(size=(60, width)) for width in (3, 5, 5, 2)]


def test_rotations_are_those_of_padded_outputs(outputs: Any) -> None:
    rotations = fit_rotations(outputs)
    assert rotations[1] == pytest.approx(np.eye(5), abs=1e-12)
    for output, rotation in zip(outputs, rotations, strict=True):
        assert rotation.shape == (output.shape[1], 5)
        assert rotation @ rotation.T == pytest.approx(np.eye(output.shape[1]))
        padded = np.pad(output, ((0, 0), (0, 5 - output.shape[1])))
        full, _ = orthogonal_procrustes(padded, outputs[1])
        assert output @ rotation == pytest.approx(padded @ full)


def test_a_narrow_output_is_turned_back_into_its_place(
    rng: np.random.Generator,
) -> None:
    wide = np.linalg.qr(rng.normal(size=(60, 5)))[0]  # the same in all directions
    turn = ortho_group.rvs(5, random_state=1)[:, :3]
    _, back = fit_rotations([wide, wide @ turn])
    assert back == pytest.approx(turn.T)


def test_rotations_have_the_dtype_of_the_outputs(outputs: Any) -> None:
    singles = [output.astype(np.float32) for output in outputs]
    assert {rotation.dtype for rotation in fit_rotations(singles)} == {
        np.dtype(np.float32)
    }


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (1.5, TypeError, "n_components must be an integer, found 1.5"),
        (True, TypeError, "n_components must be an integer, found True"),
        (0, ValueError, "n_components must be at least 1, found 0"),
        (5, ValueError, "at most 4 for 9 samples with 4 columns: found 5"),
    ],
)
def test_wrong_numbers_are_reported(value: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        check_n_components(value, (9, 4))
    check_n_components(None)
    check_n_components(np.int64(4), (9, 4))
