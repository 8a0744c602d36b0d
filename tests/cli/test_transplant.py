"""``ensemble transplant`` as users type it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ensembles_cli.main import cli
from tests.checkpoints.recipes.test_transplant import write_model


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_model(Path("model"), "<s> </s> a b c", 4, 0, tied=True)
    write_model(Path("donor"), "<s> </s> c d", 3, 1, tied=True)
    return tmp_path


def transplant(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["transplant", *arguments])


def test_the_result_has_the_tokenizer_of_the_donor() -> None:
    result = transplant("model", "donor", "-o", "out", "--method", "mean", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(Path("out/config.json").read_text())["vocab_size"] == 4
    tokenizers = [
        Path(name, "tokenizer.json").read_bytes() for name in ("out", "donor")
    ]
    assert tokenizers[0] == tokenizers[1]


def test_a_plan_says_which_tokens_are_shared() -> None:
    result = transplant("model", "donor", "-o", "out", "-k", "2", "--plan")
    assert result.exit_code == 0, result.output
    text = " ".join(result.output.split())
    assert "3 of the 4 tokens of donor are tokens of model too" in text
    assert "1 token is new, such as 'd': each is estimated from 2 shared" in text
    assert not Path("out").exists()


def test_a_donor_without_tokenizer_is_one_clear_error() -> None:
    Path("donor/tokenizer.json").unlink()
    result = transplant("model", "donor", "-o", "out")
    assert result.exit_code == 1
    assert "donor must be a directory with a tokenizer" in " ".join(
        result.output.split()
    )
