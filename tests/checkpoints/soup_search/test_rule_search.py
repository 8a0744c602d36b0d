"""Soups of files by rules with a base, by several rules, and over their parameters."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ensembles._typing import Float64
from ensembles.checkpoints import Journal, SoupReport, average, make_soup
from ensembles.checkpoints.planning.plan import plan
from ensembles.rules.rule import Rule
from tests.checkpoints.building import load, save
from tests.checkpoints.crashing import tree

BASE = np.array([1.0, 1.0, 1.0, 1.0], np.float32)
# Differences from the base: of the first, the second, and one that does not help.
TASKS = np.array([[2, 0, 0, 0], [0, 2, 0, 0], [0, 0, 0, -6]], np.float32)
TARGET = BASE + TASKS[0] + TASKS[1]
Score = Callable[[Path], float]


def nearness(path: Path) -> float:
    file = path / "model.safetensors" if path.is_dir() else path
    return -float(np.abs(load(file)["w"].astype(np.float64) - TARGET).sum())


def saved(folder: Path, suffix: str = ".safetensors") -> tuple[list[Path], Path]:
    """Paths of three members and of their base."""
    paths = []
    for name, w in zip(("a", "b", "c", "base"), [*(BASE + TASKS), BASE], strict=True):
        path = folder / f"{name}{suffix}"
        if suffix:
            save(path, {"w": w})
        else:
            save(path / "model.safetensors", {"w": w})
            (path / "config.json").write_text('{"model_type": "none"}')
        paths.append(path)
    return paths[:3], paths[3]


def made(
    folder: Path, rule: Any, score: Score = nearness, **options: Any
) -> SoupReport:
    members, base = saved(folder)
    out = folder / "out.safetensors"
    return make_soup(members, score, out, base=base, rule=rule, force=True, **options)


def names(report: SoupReport) -> list[tuple[str, str | None, float | None]]:
    return [
        ("".join(Path(name).stem[0] for name in c.members), c.rule, c.score)
        for c in report.candidates
    ]


def halves(stack: Float64, weights: Float64, *, base: Float64) -> Float64:
    """Base plus half the weighted sum of the differences."""
    total = (weights[:, None] * (stack - base)).sum(axis=0)
    return np.asarray(base + 0.5 * total)


HALVES = Rule(halves, needs_base=True, signed=True)


@pytest.mark.parametrize("suffix", [".safetensors", ""])
def test_a_rule_with_a_base_combines_all_members_and_has_the_bytes_of_average(
    tmp_path: Path, suffix: str
) -> None:
    members, base = saved(tmp_path, suffix)
    out, again = tmp_path / f"out{suffix}", tmp_path / f"again{suffix}"
    report = make_soup(members[:2], nearness, out, base=base, rule="task_arithmetic")
    average(members[:2], again, base=base, rule="task_arithmetic")
    assert tree(out) == tree(again)
    assert report.score == 0
    assert report.weights == (1, 1)
    assert (report.base, report.base_score, report.base_weight) == (str(base), -4, 0)
    assert (report.scores, report.uniform_score) == ((-2, -2), -2)
    assert report.beats_best_member
    assert {path.name for path in tmp_path.iterdir()} == {
        *(path.name for path in (*members, base, out, again))
    }


def test_rules_are_compared_with_base_members_and_mean(tmp_path: Path) -> None:
    rules = ["mean", "task_arithmetic", HALVES]
    report = made(tmp_path, rules)
    assert names(report) == [
        *[("b", None, -4), ("a", None, -2), ("b", None, -2), ("c", None, -10)],
        ("abc", "mean", pytest.approx(-14 / 3)),
        ("abc", "task_arithmetic", -6),
        ("abc", "halves", -5),
    ]
    assert [(r.rule, r.n_scores) for r in report.rules] == [
        *[("mean", 1), ("task_arithmetic", 1), ("halves", 1)],
    ]
    # No rule is better than a, which is written.
    assert report.weights == (1, 0, 0)
    assert report.chosen.rule is None
    assert load(report.out)["w"].tolist() == (BASE + TASKS[0]).tolist()


def test_the_best_rule_is_written_and_the_simplest_of_equals(tmp_path: Path) -> None:
    members, base = saved(tmp_path)
    out = tmp_path / "out.safetensors"
    rules = ["halves", "task_arithmetic", "dare_linear"]
    how: Any = {"base": base, "rule_params": {"density": 1.0}}
    given = [HALVES if name == "halves" else name for name in rules]
    report = make_soup(members[:2], nearness, out, rule=given, **how)
    assert [r.candidate.score for r in report.rules if r.candidate] == [-2, 0, 0]
    assert report.chosen.rule == "task_arithmetic"
    assert dict(report.rules[2].candidate.rule_params) == {"density": 1.0}  # type: ignore[union-attr]
    with pytest.warns(UserWarning, match="all members have exactly the same score"):
        flat = made(tmp_path, rules[1:], lambda path: 1.0)
    assert flat.base_weight == 1
    assert not flat.beats_best_member


def test_a_base_that_is_the_best_is_written(tmp_path: Path) -> None:
    def near_base(path: Path) -> float:
        return -float(np.abs(load(path)["w"] - BASE).sum())

    report = made(tmp_path, "task_arithmetic", near_base)
    assert report.base_weight == 1
    assert load(report.out)["w"].tolist() == BASE.tolist()


def test_a_selection_adds_members_with_weight_one(tmp_path: Path) -> None:
    report = made(tmp_path, "task_arithmetic", select="greedy_soup")
    assert report.weights == (1, 1, 0)
    assert report.score == 0
    assert names(report)[4:] == [
        ("abc", "mean", pytest.approx(-14 / 3)),
        ("ab", "task_arithmetic", 0),
        ("abc", "task_arithmetic", -6),
    ]
    again = tmp_path / "again.safetensors"
    members, base = saved(tmp_path)
    average(members[:2], again, base=base, rule="task_arithmetic")
    assert report.out.read_bytes() == again.read_bytes()


@pytest.mark.parametrize("select", ["greedy", "convex", "top_k", "windows", "listed"])
def test_any_selection_is_written_as_average_writes_it(
    tmp_path: Path, select: str
) -> None:
    report = made(tmp_path, HALVES, select=select)
    planned, again = report.written.plan, tmp_path / "again.safetensors"
    if report.chosen.rule is not None:
        assert planned.base is not None
        used = [weight for weight in report.weights if weight]
        assert sum(used) == pytest.approx(len(used))
    average(
        planned.members,
        again,
        base=planned.base,
        rule=planned.rule,
        weights=planned.weights,
        rule_params=planned.rule_params,
    )
    assert report.out.read_bytes() == again.read_bytes()
    assert len({*report.candidates}) == len(report.candidates)
    assert all(candidate in report.candidates for candidate in report.history)


def test_optuna_searches_the_parameters_of_each_rule(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    report = made(
        tmp_path,
        ["task_arithmetic", "dare_linear", HALVES],
        select="optuna",
        weights_params={"n_trials": 6},
        rule_ranges={"scale": (0.0, 2.0)},
        rule_params={"density": 1.0},
    )
    assert [result.n_scores for result in report.rules] == [6, 6, 6]
    first = next(c for c in report.candidates if c.rule == "task_arithmetic")
    assert dict(first.rule_params) == {"scale": 1.0}
    assert first.weights == (1, 1, 1)
    tried = [dict(c.rule_params) for c in report.candidates if c.rule == "dare_linear"]
    assert len({params["scale"] for params in tried}) == 6
    assert all(0 <= params["scale"] <= 2 and params["density"] == 1 for params in tried)
    assert not any(c.rule_params for c in report.candidates if c.rule == "halves")
    assert report.score == max(c.score for c in report.candidates)  # type: ignore[type-var]


def test_optuna_searches_the_parameters_alone(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    members, base = saved(tmp_path)
    out = tmp_path / "out.safetensors"
    report = make_soup(
        members[:1],
        nearness,
        out,
        base=base,
        rule="task_arithmetic",
        select="optuna",
        weights_params={"n_trials": 8, "equal_weights": True},
        rule_ranges={"scale": (0.0, 0.5)},
    )
    combined = [c for c in report.candidates if c.rule == "task_arithmetic"]
    assert {c.weights for c in combined} == {(1,)}
    assert len(combined) == 8
    # The member itself, with scale 1, is better than any in the range.
    assert report.chosen.rule is None
    assert report.rules[0].candidate is not None
    best = max(combined, key=lambda c: c.score or 0)
    assert report.rules[0].candidate == best


def test_rules_without_weights_are_compared_and_searched(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    members, _ = saved(tmp_path)
    out = tmp_path / "out.safetensors"
    report = make_soup(members[::2], nearness, out, rule="nearswap")
    assert [c.rule for c in report.candidates[2:]] == ["mean", "nearswap"]
    assert report.compares_rules
    report = make_soup(
        members[::2],
        nearness,
        out,
        rule=["mean", "nearswap"],
        select="optuna",
        weights_params={"n_trials": 3, "equal_weights": True},
        rule_ranges={"t": (0.1, 2.0)},
        force=True,
    )
    assert len({c.rule_params for c in report.candidates if c.rule == "nearswap"}) == 3


def test_the_journal_resumes_a_search(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    how: dict[str, Any] = {
        "select": "optuna",
        "weights_params": {"n_trials": 5},
        "rule_ranges": {"scale": (0.1, 2.0)},
    }
    path, scored = tmp_path / "journal.jsonl", list[Path]()

    def score(file: Path) -> float:
        scored.append(file)
        return nearness(file)

    def interrupted(file: Path) -> float:
        if len(scored) == 7:
            raise KeyboardInterrupt
        return score(file)

    members, base = saved(tmp_path)

    def soup(score: Score, journal: Journal | None) -> SoupReport:
        return make_soup(
            members,
            score,
            tmp_path / "out.safetensors",
            base=base,
            rule=["task_arithmetic", HALVES],
            journal=journal,
            force=True,
            **how,
        )

    whole = soup(score, None)
    n_scores = len(scored)
    scored.clear()
    with pytest.raises(KeyboardInterrupt):
        soup(interrupted, Journal(path, "eval"))
    resumed = soup(score, Journal(path, "eval"))
    assert len(scored) == n_scores
    assert [c._replace(reused=False, seconds=0) for c in resumed.candidates] == [
        c._replace(reused=False, seconds=0) for c in whole.candidates
    ]
    assert resumed.out.read_bytes() == whole.out.read_bytes()
    scored.clear()
    save(base, {"w": BASE + 1})
    # Combinations depend on the base: with another one they are scored again.
    soup(score, Journal(path, "eval"))
    assert len(scored) == 1 + 10


def test_failures_of_a_rule_are_left_out(tmp_path: Path) -> None:
    def score(path: Path) -> float:
        if load(path)["w"][0] == 2:
            raise ValueError("no memory")
        return nearness(path)

    report = made(tmp_path, [HALVES, "task_arithmetic"], score, on_error="drop")
    assert [r.candidate is None for r in report.rules] == [True, False]
    assert report.chosen.members == (str(tmp_path / "a.safetensors"),)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rule": []}, "at least one, all different, found none"),
        ({"rule": ["mean", "mean"]}, "all different, found mean, mean"),
        ({"rule": ["mean", "tise"]}, "unknown rule 'tise'"),
        ({"rule": ["mean", "dare"]}, "unknown rule 'dare'; it is the rule 'dare_linea"),
        ({"rule": ["mean", "slerp"], "rule_ranges": {}}, "or a rule that needs a base"),
        (
            {"base": None},
            "rule 'task_arithmetic' needs the checkpoint that the mem",
        ),
        ({"select": "wise_ft"}, "'wise_ft' gives the base a weight, but rule 'task_ar"),
        ({"rule_params": {"densty": 1}}, "'task_arithmetic' has no parameter 'densty'"),
        (
            {"rule": ["mean", "task_arithmetic"], "rule_params": {"densty": 1}},
            "no rule of mean, task_arithmetic has a parameter 'densty'",
        ),
        ({"rule_params": {"scale": 1}}, "must have a value or a range, found both"),
        (
            {"rule_ranges": {"scale": (2, 1)}},
            "two numbers in increasing order, such",
        ),
        ({"rule_ranges": {"scale": 2}}, "two numbers in increasing order"),
        ({"rule_ranges": {"scale": "12"}}, "two numbers in increasing order"),
        ({"rule_ranges": {"seed": (0, 1.5)}, "rule": "dare_linear"}, "be two integers"),
        (
            {"rule_ranges": {"densty": (0, 1)}},
            "'task_arithmetic' has no parameter 'd",
        ),
        (
            {"rule": "dare_linear", "rule_ranges": {"density": (0.0, 1.0)}},
            "density must be",
        ),
        ({"select": None}, "needs a selection that chooses parameters of the rule; pa"),
        ({"select": "greedy"}, "needs a selection that chooses .* select='optuna'"),
        (
            {"select": None, "rule_ranges": None, "weights_params": {"k": 1}},
            "parameters k need a selection; pass select=NAME",
        ),
        ({"rule": "fisher"}, "rule 'fisher' needs moments"),
        ({"rule": "nearswap"}, "'optuna' chooses weights, but rule 'nearswap' takes n"),
    ],
    ids=str,
)
def test_wrong_arguments_are_reported_before_the_first_score(
    tmp_path: Path, wrong: dict[str, Any], message: str
) -> None:
    pytest.importorskip("optuna")
    members, base = saved(tmp_path)
    given: dict[str, Any] = {
        "base": base,
        "rule": "task_arithmetic",
        "select": "optuna",
        "rule_ranges": {"scale": (0, 1)},
    }

    def never(path: Path) -> float:
        raise AssertionError(path)

    with pytest.raises(ValueError, match=message):
        make_soup(members, never, tmp_path / "out.safetensors", **given | wrong)


def test_equal_weights_without_a_range_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    params = {"equal_weights": True}
    with pytest.raises(ValueError, match="equal_weights=True needs a range of a para"):
        made(tmp_path, "task_arithmetic", select="optuna", weights_params=params)


def test_a_base_of_another_layout_or_among_the_members_is_refused(
    tmp_path: Path,
) -> None:
    members, base = saved(tmp_path)
    out, how = tmp_path / "out.safetensors", {"rule": "task_arithmetic"}
    with pytest.raises(ValueError, match=r"base\.safetensors is the base; leave it"):
        make_soup([*members, base], nearness, out, base=base, **how)  # type: ignore[arg-type]
    save(base, {"w": np.ones(3, np.float32)})
    with pytest.raises(ValueError, match="differ at tensor 'w'"):
        make_soup(members, nearness, out, base=base, **how)  # type: ignore[arg-type]


def test_the_scores_of_a_soup_without_a_base_are_found_in_old_journals(
    tmp_path: Path,
) -> None:
    # The settings of a combination are those that journals have had before.
    members, _ = saved(tmp_path)
    path = tmp_path / "journal.jsonl"
    out = tmp_path / "out.safetensors"
    make_soup(members, nearness, out, journal=Journal(path, "eval"))
    settings = [json.loads(line)["settings"] for line in path.read_text().splitlines()]
    assert settings[0] == {}
    assert settings[-1] == {
        **{"dtype": None, "integers": "error", "missing": "error", "include": []},
        **{"exclude": [], "key": None, "shard_size": None},
        **{"rule": "mean", "rule_params": {}},
    }


def test_an_open_base_is_planned_as_the_same_object(tmp_path: Path) -> None:
    members, base = saved(tmp_path)
    first = plan(members, base=base, rule="task_arithmetic")
    again = plan(members, base=first.base, rule="task_arithmetic")
    assert again.base is first.base


def test_no_warning_is_raised_without_a_reason(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made(tmp_path, ["mean", "task_arithmetic"])


def test_a_base_must_not_change_while_a_combination_is_scored(tmp_path: Path) -> None:
    members, base = saved(tmp_path)
    combined = []

    def score(path: Path) -> float:
        combined.append(path.name.startswith("candidate"))
        if sum(combined) == 2:  # the first is the mean, which does not read the base
            save(base, {"w": np.ones(5, np.float32)})
        return nearness(path)

    with pytest.raises(ValueError, match=r"base\.safetensors must not change while"):
        make_soup(
            members,
            score,
            tmp_path / "out.safetensors",
            base=base,
            rule=[HALVES],
        )
