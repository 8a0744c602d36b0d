"""Soups of files: which members, which bytes, and what is read and left on the way."""

from __future__ import annotations

import errno
import math
import os
import shutil
import subprocess
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from ensembles._typing import Array
from ensembles.checkpoints import Candidate, Journal, SoupReport, average, make_soup
from ensembles.checkpoints.directories.open import open_checkpoint
from ensembles.checkpoints.formats.checkpoint import FileSource
from ensembles.checkpoints.soup_search.candidates import candidate_suffix
from ensembles.rules import Rule
from tests.checkpoints.building import load, save
from tests.checkpoints.crashing import tree

# Of one parameter each; the best is 4.
VALUES = {"c": 8, "d": 0, "e": -3, "a": 3, "b": 6, "f": 1}


def value(path: Path) -> float:
    if path.is_dir():
        assert (path / "config.json").exists()
        return value(path / "model.safetensors")
    if path.suffix == ".pt":
        return float(torch.load(path)["w"][0])
    return float(load(path)["w"][0])


def steps(path: Path) -> float:
    """Minus the whole steps from 4, as an accuracy has them."""
    return -math.floor(abs(value(path) - 4))


def nearness(path: Path) -> float:
    return -abs(value(path) - 4)


def never(path: Path) -> float:
    raise AssertionError(f"{path} was scored")


def made(folder: Path, name: str, number: float) -> Path:
    """One member, of the kind that the name's suffix says."""
    path, w = folder / name, np.full(3, number, np.float32)
    if path.suffix == ".pt":
        torch.save({"w": torch.from_numpy(w)}, path)
    elif path.suffix:
        save(path, {"w": w})
    else:
        save(path / "model.safetensors", {"w": w})
        (path / "config.json").write_text('{"model_type": "none"}')
        (path / "tokenizer.json").write_text("{}")
    return path


def six(folder: Path, suffix: str = ".safetensors") -> list[Path]:
    return [made(folder, name + suffix, number) for name, number in VALUES.items()]


def members(folder: Path, *numbers: float) -> list[Path]:
    return [made(folder, f"{n}.safetensors", n) for n in numbers]


def letters(names: Sequence[str]) -> str:
    return "".join(Path(name).stem for name in names)


def tried(report: SoupReport) -> list[tuple[str, float | None]]:
    return [(letters(found.members), found.score) for found in report.candidates]


def kept(report: SoupReport) -> list[Path]:
    """Members of the mean that was written, in their order."""
    return [Path(member.name) for member in report.written.plan.members]


def left(folder: Path) -> set[str]:
    """What lies in a folder besides members."""
    return {p.name for p in folder.iterdir() if p.stem.lstrip("-.0123456789abcdef")}


def test_the_greedy_soup_is_that_of_the_recipe(tmp_path: Path) -> None:
    report = make_soup(six(tmp_path), steps, tmp_path / "out.safetensors")
    # Recipe 1 of Wortsman et al.: sort by the own score, add one after the other, keep
    # it if the score is not lower. Here the score is -floor(|mean - 4|).
    assert tried(report) == [
        *[("c", -4), ("d", -4), ("e", -7), ("a", -1), ("b", -2), ("f", -3)],
        # In order: a, b, f, then c and d, which are equal, as they were given, then e.
        ("ab", 0),  # 9 / 2 = 4.5, better than -1: kept
        ("abf", 0),  # 10 / 3 = 3.33, as good: kept
        ("cabf", 0),  # 18 / 4 = 4.5: kept
        ("cdabf", 0),  # 18 / 5 = 3.6: kept
        ("cdeabf", -1),  # 15 / 6 = 2.5: worse, left out; it is the uniform soup too
    ]
    assert report.weights == (0.2, 0.2, 0, 0.2, 0.2, 0.2)
    assert (report.score, report.uniform_score, report.best[1]) == (0, -1, -1)
    assert report.beats_best_member
    assert not report.uniform_is_better
    assert letters([str(path) for path in kept(report)]) == "abfcd"


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ""])
def test_the_output_is_the_average_of_the_members_kept(
    tmp_path: Path, suffix: str
) -> None:
    paths, seen = six(tmp_path, suffix), list[Path]()

    def score(path: Path) -> float:
        seen.append(path)
        return steps(path)

    report = make_soup(paths, score, tmp_path / f"out{suffix}")
    average(kept(report), tmp_path / f"again{suffix}")
    assert tree(tmp_path / f"out{suffix}") == tree(tmp_path / f"again{suffix}")
    assert seen[:6] == paths
    assert {path.suffix for path in seen} == {suffix}
    assert len(kept(report)) == 5
    assert left(tmp_path) == {f"out{suffix}", f"again{suffix}"}


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ""])
def test_a_soup_of_one_is_that_member(tmp_path: Path, suffix: str) -> None:
    paths = [made(tmp_path, f"{n}{suffix}", n) for n in (4, 9)]
    report = make_soup(paths, nearness, tmp_path / f"out{suffix}")
    average(paths[:1], tmp_path / f"again{suffix}")
    assert tree(tmp_path / f"out{suffix}") == tree(tmp_path / f"again{suffix}")
    assert report.weights == (1, 0)
    assert report.best == (str(paths[0]), 0)
    assert not report.beats_best_member


