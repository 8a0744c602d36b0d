"""The path of a greedy soup, from its report and from its journal."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ensembles.checkpoints import Journal, SoupReport, make_soup
from ensembles.reports import SoupPathDisplay
from ensembles.reports.displays.figures import BLUE, GRAY, GREEN, VERMILLION
from tests.checkpoints.soup_search.test_make_soup import (
    VALUES,
    made,
    nearness,
    six,
    steps,
    value,
)


def soup(folder: Path, score: Any = nearness, **options: Any) -> SoupReport:
    """Soup of six members, whose journal is beside it."""
    paths = [folder / f"{name}.safetensors" for name in VALUES]
    if not paths[0].exists():  # a new file would be another version of the member
        six(folder)
    journal = Journal(folder / "soup.journal.jsonl", "score")
    return make_soup(
        paths, score, folder / "soup.safetensors", journal=journal, **options
    )


def stems(display: SoupPathDisplay) -> str:
    return "".join(Path(name).stem for name in display.members)


@pytest.mark.parametrize("score", [nearness, steps])
def test_the_path_is_that_of_the_soup(tmp_path: Path, score: Any) -> None:
    report = soup(tmp_path, score)  # with whole steps, members tie and are kept
    for display in (
        SoupPathDisplay.from_report(report),
        SoupPathDisplay.from_journal(tmp_path / "soup.journal.jsonl"),
    ):
        # a is 3, b 6, f 1, c 8, d 0 and e -3; the best is 4.
        assert stems(display) == "abfcde"
        np.testing.assert_array_equal(display.scores, [-1, -2, -3, -4, -4, -7])
        assert "left out" in display.outcomes
        kept = [
            name
            for name, outcome in zip(stems(display), display.outcomes, strict=True)
            if outcome == "kept"
        ]
        weights = zip(report.members, report.weights, strict=True)
        assert sorted(kept) == [Path(m).stem for m, w in sorted(weights) if w > 0]
        assert display.score == report.score
        assert display.uniform_score == report.uniform_score
        assert display.notes == ()
        assert display.summary == (
            f"soup of {len(kept)} in 6: score {report.score:.6g}; best member -1; "
            f"uniform soup {report.uniform_score:.6g}"
        )


def test_the_path_of_a_rule_with_a_base_has_neither_base_nor_mean(
    tmp_path: Path,
) -> None:
    made(tmp_path, "base.safetensors", 2)
    report = soup(
        tmp_path,
        base=tmp_path / "base.safetensors",
        rule="task_arithmetic",
        rule_params={"scale": 0.5},
        select="greedy_soup",
    )
    report_display, journal_display = (
        SoupPathDisplay.from_report(report),
        SoupPathDisplay.from_journal(tmp_path / "soup.journal.jsonl"),
    )
    # Half the sum of the differences from 2: a + b is 4.5, and a + b + f is 4.
    for display in (report_display, journal_display):
        assert stems(display) == "abfcde"
        assert display.outcomes[:3] == ["kept", "kept", "kept"]
        assert display.score == report.score == 0


def test_the_path_of_several_rules_is_that_of_the_one_that_was_written(
    tmp_path: Path,
) -> None:
    made(tmp_path, "base.safetensors", 2)
    report = soup(
        tmp_path,
        base=tmp_path / "base.safetensors",
        rule=["task_arithmetic", "median"],
        rule_params={"scale": 0.5},
        select="greedy_soup",
    )
    display = SoupPathDisplay.from_report(report)
    assert report.chosen.rule == "task_arithmetic"
    assert display.outcomes[:3] == ["kept", "kept", "kept"]
    assert display.score == report.score == 0


def test_the_picture_has_members_soups_and_the_uniform_soup(tmp_path: Path) -> None:
    display = SoupPathDisplay.from_report(soup(tmp_path), metric="nearness")
    ax = display.ax_
    drawn = {line.get_label(): line for line in ax.lines}
    alone = drawn["member alone"]
    np.testing.assert_array_equal(alone.get_xdata(), display.scores)
    assert alone.get_color() == GRAY
    for outcome in ("kept", "left out"):
        rows = [n for n, found in enumerate(display.outcomes) if found == outcome]
        points = drawn[f"soup with it, {outcome}"]
        np.testing.assert_array_equal(points.get_ydata(), rows)
        np.testing.assert_array_equal(points.get_xdata(), display.soup_scores[rows])
        assert points.get_color() == BLUE
    assert drawn["uniform soup"].get_xdata()[0] == display.uniform_score
    assert drawn["uniform soup"].get_color() == GREEN
    assert [t.get_text() for t in ax.get_yticklabels()] == display.members
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the best member is at the top


def test_failed_members_and_soups_are_marked(tmp_path: Path) -> None:
    def failing(path: Path) -> float:
        if value(path) in (8, 4.5):  # c alone, and the soup of a and b
            raise ValueError("no memory")
        return nearness(path)

    with pytest.warns(UserWarning, match="left out because scoring it failed"):
        report = soup(tmp_path, failing, on_error="drop")
    display = SoupPathDisplay.from_report(report)
    outcomes = dict(zip(stems(display), display.outcomes, strict=True))
    assert outcomes["b"] == outcomes["c"] == "no score"
    assert outcomes["a"] == "kept"
    assert display.summary.endswith("; 2 without a score")
    labels = [line.get_label() for line in display.ax_.lines]
    crosses = display.ax_.lines[labels.index("no score")]
    assert crosses.get_color() == VERMILLION
    np.testing.assert_array_equal(crosses.get_ydata(), [1, 5])


def test_an_interrupted_journal_is_drawn_as_far_as_it_goes(tmp_path: Path) -> None:
    soup(tmp_path)
    path = tmp_path / "soup.journal.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:8]) + lines[8][:40])
    display = SoupPathDisplay.from_journal(path)
    assert display.outcomes[3:] == ["no score"] * 3
    assert display.uniform_score is None
    assert path.read_text().endswith(lines[8][:40])  # it is not changed


def test_scores_of_other_runs_are_left_out_with_a_note(tmp_path: Path) -> None:
    report = soup(tmp_path)
    path = tmp_path / "soup.journal.jsonl"
    text = path.read_text()
    other = text.splitlines()[0].replace('"command": "score"', '"command": "other"')
    outdated = json.loads(text.splitlines()[1])
    outdated["members"][0]["files"][0][1] += 1
    path.write_text(f"{other}\n{json.dumps(outdated)}\nnothing\n{text}")
    display = SoupPathDisplay.from_journal(path)
    assert display.notes == (
        "2 scores are left out, of other commands, options or versions of a member",
    )
    assert display.score == report.score


def test_scores_of_another_rule_are_left_out(tmp_path: Path) -> None:
    soup(tmp_path, rule="median")
    report = soup(tmp_path, force=True)
    display = SoupPathDisplay.from_journal(tmp_path / "soup.journal.jsonl")
    assert display.score == report.score
    assert display.uniform_score == report.uniform_score
    assert display.notes[0].endswith(
        "of other commands, options or versions of a member"
    )


def test_what_is_not_a_greedy_soup_is_one_error(tmp_path: Path) -> None:
    best = soup(tmp_path, select="best")
    with pytest.raises(ValueError, match="no scores of a greedy soup"):
        SoupPathDisplay.from_report(best)
    path = tmp_path / "soup.journal.jsonl"
    with pytest.raises(ValueError, match="no scores of a greedy soup"):
        SoupPathDisplay.from_journal(path)
    path.write_text("epoch,loss\n1,2\n[]\n")
    with pytest.raises(ValueError, match=r"soup\.journal\.jsonl must be a journal"):
        SoupPathDisplay.from_journal(path)
    with pytest.raises(FileNotFoundError):
        SoupPathDisplay.from_journal(tmp_path / "absent.jsonl")
    with pytest.raises(ValueError, match=r"each of 1 members, found \[2, 1, 1\]"):
        SoupPathDisplay(["a"], [1, 2], [1], ["kept"])


def test_the_wrong_direction_is_noticed(tmp_path: Path) -> None:
    def distance(path: Path) -> float:
        return -nearness(path)

    soup(tmp_path, distance, lower_is_better=True)
    path = tmp_path / "soup.journal.jsonl"
    with pytest.raises(ValueError, match=r"lower_is_better=True \(--lower-is-better"):
        SoupPathDisplay.from_journal(path)
    display = SoupPathDisplay.from_journal(path, lower_is_better=True)
    assert stems(display) == "abfcde"


def test_two_members_and_forty(tmp_path: Path) -> None:
    paths = [made(tmp_path, f"{n}.safetensors", n) for n in range(2)]
    report = make_soup(paths, nearness, tmp_path / "soup.safetensors")
    display = SoupPathDisplay.from_report(report)
    assert display.outcomes == ["kept", "left out"]
    shutil.rmtree(tmp_path)
    many = SoupPathDisplay(
        [f"learning-rate-{n}" for n in range(100)],
        np.arange(100, 0, -1),
        np.full(100, 100),
        ["kept"] * 100,
    ).plot()
    assert len(many.ax_.get_yticks()) <= 60
    assert many.figsize[1] <= 16


@pytest.mark.parametrize("outcomes", [["left out", "no score"], ["kept", "dropped"]])
def test_other_outcomes_are_refused(outcomes: Any) -> None:
    with pytest.raises(ValueError, match="and 'kept' for at least one member; found"):
        SoupPathDisplay(["a", "b"], [0.5, 0.4], [0.5, 0.4], outcomes)
