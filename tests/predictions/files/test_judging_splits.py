"""Rows that judge weights are apart from the rows that choose them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensembles.predictions.files.judging_splits import judging_splits


def test_without_groups_and_time_the_folds_are_those_of_scikit_learn() -> None:
    from sklearn.model_selection import StratifiedKFold

    y = np.arange(30) % 3
    expected = StratifiedKFold(5).split(y, y)
    splits = judging_splits(y, cv=5, classifier=True)
    for split, other in zip(splits, expected, strict=True):
        np.testing.assert_array_equal(split[1], other[1])


@pytest.mark.parametrize("classifier", [True, False])
def test_no_group_is_on_both_sides(classifier: bool, rng: Any) -> None:
    y, groups = rng.integers(0, 2, 60), rng.integers(0, 9, 60)
    splits = judging_splits(y, cv=3, groups=groups, classifier=classifier)
    tested = np.concatenate([test for _, test in splits])
    np.testing.assert_array_equal(np.sort(tested), np.arange(60))
    for train, test in splits:
        assert not set(groups[train]) & set(groups[test])


@given(
    st.lists(st.integers(0, 12), min_size=6, max_size=60),
    st.integers(2, 5),
    st.integers(0, 99),
)
def test_weights_are_learned_from_earlier_times_only(
    times: list[int], n_folds: int, seed: int
) -> None:
    time = np.random.default_rng(seed).permutation(times)
    y = np.zeros(len(time))
    if len(set(times)) <= n_folds:
        with pytest.raises(ValueError, match="time must have at least"):
            judging_splits(y, cv=n_folds, time=time, classifier=False)
        return
    splits = judging_splits(y, cv=n_folds, time=time, classifier=False)
    assert len(splits) == n_folds
    for train, test in splits:
        assert len(train) > 0
        assert time[train].max() < time[test].min()
        np.testing.assert_array_equal(train, np.flatnonzero(time < time[test].min()))
    tested = np.concatenate([test for _, test in splits])
    assert time[tested].max() == time.max()
    assert len(np.unique(tested)) == len(tested)


def test_a_time_with_most_rows_leaves_no_fold_empty() -> None:
    time = np.repeat([0, 1, 2, 3, 4, 5], [1, 1, 100, 1, 1, 1])
    splits = judging_splits(np.zeros(105), cv=3, time=time, classifier=False)
    assert [len(test) for _, test in splits] == [100, 1, 2]


def test_groups_of_later_rows_do_not_train() -> None:
    time, groups = np.arange(12), np.arange(12) % 4
    splits = judging_splits(
        np.zeros(12), cv=3, time=time, groups=groups, classifier=False
    )
    for train, test in splits:
        assert not set(groups[train]) & set(groups[test])


@pytest.mark.parametrize("cv", [[([0], [1])], 1, True])
def test_groups_need_a_number_of_folds(cv: Any) -> None:
    with pytest.raises(ValueError, match="cv must be a number of folds"):
        judging_splits(np.zeros(4), cv=cv, groups=np.arange(4), classifier=False)


def test_too_few_groups_are_named_with_a_fix() -> None:
    with pytest.raises(ValueError, match=r"found 2; pass cv=2 \(--cv 2\)"):
        judging_splits(np.zeros(4), cv=5, groups=[0, 0, 1, 1], classifier=False)