def test_a_lower_score_may_be_the_better(tmp_path: Path) -> None:
    report = make_soup(
        six(tmp_path),
        lambda path: -steps(path),
        tmp_path / "out.safetensors",
        lower_is_better=True,
    )
    assert report.weights == (0.2, 0.2, 0, 0.2, 0.2, 0.2)
    assert (report.score, report.uniform_score, report.best[1]) == (0, 1, 1)
    assert report.beats_best_member


def test_wise_ft_goes_from_the_base_to_the_members(tmp_path: Path) -> None:
    base, a, b = members(tmp_path, 0, 4, 6)
    out = tmp_path / "out.safetensors"
    report = make_soup(
        [a, b],
        nearness,
        out,
        select="wise_ft",
        base=base,
        weights_params={"alphas": [0, 0.8, 1]},
    )
    # 0.8 of the way from 0 to (4 + 6) / 2 = 5 is 4.
    assert report.base_weight == pytest.approx(0.2)
    assert report.weights == pytest.approx((0.4, 0.4))
    assert report.score == pytest.approx(0, abs=1e-6)
    assert (report.base_score, report.scores, report.uniform_score) == (-4, (0, -2), -1)
    assert report.best == (str(a), 0)
    planned = report.written.plan
    assert [member.path for member in planned.members] == [base, a, b]
    average([base, a, b], tmp_path / "again.safetensors", weights=planned.weights)
    assert out.read_bytes() == (tmp_path / "again.safetensors").read_bytes()


def test_a_base_that_beats_all_is_told(tmp_path: Path) -> None:
    base, a, b = members(tmp_path, 4, 8, 9)
    out = tmp_path / "out.safetensors"
    report = make_soup([a, b], nearness, out, select="wise_ft", base=base)
    assert report.base_weight == 1
    assert report.best == (str(base), 0)
    assert not report.beats_best_member


def test_a_base_that_is_no_worse_than_the_best_is_named(tmp_path: Path) -> None:
    base, a, b = members(tmp_path, 5, 3, 9)
    out = tmp_path / "out.safetensors"
    report = make_soup([a, b], nearness, out, select="wise_ft", base=base)
    assert report.base_weight == 1
    assert report.best == (str(base), -1)


@pytest.mark.parametrize("select", ["greedy_soup", "greedy", "wise_ft"])
def test_members_are_combined_by_any_rule(tmp_path: Path, select: str) -> None:
    paths = members(tmp_path, 3, 6, 2)
    base = paths.pop() if select == "wise_ft" else None
    params = {"alphas": [0.5]} if base else {}
    out, again = tmp_path / "out.safetensors", tmp_path / "again.safetensors"
    rule: Any = {"rule": "power_mean"}
    report = make_soup(
        paths, nearness, out, select=select, base=base, weights_params=params,
        rule_params={"p": 2}, **rule,
    )  # fmt: skip
    planned = report.written.plan
    average(kept(report), again, weights=planned.weights, rule_params={"p": 2}, **rule)
    assert out.read_bytes() == again.read_bytes()
    assert len(kept(report)) > 1


