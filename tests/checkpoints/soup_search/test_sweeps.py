"""Sweeps over the checkpoints of a run: their scores, and how often files are read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ensembles.checkpoints import Journal, average, make_soup, schedule_weights
from ensembles.checkpoints.formats.checkpoint import FileSource
from ensembles.selection import SELECTIONS
from tests.checkpoints.building import load, save

N_MEMBERS, SIZE = 40, 1 << 19  # bytes of a member, much larger than its header
STEPS = [100 * n for n in range(1, N_MEMBERS + 1)]
Score = Callable[[Path], float]


def make_run(folder: Path, n_members: int, size: int) -> list[Path]:
    """Paths of a run that comes near to 0, with noise."""
    rng, paths = np.random.default_rng(3), []
    for step in STEPS[-n_members:]:
        values = 4 * 0.999**step + rng.normal(size=size // 4)
        path = folder / f"step_{step}.safetensors"
        paths.append(save(path, {"w": values.astype(np.float32)}))
    return paths


@pytest.fixture
def run(tmp_path: Path) -> list[Path]:
    return make_run(tmp_path, N_MEMBERS, SIZE)


@pytest.fixture
def short_run(tmp_path: Path) -> list[Path]:
    return make_run(tmp_path, 4, 400)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Number of bytes that were read of each member."""
    counts: Counter[str] = Counter()
    read_into = FileSource.read_into

    def counted(file: FileSource, buffer: memoryview, offset: int) -> None:
        counts[file.path.name] += len(buffer)
        read_into(file, buffer, offset)

    monkeypatch.setattr(FileSource, "read_into", counted)
    return counts


def nearness(path: Path) -> float:
    return -float((load(path)["w"].astype(np.float64) ** 2).mean())


def most_read(reads: Counter[str]) -> int:
    """How often the most frequently read member was read, besides small samples."""
    return max(n for name, n in reads.items() if name.startswith("step_")) // SIZE


def test_windows_that_end_at_the_last_read_each_file_at_most_three_times(
    run: list[Path], tmp_path: Path, reads: Counter[str]
) -> None:
    out = tmp_path / "out.safetensors"
    report = make_soup(run, nearness, out, select="windows")
    # Once joining the sum, once as the last of a mean, once in the result.
    assert most_read(reads) <= 3
    assert [len(found.members) for found in report.history] == [*range(1, 41)]
    n_kept = sum(weight > 0 for weight in report.weights)
    assert 3 < n_kept < 35
    assert report.weights[-n_kept:] == (1 / n_kept,) * n_kept
    assert report.score == max(found.score or 0 for found in report.history)
    assert report.beats_best_member
    average(report.written.plan.members, tmp_path / "again.safetensors")
    assert out.read_bytes() == (tmp_path / "again.safetensors").read_bytes()


def test_sliding_windows_read_a_file_once_for_each_window(
    run: list[Path], tmp_path: Path, reads: Counter[str]
) -> None:
    report = make_soup(
        run,
        nearness,
        tmp_path / "out.safetensors",
        select="windows",
        weights_params={"length": 5},
    )
    # In five windows, twice in the uniform soup and once in the result.
    assert most_read(reads) <= 5 + 3
    names = [str(path) for path in run]
    assert [list(found.members) for found in report.history] == [
        names[start : start + 5] for start in range(36)
    ]


def test_schedules_read_a_file_once_for_each_schedule(
    run: list[Path], tmp_path: Path, reads: Counter[str]
) -> None:
    weights = [
        schedule_weights(STEPS, "uniform", n=10),
        schedule_weights(STEPS, "ema", half_life=500),
        schedule_weights(STEPS, "wsm", shape="cosine"),
    ]
    out = tmp_path / "out.safetensors"
    report = make_soup(
        run, nearness, out, select="listed", weights_params={"candidates": weights}
    )
    # In three schedules, twice in the uniform soup and once in the result.
    assert most_read(reads) <= 3 + 3
    for found, row in zip(report.history, weights, strict=True):
        assert len(found.members) == (row > 0).sum()
        np.testing.assert_allclose(found.weights, row[row > 0], rtol=1e-12)
        values = np.array([load(path)["w"] for path in run], np.float64)
        expected = -float((np.tensordot(row, values, 1) ** 2).mean())
        assert found.score == pytest.approx(expected, rel=1e-4)


def test_scores_of_a_sweep_are_found_in_the_journal(
    short_run: list[Path], tmp_path: Path
) -> None:
    out, journal = tmp_path / "out.safetensors", tmp_path / "j.jsonl"
    first = make_soup(
        short_run, nearness, out, select="windows", journal=Journal(journal, "score")
    )
    again = make_soup(
        short_run,
        lambda path: pytest.fail(f"{path} was scored"),
        out,
        select="windows",
        journal=Journal(journal, "score"),
        force=True,
    )
    assert [c.score for c in again.history] == [c.score for c in first.history]
    assert again.weights == first.weights


@pytest.mark.parametrize("name", sorted(SELECTIONS))
def test_the_history_has_what_the_selection_recorded(
    name: str, short_run: list[Path], tmp_path: Path
) -> None:
    base = short_run.pop() if SELECTIONS[name].needs_base else None
    report = make_soup(
        short_run, nearness, tmp_path / "out.safetensors", select=name, base=base
    )
    assert report.history
    assert set(report.history) <= set(report.candidates)


def test_a_member_without_a_score_is_not_in_a_window(
    short_run: list[Path], tmp_path: Path
) -> None:
    def score(path: Path) -> float:
        if path == short_run[-2]:
            raise ValueError("out of memory")
        return nearness(path)

    with pytest.warns(UserWarning, match=r"step_3900.* is left out because scoring"):
        report = make_soup(
            short_run,
            score,
            tmp_path / "out.safetensors",
            select="windows",
            on_error="drop",
        )
    assert [len(found.members) for found in report.history] == [1, 2, 3]
