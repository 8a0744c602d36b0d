"""The table of rules."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from io import StringIO

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from ensembles.checkpoints.methods.builtin import RULES
from ensembles.selection import SELECTIONS
from ensembles_cli.main import cli
from tests.conftest import ROOT


def rows(command: str = "rules") -> list[list[str]]:
    result = CliRunner().invoke(cli, [command])
    assert result.exit_code == 0
    assert result.stderr == ""
    return [line.split("\t") for line in result.stdout.splitlines()]


def shown_in_terminal(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> str:
    """Output of the command in a terminal of 80 columns."""
    stdout = StringIO()
    monkeypatch.setattr(stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "stdout", stdout)
    cli(["rules", *arguments], standalone_mode=False)
    return stdout.getvalue()


def test_every_rule_has_a_row_with_its_source() -> None:
    header, *table = rows()
    assert [row[0] for row in table] == sorted(RULES)
    for row in table:
        assert len(row) == len(header)
        assert all(cell.strip() for cell in row), row


def test_rows_show_the_requirements_of_rules() -> None:
    table = {row[0]: row for row in rows()[1:]}
    assert "2" in table["slerp"]
    assert "signed" in table["mean"]
    assert "not negative" in table["median"]
    assert "arXiv:2203.05482" in table["mean"][-1]


def test_rows_show_base_moments_unit_and_scope() -> None:
    table = {row[0]: row[3:7] for row in rows()[1:]}
    assert table["mean"] == ["any", "-", "element", "-"]
    assert table["slerp"] == ["2", "-", "element", "tensor"]
    assert table["ties"] == ["any", "base", "element", "model or tensor"]
    assert table["della_ties"][2] == "row"
    assert table["breadcrumbs_ties"][3] == "tensor or model"
    assert table["fisher"][1] == "fisher moments"


def test_rows_name_the_parameters_with_their_defaults() -> None:
    table = {row[0]: row for row in rows()[1:]}
    assert table["power_mean"][2] == "p=2.0"
    assert table["trimmed_mean"][2] == "proportion=0.2"
    assert table["mean"][2] == "-"


def test_rules_are_listed_by_name() -> None:
    result = CliRunner().invoke(cli, ["rules", "ties", "mean"])
    assert [line.split("\t")[0] for line in result.stdout.splitlines()[1:]] == [
        *("ties", "mean")
    ]
    result = CliRunner().invoke(cli, ["rules", "tie"])
    assert result.exit_code == 1
    assert "unknown rule 'tie'; did you mean 'ties'?" in result.stderr


def test_a_terminal_shows_a_few_columns_of_all_rules_and_all_of_named_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nine columns on 80 characters are a column of syllables for each rule."""
    everything = shown_in_terminal(monkeypatch, [])
    assert "needs" in everything
    assert "arXiv" not in everything
    assert len(everything.splitlines()) < 4 * len(RULES)
    single = shown_in_terminal(monkeypatch, ["ties"])
    assert "arXiv:2306.01708" in single
    assert "density=0.2" in single


def test_every_selection_has_a_row_with_its_parameters() -> None:
    header, *table = rows("selections")
    assert [row[0].replace("-", "_") for row in table] == sorted(SELECTIONS)
    for row in table:
        assert len(row) == len(header)
        assert all(cell.strip() for cell in row), row
    params = {row[0]: row[2] for row in table}
    assert params["top-k"].startswith("k=")
    assert "n_rounds=" in params["greedy"]
    assert "alphas=" in params["wise-ft"]
    assert "record" not in "".join(params.values())


@pytest.mark.parametrize(
    ("words", "incomplete", "expected"),
    [
        (["avg", "a.pt", "--rule"], "m", sorted(n for n in RULES if n[0] == "m")),
        (["avg", "a.pt", "--rule"], "karcher", ["karcher_mean"]),
        (["soup", "a.pt", "--select"], "g", ["greedy", "greedy-soup"]),
        (["soup", "a.pt", "--select"], "wise", ["wise-ft"]),
        (["soup", "a.pt", "--rule"], "mean,tie", ["mean,ties"]),
        (["avg", "--missing"], "f", ["first"]),
        ([], "se", ["search", "selections"]),
    ],
)
def test_names_are_completed(
    words: list[str], incomplete: str, expected: list[str]
) -> None:
    complete = ShellComplete(cli, {}, "ensemble", "_ENSEMBLE_COMPLETE")
    found = complete.get_completions(words, incomplete)
    assert [item.value for item in found] == expected


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_works_in_each_shell_as_documented(shell: str) -> None:
    source = {"_ENSEMBLE_COMPLETE": f"{shell}_source"}
    result = CliRunner(env=source).invoke(cli, prog_name="ensemble")
    assert "_ENSEMBLE_COMPLETE" in result.stdout
    asked = {
        "_ENSEMBLE_COMPLETE": f"{shell}_complete",
        "COMP_WORDS": "ensemble avg --rule me",
        "COMP_CWORD": "me" if shell == "fish" else "3",
    }
    result = CliRunner(env=asked).invoke(cli, prog_name="ensemble")
    found = re.split(r"[\n,]", result.stdout)
    assert {"mean", "median"} <= set(found)


def test_completion_prints_only_names() -> None:
    """As in stfc/janus-core#267, where each TAB showed warnings of imports."""
    done = subprocess.run(
        [sys.executable, "-m", "ensembles_cli"],
        env={
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'cli'}",
            "_ENSEMBLE_COMPLETE": "bash_complete",
            "COMP_WORDS": "ensemble soup --select gre",
            "COMP_CWORD": "3",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout == "plain,greedy\nplain,greedy-soup\n"