def test_greedy_counts_a_member_more_than_once(tmp_path: Path) -> None:
    paths = members(tmp_path, 3, 6)
    out = tmp_path / "out.safetensors"
    report = make_soup(
        paths, nearness, out, select="greedy", weights_params={"n_rounds": 3}
    )
    assert report.weights == pytest.approx((2 / 3, 1 / 3))
    assert sorted(kept(report)) == [paths[0], paths[0], paths[1]]
    average(kept(report), tmp_path / "again.safetensors")
    assert out.read_bytes() == (tmp_path / "again.safetensors").read_bytes()
    assert value(out) == 4


def test_greedy_ends_when_nothing_has_helped_for_ten_rounds(tmp_path: Path) -> None:
    paths = members(tmp_path, 3, 6)
    out = tmp_path / "out.safetensors"
    report = make_soup(paths, nearness, out, select="greedy")
    assert value(out) == 4
    n_members = [sum(weight > 0 for weight in c.weights) for c in report.candidates]
    assert len(n_members) < 2 + 2 * 13
    again = tmp_path / "again.safetensors"
    longer = make_soup(
        paths, nearness, again, select="greedy", weights_params={"patience": 50}
    )
    assert longer.weights == report.weights
    assert len(longer.candidates) > len(report.candidates)


@pytest.mark.parametrize("select", ["optuna", "convex", "top_k", "best"])
def test_any_selection_will_do(tmp_path: Path, select: str) -> None:
    paths, out = members(tmp_path, 3, 6), tmp_path / "out.safetensors"
    params = {"n_trials": 6} if select == "optuna" else {}
    report = make_soup(
        paths, off_by(4, 4, 4), out, select=select, weights_params=params
    )
    planned = report.written.plan
    again = tmp_path / "again.safetensors"
    average(kept(report), again, weights=planned.weights)
    assert out.read_bytes() == again.read_bytes()
    assert report.score >= {"best": -3, "convex": -0.1}.get(select, -0.75)
    assert len(report.candidates) == len(set(report.candidates))


def off_by(*best: float) -> Callable[[Path], float]:
    """Minus the squared distance from a point, as it is computed in float32."""
    return lambda path: (
        -float(((load(path)["w"] - np.array(best, np.float32)) ** 2).sum())
    )


def test_convex_climbs_where_parameters_are_rounded(tmp_path: Path) -> None:
    # Of (0, 0), (4, 0) and (0, 4) the best shares are .3, .2 and .5.
    paths = [
        save(tmp_path / f"{i}.safetensors", {"w": np.array(w, np.float32)})
        for i, w in enumerate([(0, 0), (4, 0), (0, 4)])
    ]
    out, score = tmp_path / "out.safetensors", off_by(0.8, 2)
    report = make_soup(paths, score, out, select="convex")
    np.testing.assert_allclose(report.weights, (0.3, 0.2, 0.5), atol=0.03)
    assert report.uniform_score is not None
    assert report.score > report.uniform_score / 50
    assert len(report.candidates) < 30


def test_convex_says_where_there_is_nothing_to_climb(tmp_path: Path) -> None:
    paths, out = members(tmp_path, 3, 6, 5), tmp_path / "out.safetensors"
    with pytest.warns(UserWarning, match="does not change it; pass select='greedy_s"):
        make_soup(paths, steps, out, select="convex")


@pytest.mark.filterwarnings("ignore:.* have different formats")
def test_candidates_are_of_the_kind_of_the_first_member(tmp_path: Path) -> None:
    plain = made(tmp_path, "a", 3)
    assert candidate_suffix(open_checkpoint(plain.rename(tmp_path / "a.pt"), 0)) == ""
    for suffix in (".pt", ".safetensors"):
        assert (
            candidate_suffix(open_checkpoint(made(tmp_path, f"b{suffix}", 3), 0))
            == suffix
        )
    base, seen = made(tmp_path, "base.pt", 0), list[Path]()

    def score(path: Path) -> float:
        seen.append(path)
        return nearness(path)

    first = tmp_path / "b.safetensors"
    out = tmp_path / "out.safetensors"
    make_soup([first], score, out, select="wise_ft", base=base)
    assert seen[-1].suffix == ".safetensors"


