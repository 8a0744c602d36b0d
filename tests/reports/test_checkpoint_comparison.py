"""Tables of checkpoints on disk, scored by a function of a path."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from ensembles.checkpoints import Candidate, Journal, make_soup
from ensembles.reports import Comparison, compare_checkpoints
from tests.checkpoints.soup_search.test_make_soup import (
    VALUES,
    made,
    members,
    nearness,
    six,
    steps,
    value,
)


def scores(comparison: Comparison) -> dict[str, float]:
    return {row.model: row.score for row in comparison.rows}


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ""])
def test_each_row_has_the_score_of_its_average(tmp_path: Path, suffix: str) -> None:
    paths = six(tmp_path, suffix)
    table = compare_checkpoints(paths, nearness, folder=tmp_path, is_run=True)
    numbers = list(VALUES.values())
    alone = [-abs(number - 4) for number in numbers]
    report = make_soup(paths, nearness, tmp_path / f"out{suffix}")
    # The first checkpoint has the weight of all before it.
    decayed = np.average(numbers, weights=[1, 1, 2, 4, 8, 16])
    assert scores(table) == pytest.approx(
        {
            **dict(zip(map(str, paths), alone, strict=True)),
            "uniform soup": -abs(np.mean(numbers) - 4),
            "median soup": -abs(np.median(numbers) - 4),
            "greedy soup": report.score,
            "mean of the last 2": -abs(np.mean(numbers[-2:]) - 4),
            "mean of the last 4": -abs(np.mean(numbers[-4:]) - 4),
            "EMA, half-life 1 checkpoint": -abs(decayed - 4),
        },
        rel=1e-6,
    )
    assert table.reference == str(paths[3])  # 3 is nearest to 4
    assert [row.is_median_member for row in table.rows[:6]].count(True) == 1
    cost = table.rows[0].cost
    assert (cost.parameters, cost.n_bytes, cost.n_models) == (3, 12, 1)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {path.name for path in paths} | {f"out{suffix}"}


def test_the_other_score_chooses(tmp_path: Path) -> None:
    paths = six(tmp_path)
    table = compare_checkpoints(
        paths, nearness, select_score=lambda path: -abs(value(path)), folder=tmp_path
    )
    assert table.reference == str(paths[1])  # 0 is nearest to 0
    rows = {row.model: row for row in table.rows}
    report = make_soup(paths, lambda path: -abs(value(path)), tmp_path / "o.pt")
    chosen = tuple(n for n, w in zip(report.members, report.weights, strict=True) if w)
    assert set(rows["greedy soup"].members) == set(chosen)
    assert rows["greedy soup"].score == pytest.approx(nearness(tmp_path / "o.pt"))
    assert not any("optimistic" in note for note in table.notes)


def test_without_another_score_the_choice_is_optimistic(tmp_path: Path) -> None:
    table = compare_checkpoints(six(tmp_path), steps, folder=tmp_path)
    assert "too optimistic; pass select_score (--select-score)" in table.notes[-3]
    assert any("no intervals" in note for note in table.notes)


def test_a_lower_score_may_be_the_better(tmp_path: Path) -> None:
    table = compare_checkpoints(
        members(tmp_path, 1, 5, 9),
        lambda path: -nearness(path),
        lower_is_better=True,
        folder=tmp_path,
    )
    assert table.reference == str(tmp_path / "5.safetensors")
    assert table.best.score == 1
    assert [row.model[-13] for row in table.rows if row.is_median_member] == ["1"]


def test_a_member_without_a_score_is_left_out_and_noted(tmp_path: Path) -> None:
    def score(path: Path) -> float:
        return math.nan if path.name.startswith("e") else nearness(path)

    with pytest.warns(UserWarning, match=r"e\.safetensors is left out"):
        table = compare_checkpoints(
            six(tmp_path), score, on_error="drop", folder=tmp_path
        )
    assert len(table.rows) == 5 + 3
    kept = [number for name, number in VALUES.items() if name != "e"]
    assert scores(table)["uniform soup"] == pytest.approx(-abs(np.mean(kept) - 4))


def test_scores_of_a_soup_are_found_in_its_journal(tmp_path: Path) -> None:
    path = tmp_path / "out.safetensors.journal.jsonl"
    paths = six(tmp_path)
    make_soup(
        paths, steps, tmp_path / "out.safetensors", journal=Journal(path, "steps")
    )
    done: list[Candidate] = []
    table = compare_checkpoints(
        paths,
        steps,
        folder=tmp_path,
        journal=Journal(path, "steps"),
        record=done.append,
    )
    assert [candidate.reused for candidate in done].count(False) == 1  # the median
    assert scores(table)["greedy soup"] == 0
    again: list[Candidate] = []
    same = compare_checkpoints(
        paths,
        steps,
        folder=tmp_path,
        journal=Journal(path, "steps"),
        record=again.append,
    )
    assert all(candidate.reused for candidate in again)
    assert same == table


def test_wrong_arguments_are_reported(tmp_path: Path) -> None:
    paths = six(tmp_path)
    with pytest.raises(ValueError, match="at least two members"):
        compare_checkpoints(paths[:1], steps)
    with pytest.raises(ValueError, match="on_error must be one of"):
        compare_checkpoints(paths, steps, on_error="ignore")
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        compare_checkpoints([*paths, tmp_path / "g.pt"], steps)


@pytest.mark.parametrize(("lower", "median"), [(True, "b"), (False, "c")])
def test_of_two_members_in_the_middle_the_better_is_the_median(
    tmp_path: Path, lower: bool, median: str
) -> None:
    paths = [
        made(tmp_path, f"{name}.safetensors", number)
        for number, name in enumerate("abcd")
    ]
    table = compare_checkpoints(paths, value, lower_is_better=lower, folder=tmp_path)
    (row,) = [row for row in table.rows if row.is_median_member]
    assert Path(row.model).stem == median
