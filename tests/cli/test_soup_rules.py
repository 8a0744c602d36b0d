"""``ensemble soup`` over several rules, and over their parameters."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from ensembles_cli.main import cli
from tests.checkpoints.building import load, save

Soup = Callable[..., Result]
# Minus the distance from (3, 3), to which each member has come in one coordinate.
EVAL = """
import struct, sys
from pathlib import Path

content = Path(sys.argv[1]).read_bytes()
w = struct.unpack("<2f", content[8 + int.from_bytes(content[:8], "little"):])
print("score", 0.0 - abs(w[0] - 3) - abs(w[1] - 3))
"""
SCORE = f"{shlex.quote(sys.executable)} -I -S eval.py {{}}"


@pytest.fixture
def soup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Soup:
    """Run the command on two members and their base, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    Path("eval.py").write_text(EVAL)
    for name, w in {"a": [3, 1], "b": [1, 3], "base": [1, 1]}.items():
        save(Path(f"{name}.safetensors"), {"w": np.array(w, np.float32)})

    def run(*arguments: str) -> Result:
        words = ["soup", "a.safetensors", "b.safetensors", "-o", "out.safetensors"]
        words += ["--base", "base.safetensors", "--score", SCORE, *arguments]
        return CliRunner().invoke(cli, words)

    return run


EXPECTED = """\
in\tmember\tscore\tweight
\tbase.safetensors\t-4\t
*\ta.safetensors\t-2\t1
*\tb.safetensors\t-2\t1
compared\tparameters\tmembers\tscore\tscored
base (base.safetensors)\t\t\t-4\t1
best single member (a.safetensors)\t\t\t-2\t2
mean of the members\t\t\t-2\t1
task_arithmetic\t\t2\t0\t1
dare_linear\tdensity=1\t2\t0\t1
The output is by task_arithmetic, which scores 0, better than the base \
(base.safetensors), the best single member (a.safetensors) and the mean of the \
members; dare_linear scores the same (on the data of the selection; check on held-out \
data).
wrote out.safetensors; to write the same file: ensemble avg a.safetensors \
b.safetensors --base base.safetensors --rule task_arithmetic -o out.safetensors
"""


def test_rules_are_compared_with_base_best_member_and_mean(soup: Soup) -> None:
    rules = ["--rule", "task_arithmetic,dare_linear", "--param", "density=1"]
    result = soup(*rules)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == EXPECTED
    assert result.stderr.splitlines()[-2:] == [
        "[5] 0  a.safetensors + b.safetensors  (task_arithmetic)",
        "[6] 0  a.safetensors + b.safetensors  (dare_linear density=1)",
    ]
    line = result.stdout.splitlines()[-1].split("same file: ensemble ")[1]
    content = Path("out.safetensors").read_bytes()
    assert CliRunner().invoke(cli, [*shlex.split(line), "--force"]).exit_code == 0
    assert Path("out.safetensors").read_bytes() == content


def test_that_no_rule_helps_is_reported(soup: Soup) -> None:
    save(Path("b.safetensors"), {"w": np.array([1, -9], np.float32)})
    result = soup("--rule", "mean,task_arithmetic")
    assert result.exit_code == 0, result.stderr
    text = result.stdout.splitlines()[-2]
    assert text.startswith(
        "The output is the best single member (a.safetensors), which scores -2: no "
        "rule scores better, so merging does not help (on the data"
    )
    assert result.stdout.splitlines()[-1].endswith(
        "ensemble avg a.safetensors -o out.safetensors"
    )
    assert load(Path("out.safetensors"))["w"].tolist() == [3, 1]


def test_a_rule_that_loses_is_reported_with_what_scores_better(soup: Soup) -> None:
    params = [
        "--param",
        "scale=4",
        "--select",
        "greedy",
        "--select-param",
        "n_rounds=2",
    ]
    result = soup("--rule", "task_arithmetic", *params)
    assert result.exit_code == 0, result.stderr
    assert "The output is the best single member (a.safetensors)" in result.stdout
    assert "mean of the members scores the same" in result.stdout


def test_ranges_are_searched_and_the_scores_are_kept(soup: Soup) -> None:
    pytest.importorskip("optuna")
    options = ["--rule", "task_arithmetic,dare_linear", "--param", "scale=.1:2"]
    options += ["--param", "density=.9:1", "--select", "optuna", "--json"]
    options += ["--select-param", "n_trials=4", "--select-param", "equal_weights=true"]
    result = soup(*options)
    assert result.exit_code == 0, result.stderr
    shown = json.loads(result.stdout)
    first, second = shown["rules"]
    assert (first["rule"], first["scored"], first["weights"]) == (
        *("task_arithmetic", 4),
        [1, 1],
    )
    assert first["params"] == {"scale": 1}  # the default is tried first, and best
    assert first["score"] == 0
    assert second["params"].keys() == {"density", "scale"}
    assert (shown["scored"], shown["reused"]) == (12, 0)
    again = json.loads(soup(*options, "--force").stdout)
    assert (again["scored"], again["reused"]) == (0, 12)
    assert again["digest"] == shown["digest"]
    assert "--rule task_arithmetic --param scale=1.0" in again["average"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--rule", "mean,tise"], 1, "unknown rule 'tise'; did you mean"),
        (
            ["--rule", "task_arithmetic", "--param", "scale=.1:2"],
            1,
            "the range of 'scale' needs a selection that chooses parameters of the rule"
            "; pass select='optuna' (--select optuna), or a single value",
        ),
        (
            ["--rule", "mean,task_arithmetic", "--param", "x=1"],
            1,
            "has a parameter 'x'",
        ),
        (
            ["--rule", "mean,median", "--sweep", "windows"],
            2,
            "--sweep needs one --rule",
        ),
    ],
    ids=str,
)
def test_wrong_input_is_reported(
    soup: Soup, arguments: list[str], code: int, message: str
) -> None:
    result = soup(*arguments)
    assert result.exit_code == code
    assert message in " ".join(result.stderr.split())
    assert not Path("out.safetensors").exists()