Wrong = dict[str, Any]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"select": "gredy"}, "unknown selection 'gredy'; did you mean 'greedy'"),
        ({"weights_params": {"k": 1}}, "'greedy_soup' has no parameter 'k'"),
        ({"select": "top_k", "weights_params": {"k": 9}}, "k must be from 1 to"),
        (
            {"select": "greedy", "weights_params": {"n_rounds": "x"}},
            "must have the right types",
        ),
        (
            {"select": "wise_ft"},
            r"needs the checkpoint that the members .*; pass base=PATH \(--base PATH\)",
        ),
        (
            {"base": "base"},
            "selection 'wise_ft' or a rule that needs a base only, foun",
        ),
        ({"on_error": "skip"}, "on_error must be one of 'raise', 'drop', found 'skip'"),
        ({"rule": "maen"}, "unknown rule 'maen'; did you mean 'mean'"),
        ({"rule_params": {"p": 2}}, "rule 'mean' has no parameter 'p'"),
        ({"memory": 1}, "memory must be at least"),
    ],
    ids=str,
)
def test_what_is_wrong_is_told_before_anything_is_scored(
    tmp_path: Path, wrong: Wrong, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_soup(six(tmp_path), never, tmp_path / "out.safetensors", **wrong)
    assert left(tmp_path) == set()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"weights_params": 5}, "weights_params must be a dict or None, found 5"),
        ({"rule_params": "p=2"}, "rule_params must be a dict or None, found 'p=2'"),
        ({"lower_is_better": "no"}, "lower_is_better must be True or False, found 'no"),
        ({"force": "no"}, "force must be True or False, found 'no'"),
        ({"rule": 3}, "rule must be a name, found 3"),
    ],
    ids=str,
)
def test_values_of_another_type_are_refused_before_anything_is_scored(
    tmp_path: Path, wrong: Wrong, message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        make_soup(six(tmp_path), never, tmp_path / "out.safetensors", **wrong)
    assert left(tmp_path) == set()


def test_members_must_be_paths_and_different(tmp_path: Path) -> None:
    a, b = members(tmp_path, 3, 6)
    out = tmp_path / "out.safetensors"
    with pytest.raises(ValueError, match="at least two members, found "):
        make_soup([a], never, out)
    with pytest.raises(ValueError, match=r"found .*; for a run, .* \(--last N\)$"):
        make_soup([tmp_path], never, out)
    with pytest.raises(ValueError, match=r"at least two members, found none$"):
        make_soup([], never, out)
    (tmp_path / "link.safetensors").symlink_to(a)
    with pytest.raises(ValueError, match=r"must be different, found .*3\.safetensors"):
        make_soup([a, b, tmp_path / "link.safetensors"], never, out)
    with pytest.raises(TypeError, match="must be paths, found dict"):
        make_soup([a, {"w": 1}], never, out)  # type: ignore[list-item]
    with pytest.raises(TypeError, match="must be a sequence of paths"):
        make_soup("a.pt", never, out)


def test_an_output_that_exists_is_told_before_anything_is_scored(
    tmp_path: Path,
) -> None:
    paths, out = members(tmp_path, 3, 6), tmp_path / "out.safetensors"
    out.write_text("years")
    with pytest.raises(FileExistsError, match="exists; pass force=True"):
        make_soup(paths, never, out)
    make_soup(paths, nearness, out, force=True)
    assert value(out) == 4.5
    with pytest.raises(ValueError, match="is or contains the member"):
        make_soup(paths, never, paths[0], force=True)


def test_nothing_is_written_inside_a_member(tmp_path: Path) -> None:
    paths = [made(tmp_path, name, 3) for name in "ab"]
    inside = r"out.* must not be inside a member, found .*b; choose a path outside of"
    before = tree(paths[1])
    with pytest.raises(ValueError, match=r"out.* inside the member .*b"):
        make_soup(paths, never, paths[1] / "out")
    (tmp_path / "link").symlink_to(paths[1])
    journal = Journal(tmp_path / "link" / "out.jsonl", "x")
    with pytest.raises(ValueError, match=inside):
        make_soup(paths, never, tmp_path / "out", journal=journal)
    assert tree(paths[1]) == before


def test_a_disk_without_room_for_candidates_is_told_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, out = members(tmp_path, 3, 6, 7), tmp_path / "out.safetensors"
    room = shutil.disk_usage(tmp_path)._replace(free=12 + 24 - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: room)
    with pytest.raises(
        ValueError, match=r"needs 36 bytes beside it .* its disk has 35 left"
    ):
        make_soup(paths, never, out)
    make_soup(paths[:2], nearness, out)


def test_a_disk_that_gets_full_is_told_by_the_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, out = members(tmp_path, 3, 6), tmp_path / "out.safetensors"

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match=r"out\.safetensors was not written: its disk is"):
        make_soup(paths, nearness, out)
    monkeypatch.undo()
    assert left(tmp_path) == set()


