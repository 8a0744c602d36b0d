"""``ensemble plot`` as users type it."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from ensembles_cli.main import cli
from tests.checkpoints.building import save

Plot = Callable[..., Result]
# The square of the first entry, and a failure at one of its values.
EVAL = """
import struct, sys
data = open(sys.argv[1], "rb").read()
(number,) = struct.unpack_from("<f", data, 8 + int.from_bytes(data[:8], "little"))
if len(sys.argv) > 2 and number == float(sys.argv[2]):
    sys.exit("no memory")
print("loss:", number**2)
"""
SCORE = f"{shlex.quote(sys.executable)} -I -S eval.py {{}}"


@pytest.fixture
def plot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plot:
    """Run the command in a folder with checkpoints and a scoring command."""
    monkeypatch.chdir(tmp_path)
    Path("eval.py").write_text(EVAL)
    for name, values in {
        "a": [-2, 0],
        "b": [2, 0],
        "c": [0, 3],
        "base": [0, 1],
    }.items():
        save(Path(f"{name}.safetensors"), {"w": np.array(values, np.float32)})
    for step in range(100, 500, 100):
        state = {"w": np.array([step / 100, 0], np.float32)}
        save(Path(f"run/checkpoint-{step}.safetensors"), state)

    def run(*arguments: object, exit_code: int = 0) -> Result:
        result = CliRunner().invoke(cli, ["plot", *map(str, arguments)])
        assert result.exit_code == exit_code, result.stderr
        return result

    return run


def numbers(result: Result) -> dict[str, Any]:
    return dict(json.loads(result.stdout))


A, B, C, BASE = (f"{name}.safetensors" for name in ("a", "b", "c", "base"))
LOSS = ("--score", SCORE, "--lower-is-better")


def test_a_line_has_a_barrier_and_leaves_image_and_journal(plot: Plot) -> None:
    before = {path.name for path in Path().iterdir()}
    result = plot("line", BASE, B, *LOSS, "--points", 3, "-o", "x.svg", "--json")
    facts = numbers(result)
    assert facts["scores"] == [0, 1, 4]
    assert facts["barrier"] == 0
    assert facts["names"] == [BASE, B]
    assert Path("x.svg").read_text().startswith("<?xml")
    after = {path.name for path in Path().iterdir()}
    assert after - before == {"x.svg", "x.svg.journal.jsonl"}
    again = plot("line", BASE, B, *LOSS, "--points", 3, "-o", "x.svg", "--force")
    assert again.stdout == "wrote x.svg: barrier 0; best score 0 at alpha 0\n"
    assert "3 scores are taken from x.svg.journal.jsonl" in again.stderr


def test_failed_scores_end_the_command_or_are_marked(plot: Plot) -> None:
    score = ("--score", f"{SCORE} 0.0", "--lower-is-better", "-o", "x.png")
    result = plot("line", A, B, *score, "--points", 3, exit_code=1)
    assert "no memory" in result.stderr
    assert not Path("x.png").exists()
    result = plot("line", A, B, *score, "--points", 3, "--on-error", "drop")
    assert result.stdout.endswith("; 1 of 3 points without a score\n")
    assert Path("x.png").exists()


def test_a_plane_is_scored_outside_of_the_triangle_too(plot: Plot) -> None:
    options = ("--points", 3, "--margin", 0.5, "-o", "x.png", "--json")
    facts = numbers(plot("plane", A, B, C, *LOSS, "--metric", "mse", *options))
    np.testing.assert_allclose(facts["x"], [-2, 2, 6])
    np.testing.assert_allclose(facts["scores"], [[16, 0, 16]] * 3, atol=1e-10)
    assert facts["corner_scores"] == [4, 4, 0]
    assert facts["metric"] == "mse"
    result = plot("plane", A, A, B, *LOSS, "-o", "y.png", exit_code=1)
    assert "must differ, and not be on one line" in result.stderr


def test_a_plane_of_chosen_state_dicts(plot: Plot) -> None:
    torch = pytest.importorskip("torch")
    for name, values in {"a": [-2, 0], "b": [2, 0], "c": [0, 3]}.items():
        ema = {"w": torch.tensor(values, dtype=torch.float32), name: torch.ones(1)}
        torch.save({"model": {"w": torch.zeros(2)}, "ema": ema}, f"{name}.pt")
    score = ("--score", "wc -c < {}", "--points", 2, "-o", "x.png", "--json")
    files = ("a.pt", "b.pt", "c.pt", "--key", "ema")
    result = plot("plane", *files, *score, exit_code=1)
    assert "--missing skip" in result.stderr
    facts = numbers(plot("plane", *files, "--missing", "skip", *score))
    np.testing.assert_allclose(facts["corners"], [[0, 0], [4, 0], [2, 3]])
    base = ("--base", "c.pt", "--missing", "skip", "--key", "ema")
    facts = numbers(plot("cosines", "a.pt", "b.pt", *base, "-o", "y.png", "--json"))
    np.testing.assert_allclose(facts["cosines"][0][1], 5 / 13)


def test_a_run_is_scored_with_the_means_of_its_windows(plot: Plot) -> None:
    windows = ("--window", 2, "--window", 4)
    facts = numbers(plot("run", "run", *LOSS, *windows, "-o", "x.png", "--json"))
    assert facts["positions"] == [100, 200, 300, 400]
    assert facts["scores"] == [1, 4, 9, 16]
    assert facts["averages"] == {
        "mean of 2 checkpoints": {
            "positions": [200, 300, 400],
            "scores": [2.25, 6.25, 12.25],
        },
        "mean of 4 checkpoints": {"positions": [400], "scores": [6.25]},
    }


def test_metrics_of_a_run_need_no_score(plot: Plot) -> None:
    for step, loss in ((1, 2.0), (2, 1.5)):
        folder = Path(f"trained/checkpoint-{step}")
        save(folder / "model.safetensors", {"w": np.zeros(2, np.float32)})
        history = [{"step": step, "eval_loss": loss, "epoch": step}]
        state = {"epoch": step, "log_history": history}
        (folder / "trainer_state.json").write_text(json.dumps(state))
        (folder / "config.json").write_text("{}")
    result = plot("run", "trained", "--by", "epoch", "-o", "x.pdf")
    assert result.stdout == (
        "wrote x.pdf: eval_loss of 2 checkpoints from 2 at epoch 1 to 1.5 at epoch 2\n"
    )
    result = plot("run", "trained", "--window", 2, "-o", "y.png", exit_code=2)
    assert "--window needs --score COMMAND" in result.stderr
    result = plot("run", "run", "-o", "y.png", exit_code=1)
    assert "run has no metrics of its checkpoints" in result.stderr


def test_the_path_of_a_soup_is_drawn_from_its_journal(plot: Plot) -> None:
    words = ["soup", A, B, C, *LOSS, "-o", "soup.safetensors"]
    assert CliRunner().invoke(cli, words).exit_code == 0
    journal = "soup.safetensors.journal.jsonl"
    facts = numbers(plot("soup", journal, "--lower-is-better", "-o", "x.png", "--json"))
    assert facts["members"] == [C, A, B]
    assert facts["outcomes"] == ["kept", "left out", "left out"]
    assert facts["uniform_score"] == 0
    text = Path(journal).read_text()
    Path(journal).write_text(text.splitlines()[0].replace("eval", "x") + "\n" + text)
    result = plot("soup", journal, "--lower-is-better", "-o", "y.png")
    assert "note: 1 score is left out, of other commands" in result.stderr
    assert result.stdout == (
        "wrote y.png: soup of 1 in 3: score 0; best member 0; uniform soup 0\n"
    )


def test_cosines_and_differences_are_drawn(plot: Plot) -> None:
    facts = numbers(plot("cosines", A, B, "--base", BASE, "-o", "x.png", "--json"))
    np.testing.assert_allclose(facts["cosines"], [[1, -0.6], [-0.6, 1]])
    result = plot("difference", A, BASE, "-o", "y.png")
    assert result.stdout.startswith("wrote y.png: 1 layers, 0 unchanged; largest ")


@pytest.mark.parametrize("kind", ["line", "plane", "run", "cosines", "difference"])
def test_an_existing_image_is_kept_before_anything_is_scored(
    plot: Plot, kind: str
) -> None:
    Path("x.png").write_text("kept")
    never = ("--score", f"{SCORE} && touch scored")
    arguments = {
        "line": (A, B, *never),
        "plane": (A, B, C, *never),
        "run": ("run", *never),
        "cosines": (A, B, "--base", BASE),
        "difference": (A, B),
    }[kind]
    result = plot(kind, *arguments, "-o", "x.png", exit_code=1)
    assert "x.png exists; pass force=True (--force)" in result.stderr
    wrong = plot(kind, *arguments, "-o", "x.gif", exit_code=1)
    assert "suffix .png, .svg, .pdf, found x.gif" in wrong.stderr
    assert Path("x.png").read_text() == "kept"
    assert not Path("scored").exists()


def test_without_matplotlib_the_message_has_the_command_that_installs_it(
    plot: Plot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    result = plot("line", A, B, *LOSS, "-o", "x.png", exit_code=1)
    assert "pip install 'ensemble-avg[plot]'" in result.stderr
