"""``ensemble compare`` as users type it."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from ensembles.embeddings import SentenceEmbedder
from ensembles_cli.main import cli
from tests.checkpoints.soup_search.test_make_soup import VALUES, made, six
from tests.cli.test_soup import EVAL, SCORE

Compare = Callable[..., Result]


@pytest.fixture
def compare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compare:
    """Run the command in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "eval.py").write_text(EVAL)

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(cli, ["compare", *map(str, arguments)])

    return run


EXPECTED = """\
model\tscore\tagainst a.safetensors\tmodels\tparameters\tmemory
c.safetensors\t-4\t-3\t1\t3\t12 B
d.safetensors\t-4\t-3\t1\t3\t12 B
e.safetensors\t-7\t-6\t1\t3\t12 B
a.safetensors (best single)\t-1\t+0\t1\t3\t12 B
b.safetensors\t-2\t-1\t1\t3\t12 B
f.safetensors (median member)\t-3\t-2\t1\t3\t12 B
uniform soup of 6\t-1\t+0\t1\t3\t12 B
median soup of 6\t-2\t-1\t1\t3\t12 B
greedy soup of 5\t0\t+1\t1\t3\t12 B
Best of 9 rows: greedy soup of 5, score 0, +1 against a.safetensors.
"""


def test_checkpoints_are_compared_by_a_command(compare: Compare) -> None:
    names = [path.name for path in six(Path())]
    result = compare(*names, "--score", SCORE)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == EXPECTED
    assert "score -4 is read from: step 1000, in 3s: score -4" in result.stderr
    assert "note: the best single member and the greedy soup are chosen by the" in (
        result.stderr
    )
    n_scored = len(Path("count").read_text().split())
    again = compare(*names, "--score", SCORE)
    assert again.stdout == EXPECTED
    assert len(Path("count").read_text().split()) == n_scored
    assert {p.name for p in Path().iterdir()} == {
        *names,
        *("eval.py", "count", "compare.journal.jsonl"),
    }


def test_another_command_may_choose(compare: Compare) -> None:
    names = [path.name for path in six(Path())]
    code = "import os, sys; print(-ord(os.path.basename(sys.argv[1])[0]))"
    select = f"{shlex.quote(sys.executable)} -I -S -c {shlex.quote(code)} {{}}"
    result = compare(*names, "--score", SCORE, "--select-score", select, "--json")
    assert result.exit_code == 0, result.stderr
    facts = json.loads(result.stdout)
    assert facts["reference"] == "a.safetensors"  # the least letter
    assert facts["rows"][3]["is_best_member"]
    assert facts["best"] in [row["model"] for row in facts["rows"]]
    assert not any("optimistic" in note for note in facts["notes"])
    assert Path("compare.journal.jsonl.select").exists()


def test_checkpoints_of_a_run_have_windows(compare: Compare) -> None:
    run = Path("run")
    run.mkdir()
    for step, number in enumerate(VALUES.values()):
        made(run, f"step-{step}.safetensors", number)
    result = compare("run", "--last", 4, "--score", SCORE)
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert any(line.startswith("mean of the last 2\t0") for line in lines)
    assert any(line.startswith("EMA, half-life 1 checkpoint") for line in lines)
    assert "step-0" not in result.stdout


def test_embedding_models_are_compared_by_rated_pairs(
    compare: Compare, rng: np.random.Generator
) -> None:
    words = [f"w{n}" for n in range(9)]
    for name in ("one", "two"):
        vectors = dict(zip(words, rng.normal(size=(9, 4)), strict=True))
        SentenceEmbedder(vectors, weights=None).fit().save(name)
    for table in ("test", "dev"):
        rows = [
            f"{' '.join(rng.choice(words, 3))},{' '.join(rng.choice(words, 3))},{n % 6}"
            for n in range(30)
        ]
        Path(f"{table}.csv").write_text("\n".join(["s1,s2,score", *rows]))
    arguments = ("one", "two", "--pairs", "test.csv")
    result = compare(*arguments, "--select-pairs", "dev.csv", "--json")
    assert result.exit_code == 0, result.stderr
    facts = json.loads(result.stdout)
    alone = CliRunner().invoke(
        cli, ["evaluate", "one", "test.csv", "--against", "two", "--json"]
    )
    expected = [[*m.values()] for m in json.loads(alone.stdout)["models"].values()]
    keys = ("score", "score_low", "score_high")
    members = [[row[key] for key in keys] for row in facts["rows"][:2]]
    np.testing.assert_allclose(members, expected)
    models = [row["model"] for row in facts["rows"]]
    assert models == ["one", "two", "prediction ensemble", "fitted ensemble"]
    plain = compare(*arguments)
    assert "95% interval" in plain.stdout
    assert plain.stdout.splitlines()[-1].startswith("Best of 3 rows: ")
    assert "averages of parameters are left out" in plain.stderr


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ([], "pass either --score COMMAND or --pairs TABLE"),
        (["--score", "a {}", "--columns", "1,2,3"], "--columns cannot be used with"),
        (["--pairs", "eval.py", "--timeout", 3], "--timeout cannot be used with"),
        (["--score", "python eval.py"], "--score must contain {}"),
    ],
)
def test_wrong_usage_is_reported(
    compare: Compare, arguments: list[str], fault: str
) -> None:
    result = compare("a.pt", "b.pt", *arguments)
    assert result.exit_code == 2
    assert fault in result.stderr


def test_a_failure_is_one_line(compare: Compare) -> None:
    names = [path.name for path in six(Path())]
    Path("faults").write_text("fail=8")
    result = compare(*names, "--score", SCORE)
    assert result.exit_code == 1
    assert "error: " in result.stderr
    assert "Traceback" not in result.stderr


def test_a_single_path_is_reported_with_the_option_for_runs(compare: Compare) -> None:
    six(Path())
    result = compare("a.safetensors", "--score", SCORE)
    assert result.exit_code == 2
    assert "at least two models, found a.safetensors; of the folder of a" in " ".join(
        result.stderr.split()
    )


@pytest.mark.filterwarnings("ignore")
def test_a_member_that_is_left_out_is_in_the_json(compare: Compare) -> None:
    names = [path.name for path in six(Path())]
    fails = "case {} in *e.safetensors) echo nan;; *) echo 1;; esac"
    result = compare(*names, "--score", fails, "--on-error", "drop", "--json")
    assert result.exit_code == 0, result.stderr
    notes = json.loads(result.stdout)["notes"]
    assert any(
        note.startswith("e.safetensors is left out, its score") for note in notes
    )