def by_name(path: Path) -> float:
    """A score that tells members apart, whatever they hold."""
    return float(ord(path.stem[0]))


@pytest.mark.filterwarnings("default")
def test_members_of_different_starts_are_warned_of(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    start = rng.normal(size=(64, 64)).astype(np.float32)
    other = rng.normal(size=(64, 64)).astype(np.float32)
    for name, w in (("a", start), ("b", start + 0.1 * other), ("c", other)):
        save(tmp_path / f"{name}.safetensors", {"w": w, "x": w[::-1].copy()})
    paths = [tmp_path / f"{name}.safetensors" for name in "abc"]
    with pytest.warns(UserWarning, match=r"same initialization.*cosine"):
        make_soup(paths, by_name, tmp_path / "out.safetensors")


def test_a_member_that_is_an_average_itself_is_told(tmp_path: Path) -> None:
    paths = members(tmp_path, 3, 6)
    average(paths, tmp_path / "averaged.safetensors")
    soup = [*paths, tmp_path / "averaged.safetensors"]
    with pytest.warns(UserWarning, match=r"averaged.*: itself an average \(mean of 2"):
        report = make_soup(soup, nearness, tmp_path / "out.safetensors")
    (note,) = report.written.notes
    assert "is an average of" in note


def test_members_of_one_start_are_no_reason_to_warn(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    start = rng.normal(size=(64, 64)).astype(np.float32)
    for name, scale in (("a", 2), ("b", 2.1)):
        save(tmp_path / f"{name}.safetensors", {"w": start * np.float32(scale)})
    save(tmp_path / "c.safetensors", {"w": start, "v": start * 100})
    paths = [tmp_path / f"{name}.safetensors" for name in "abc"]
    report = make_soup(paths[:2], by_name, tmp_path / "out.safetensors")
    assert report.scores == (97, 98)
    out = tmp_path / "out2.safetensors"
    assert make_soup(paths, by_name, out, missing="skip").scores == (97, 98, 99)


def failing(bad: float, error: Exception | float) -> Callable[[Path], float]:
    """Score that fails where the parameter is near a number."""

    def score(path: Path) -> float:
        if abs(value(path) - bad) < 1e-3:
            if isinstance(error, Exception):
                raise error
            return error
        return nearness(path)

    return score


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (KeyError("acc"), KeyError, "acc"),
        (math.nan, ValueError, "a score must be finite, found nan"),
        (math.inf, ValueError, "a score must be finite, found inf"),
    ],
    ids=str,
)
def test_a_score_that_fails_ends_it_all(
    tmp_path: Path, error: Any, kind: type[Exception], message: str
) -> None:
    paths, out = members(tmp_path, 3, 6), tmp_path / "out.safetensors"
    journal = Journal(tmp_path / "out.jsonl", "x")
    with pytest.raises(kind, match=message) as caught:
        make_soup(paths, failing(4.5, error), out, journal=journal)
    assert caught.value.__notes__ == [
        f"the failed score was that of {paths[0]} + {paths[1]}; pass "
        "on_error='drop' (--on-error drop) "
        "to continue without it"
    ]
    assert left(tmp_path) == {"out.jsonl"}
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 2


