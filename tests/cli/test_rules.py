"""The table of rules."""

from __future__ import annotations

from click.testing import CliRunner

from ensembles.rules import RULES
from ensembles_cli.main import cli


def rows() -> list[list[str]]:
    result = CliRunner().invoke(cli, ["rules"])
    assert result.exit_code == 0
    assert result.stderr == ""
    return [line.split("\t") for line in result.stdout.splitlines()]


def test_every_rule_has_a_row_with_its_source() -> None:
    header, *table = rows()
    assert [row[0] for row in table] == sorted(RULES)
    for row in table:
        assert len(row) == len(header)
        assert all(cell.strip() for cell in row), row


def test_rows_say_what_rules_need() -> None:
    table = {row[0]: row for row in rows()[1:]}
    assert "2" in table["slerp"]
    assert "signed" in table["mean"]
    assert "not negative" in table["median"]
    assert "arXiv:2203.05482" in table["mean"][-1]