def test_a_member_that_fails_may_be_left_out(tmp_path: Path) -> None:
    paths, out = members(tmp_path, 2, 3, 5), tmp_path / "out.safetensors"
    with pytest.warns(
        UserWarning, match=r"3\.safetensors is left out because .*: no memory"
    ):
        report = make_soup(
            paths, failing(3, ValueError("no memory")), out, on_error="drop"
        )
    assert report.scores == (-2, None, -1)
    assert report.weights == (0.5, 0, 0.5)
    assert report.uniform_score == -0.5
    assert value(out) == 3.5


def test_why_a_member_failed_is_told_before_the_next_is_scored(tmp_path: Path) -> None:
    paths, n_told = members(tmp_path, 2, 3, 5), list[int]()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")

        def score(path: Path) -> float:
            n_told.append(len(told))
            return failing(2, ValueError("no memory"))(path)

        make_soup(paths, score, tmp_path / "out.safetensors", on_error="drop")
    assert n_told[:3] == [0, 1, 1]


@pytest.mark.filterwarnings("default")
def test_members_that_all_score_the_same_are_warned_of(tmp_path: Path) -> None:
    paths, out = members(tmp_path, 3, 6, 7), tmp_path / "out.safetensors"
    for n_members in (2, 3):
        with pytest.warns(
            UserWarning, match="all members have exactly the same score, 0"
        ):
            make_soup(paths[:n_members], lambda path: 0, out, force=True)
    with pytest.warns(UserWarning, match="is left out"):  # and nothing of the other
        make_soup(paths[:2], failing(3, ValueError()), out, force=True, on_error="drop")


def test_a_combination_that_fails_counts_as_the_worst(tmp_path: Path) -> None:
    paths, out = members(tmp_path, 3, 6, 5.5), tmp_path / "out.safetensors"
    seen: list[Candidate] = []
    report = make_soup(
        paths, failing(4.25, ValueError()), out, on_error="drop", record=seen.append
    )
    # 3 and 5.5 come first, and fail together; 3 and 6 are 4.5, better than 3 alone.
    assert report.weights == (0.5, 0.5, 0)
    assert [found.error for found in seen if found.score is None] == ["ValueError"]


def test_what_can_not_be_gone_on_without_is_told(tmp_path: Path) -> None:
    paths, out = members(tmp_path, 3, 6), tmp_path / "out.safetensors"
    with (
        pytest.warns(UserWarning, match="is left out"),
        pytest.raises(
            ValueError, match=r"at least one member must have a score.* all 2"
        ),
    ):
        make_soup(paths, lambda path: math.nan, out, on_error="drop")
    base = made(tmp_path, "0.safetensors", 0)
    with pytest.raises(
        ValueError, match=r"the base must have a score; .*0\.safetensors"
    ):
        make_soup(
            paths, failing(0, math.nan), out, select="wise_ft", base=base,
            on_error="drop",
        )  # fmt: skip
    both: Wrong = {"select": "top_k", "weights_params": {"k": 2}}
    with pytest.raises(
        ValueError, match="the combination selected by 'top_k' failed: a s"
    ):
        make_soup(paths, failing(4.5, math.nan), out, on_error="drop", **both)
    assert left(tmp_path) == set()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("on_error", ["raise", "drop"])
def test_a_run_that_is_ended_leaves_nothing(
    tmp_path: Path, error: type[BaseException], on_error: str
) -> None:
    def score(path: Path) -> float:
        if "candidate" in path.name:
            raise error
        return nearness(path)

    with pytest.raises(error):
        make_soup(six(tmp_path), score, tmp_path / "out.safetensors", on_error=on_error)
    assert left(tmp_path) == set()


def test_a_member_that_changes_meanwhile_is_told(tmp_path: Path) -> None:
    paths = members(tmp_path, 3, 6)

    def score(path: Path) -> float:
        os.utime(paths[1], ns=(0, 0))
        return nearness(path)

    with pytest.raises(
        ValueError, match=r"6\.safetensors must not change while it is scored"
    ):
        make_soup(paths, score, tmp_path / "out.safetensors")


def test_a_link_to_a_member_does_not_change_it(tmp_path: Path) -> None:
    paths = members(tmp_path, 3, 6)

    def score(path: Path) -> float:
        if path in paths:
            os.link(path, tmp_path / f"-{path.name}")
        return nearness(path)

    report = make_soup(paths, score, tmp_path / "out.safetensors")
    assert report.weights == (0.5, 0.5)


def test_a_folder_that_was_copied_is_scored_anew(tmp_path: Path) -> None:
    paths = [made(tmp_path / "run", name, 3 + n) for n, name in enumerate("ab")]
    journal = Journal(tmp_path / "run" / "out.jsonl", "x")
    make_soup(paths, nearness, tmp_path / "run" / "out", journal=journal)
    subprocess.run(["cp", "-a", tmp_path / "run", tmp_path / "copy"], check=True)
    paths = [tmp_path / "copy" / name for name in "ab"]
    report = make_soup(
        paths,
        nearness,
        tmp_path / "copy" / "out",
        journal=Journal(tmp_path / "copy" / "out.jsonl", "x"),
        force=True,
    )
    assert not any(found.reused for found in report.candidates)


def test_a_member_of_other_settings_is_scored_again(tmp_path: Path) -> None:
    paths, journal = six(tmp_path, ""), Journal(tmp_path / "out.jsonl", "x")
    make_soup(paths, steps, tmp_path / "out", journal=journal)
    (paths[3] / "config.json").write_text('{"model_type": "null"}')
    report = make_soup(paths, steps, tmp_path / "out", journal=journal, force=True)
    fresh = {found.members for found in report.candidates if not found.reused}
    assert fresh == {c.members for c in report.candidates if str(paths[3]) in c.members}


def test_scores_of_a_journal_are_not_asked_for_again(tmp_path: Path) -> None:
    paths, journal = six(tmp_path), Journal(tmp_path / "out.jsonl", "steps")
    first, second = tmp_path / "out.safetensors", tmp_path / "out2.safetensors"
    make_soup(paths, steps, first, journal=journal)
    report = make_soup(paths, never, second, journal=journal)
    assert second.read_bytes() == first.read_bytes()
    assert {found.reused for found in report.candidates} == {True}
    # Which way is better is no part of a score.
    worst = make_soup(
        paths, nearly(steps), second, journal=journal, lower_is_better=True, force=True
    )
    assert worst.candidates[0].reused


def nearly(score: Callable[[Path], float]) -> Callable[[Path], float]:
    """A score, of combinations alone."""

    def found(path: Path) -> float:
        assert path.name == "candidate.safetensors"
        return score(path)

    return found


@pytest.mark.parametrize("select", ["greedy_soup", "greedy", "optuna"])
def test_an_interrupted_soup_goes_on_to_the_same_bytes(
    tmp_path: Path, select: str, rng: np.random.Generator
) -> None:
    target = rng.normal(size=50)
    paths = [
        save(tmp_path / f"{name}.safetensors", {"w": rng.normal(size=50) * 1e3})
        for name in "abcde"
    ]
    asked: list[bytes] = []
    n_before = -1

    def score(path: Path) -> float:
        if len(asked) == n_before:
            raise KeyboardInterrupt
        asked.append(path.read_bytes())
        return -float(np.abs(load(path)["w"] - target).sum())

    params = {"greedy_soup": {}, "greedy": {"n_rounds": 4}, "optuna": {"n_trials": 8}}
    more: Wrong = {"select": select, "weights_params": params[select]}
    whole, out = tmp_path / "whole.safetensors", tmp_path / "out.safetensors"
    make_soup(paths, score, whole, **more)
    uninterrupted = list(asked)
    more["force"] = True
    for stop in range(0, len(uninterrupted), 1 + len(uninterrupted) // 20):
        asked.clear()
        more["journal"] = Journal(tmp_path / f"{stop}.jsonl", "x")
        n_before = stop
        with pytest.raises(KeyboardInterrupt):
            make_soup(paths, score, out, **more)
        n_before = -1
        report = make_soup(paths, score, out, **more)
        assert asked == uninterrupted
        assert sum(found.reused for found in report.candidates) == stop
        assert out.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("helps", [True, False])
def test_a_candidate_reads_the_files_that_changed_alone(
    tmp_path: Path,
    helps: bool,
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    n_members, size = 20, 4 << 20
    paths = [
        save(tmp_path / f"{n}.safetensors", {"w": rng.random(size // 4, np.float32)})
        for n in range(n_members)
    ]
    read: Counter[Path] = Counter()
    usual = FileSource.read_into

    def counted(file: FileSource, buffer: memoryview, offset: int) -> None:
        read[file.path] += len(buffer)
        usual(file, buffer, offset)

    monkeypatch.setattr(FileSource, "read_into", counted)
    n_read: list[int] = []

    def record(candidate: Candidate) -> None:
        n_read.append(sum(read.values()))
        read.clear()

    scores = iter(range(0, 1000 * (1 if helps else -1), 1 if helps else -1))
    report = make_soup(
        paths,
        lambda path: next(scores),
        tmp_path / "out.safetensors",
        record=record,
    )
    assert sum(weight > 0 for weight in report.weights) == (n_members if helps else 1)
    alone, combined = n_read[1:n_members], n_read[n_members:]
    assert alone == [0] * (
        n_members - 1
    )  # scored where they lie; what opens them aside
    # One alone and another; where it helped, that joins the sum as the next is added.
    assert combined[0] == 2 * size
    assert combined[1] == (3 if helps else 2) * size
    assert set(combined[2 : n_members - 1]) == {2 * size}


def test_a_score_that_links_members_is_kept_all_the_same(tmp_path: Path) -> None:
    def linked(path: Path) -> float:
        other = tmp_path / "link.safetensors"
        other.hardlink_to(path)
        found = nearness(other)
        other.unlink()
        return found

    paths, journal = members(tmp_path, 3, 6), tmp_path / "out.jsonl"
    first, again = (
        make_soup(paths, score, tmp_path / name, journal=Journal(journal, "x"))
        for score, name in ((linked, "a.safetensors"), (never, "b.safetensors"))
    )
    assert again.scores == first.scores


def _largest(stack: Array, weights: Array) -> Array:
    return np.asarray(stack.max(axis=0))


def test_a_custom_rule_named_mean_is_not_the_mean(tmp_path: Path) -> None:
    _largest.__name__ = "mean"
    paths = [tmp_path / f"{value}.safetensors" for value in (1, 2, 6)]
    for value, path in zip((1, 2, 6), paths, strict=True):
        save_file({"w": np.full(3, value, np.float32)}, path)
    out = tmp_path / "soup.safetensors"
    with pytest.warns(UserWarning, match="same score"):
        make_soup(paths, lambda path: 1.0, out, rule=Rule(_largest))
    assert load_file(out)["w"].tolist() == [6, 6, 6]


def _rule_of(part: float, offset: float = 0.0) -> Rule:
    def blend(stack: Array, weights: Array) -> Array:
        return np.asarray(part * stack.max(axis=0) + offset)

    return Rule(blend)


def test_scores_of_another_rule_of_the_same_name_are_not_used(tmp_path: Path) -> None:
    paths, journal = members(tmp_path, 3, 6), tmp_path / "scores.jsonl"
    reused = []
    for part in (1.0, 1.0, 0.5):
        report = make_soup(
            paths,
            lambda path: path.stat().st_ino,
            tmp_path / "out.safetensors",
            rule=_rule_of(part),
            journal=Journal(journal, "score"),
            force=True,
        )
        (mixed,) = [one for one in report.candidates if len(one.members) == 2]
        reused.append(mixed.reused)
    assert reused == [False, True, False]
