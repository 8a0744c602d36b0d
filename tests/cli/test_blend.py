"""``ensemble blend``: the table, the output, test files, and what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner, Result

from ensembles_cli.main import cli
from ensembles_cli.reports.blend import as_scoring

Blend = Callable[..., Result]
N_ROWS = 60


@pytest.fixture
def blend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Blend:
    """Run the command in a folder with three members of a two-class target."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    y = np.arange(N_ROWS) % 2
    labels = np.array(["no", "yes"])[y]
    for folder in ("oof", "test"):
        Path(folder).mkdir()
    for index, noise in enumerate((0.5, 1.0, 3.0)):
        p = 1 / (1 + np.exp(1 - 2 * y + rng.normal(0, noise, N_ROWS)))
        frame = pl.DataFrame({"id": np.arange(N_ROWS), "no": 1 - p, "yes": p})
        frame.write_csv(f"oof/oof_m{index}.csv")
        frame.with_columns(pl.col("id") + 1000).write_csv(f"test/test_m{index}.csv")
    pl.DataFrame(
        {
            "id": np.arange(N_ROWS),
            "label": labels,
            "site": np.arange(N_ROWS) // 6,
            "day": [f"1/{1 + row % 28}/2026" for row in range(N_ROWS)],
        }
    ).write_csv("y.csv")

    def run(*arguments: object) -> Result:
        files = sorted(map(str, Path("oof").iterdir()))
        options = ["--target", "y.csv", "--target-column", "label"]
        return CliRunner().invoke(
            cli, ["blend", *files, *options, *map(str, arguments)]
        )

    return run


def test_one_table_has_files_best_file_equal_weights_and_blend(blend: Blend) -> None:
    result = blend("--groups", "site")
    assert result.exit_code == 0, result.stderr
    lines = [line.split("\t") for line in result.stdout.splitlines()]
    assert lines[0] == ["file", "log_loss", "weight"]
    names = [line[0] for line in lines[1:7]]
    assert names == [
        *("oof_m0", "oof_m1", "oof_m2"),
        *("best single file", "equal weights", "blend"),
    ]
    losses = [float(line[1]) for line in lines[1:7]]
    assert losses[0] < losses[2]
    assert "The blend" in result.stdout
    assert "lower is better" in result.stdout
    assert not [path for path in Path().iterdir() if path.suffix == ".png"]


def test_json_has_the_same_numbers(blend: Blend) -> None:
    result = blend("--json", "--metric", "auc", "--rule", "mean", "--weights", "greedy")
    facts = json.loads(result.stdout)
    assert facts["metric"] == "roc_auc"
    assert facts["lower_is_better"] is False
    assert [entry["path"] for entry in facts["members"]] == [
        f"oof/oof_m{index}.csv" for index in range(3)
    ]
    assert sum(entry["weight"] for entry in facts["members"]) == pytest.approx(1)
    assert [entry["name"] for entry in facts["combinations"]] == [
        *("best single file", "equal weights", "blend"),
    ]
    assert len(facts["combinations"][2]["folds"]) == 5
    assert facts["rows"] == {"complete": 60, "learned": 60, "judged": 60}


def test_learned_weights_are_applied_to_the_matching_test_files(blend: Blend) -> None:
    result = blend("--rule", "mean", "--weights", "1,2,3", "-o", "out.csv")
    assert result.exit_code == 0, result.stderr
    assert "wrote out.csv, the blend of the same files" in result.stdout
    result = blend(
        *("--rule", "mean", "--weights", "1,2,3"),
        *("--test-dir", "test", "-o", "test.csv"),
    )
    assert "the blend of 3 test files" in result.stdout
    out, test = pl.read_csv("out.csv"), pl.read_csv("test.csv")
    np.testing.assert_array_equal(test["id"] - 1000, out["id"])
    np.testing.assert_array_equal(test["yes"], out["yes"])
    members = [pl.read_csv(path)["yes"] for path in sorted(Path("oof").iterdir())]
    expected = np.average(np.array(members), axis=0, weights=[1, 2, 3])
    np.testing.assert_allclose(out["yes"], expected)


def test_an_existing_output_is_replaced_only_with_force(blend: Blend) -> None:
    Path("out.csv").write_text("kept")
    result = blend("-o", "out.csv")
    assert result.exit_code == 1
    assert "out.csv" in result.stderr
    assert Path("out.csv").read_text() == "kept"
    assert blend("-o", "out.csv", "--weights", "equal", "--force").exit_code == 0
    assert len(pl.read_csv("out.csv")) == N_ROWS


def test_without_a_target_files_are_blended_with_given_weights(blend: Blend) -> None:
    files = sorted(map(str, Path("test").iterdir()))
    run = CliRunner()
    result = run.invoke(cli, ["blend", *files, "--rule", "mean", "-o", "out.csv"])
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines()[1] == "test_m0\t1"
    mean = np.mean([pl.read_csv(path)["yes"] for path in files], axis=0)
    np.testing.assert_allclose(pl.read_csv("out.csv")["yes"], mean)
    result = run.invoke(cli, ["blend", *files])
    assert result.exit_code == 2
    assert "requires -o" in result.stderr
    for option in ("--weights=greedy", "--groups=site", "--metric=auc"):
        result = run.invoke(cli, ["blend", *files, option, "-o", "x.csv"])
        assert result.exit_code == 1
        assert "--target" in result.stderr


def test_labels_are_written_with_thresholds(blend: Blend) -> None:
    options = ("--metric", "f1_macro", "--rule", "mean", "--weights", "equal")
    result = blend(*options, "--cv", "2", "--labels", "-o", "labels.csv")
    assert result.exit_code == 0, result.stderr
    assert "threshold: no" in result.stdout
    labels = pl.read_csv("labels.csv")
    assert labels.columns == ["id", "label"]
    assert set(labels["label"]) == {"no", "yes"}
    assert "requires -o" in blend("--labels").stderr


def test_the_picture_has_the_weights_and_scores(blend: Blend) -> None:
    assert blend("--weights", "equal", "--plot", "weights.svg").exit_code == 0
    assert "<svg" in Path("weights.svg").read_text()
    assert blend("--plot", "weights.svg").exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--metric", "logg_loss"], "did you mean log_loss"),
        (["--weights", "greedi"], "greedy"),
        (["--weights", "1,2"], "weights"),
        (["--rule", "meen"], "did you mean 'mean'"),
        (["--metric", "f1"], "(--metric f1_macro)"),
        (["--groups", "clinic"], "no column 'clinic' for groups or time"),
        (["--time", "day"], "times must be numbers or dates"),
        (["--groups", "site", "--cv", "11"], "pass cv=10"),
        (["--test-dir", "none", "-o", "x.csv"], "none is not a folder"),
        (["--test-dir", "test"], "requires -o"),
        (["-o", "x.pkl"], "pickle"),
        (["-o", "x.csv", "--plot", "x.bmp"], "must have the suffix"),
    ],
)
def test_wrong_options_are_refused_in_one_line(
    blend: Blend, arguments: list[str], message: str
) -> None:
    result = blend(*arguments)
    assert result.exit_code in (1, 2)
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not Path("x.csv").exists()


def test_columns_select_the_predictions_of_all_files(blend: Blend) -> None:
    for path in (*Path("oof").iterdir(), *Path("test").iterdir()):
        pl.read_csv(path).with_columns(fold=pl.col("id") % 3).write_csv(path)
    result = blend("--json")
    assert result.exit_code == 1
    assert "(--columns)" in result.stderr
    options = ["--columns", "no", "--columns", "yes", "--test-dir", "test"]
    result = blend("--json", *options, "-o", "x.csv")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["columns"] == ["no", "yes"]
    assert pl.read_csv("x.csv").columns == ["id", "no", "yes"]


def test_calibration_is_compared_with_files_as_they_are(blend: Blend) -> None:
    result = blend("--calibrate", "isotonic", "--rule", "mean", "--weights", "best")
    names = [line.split("\t")[0] for line in result.stdout.splitlines()]
    assert names[4:6] == ["best single file", "best file, calibrated"]
    assert "Use the best single file: --weights best without --calibrate." in (
        result.stdout
    )


def test_a_missing_test_file_is_named(blend: Blend) -> None:
    Path("test/test_m1.csv").unlink()
    result = blend("--test-dir", "test", "-o", "x.csv")
    assert "test must have a file for oof/oof_m1.csv" in result.stderr
    Path("test/test_m0.parquet").touch()
    result = blend("--test-dir", "test", "-o", "x.csv")
    assert "test must have one file for oof/oof_m0.csv" in result.stderr


@pytest.mark.parametrize(
    ("metric", "name"),
    [
        (None, None),
        ("log_loss", "neg_log_loss"),
        ("neg_log_loss", "neg_log_loss"),
        ("Brier-Score", "neg_brier_score"),
        ("rmse", "neg_root_mean_squared_error"),
        ("mcc", "matthews_corrcoef"),
        ("f1_macro", "f1_macro"),
    ],
)
def test_metrics_have_their_common_names(metric: str | None, name: str | None) -> None:
    assert as_scoring(metric).name == name


KILLED = """
import os, signal, sys
from ensembles.predictions.files import application
from ensembles_cli.main import cli

def kill(*args):
    os.kill(os.getpid(), signal.SIGKILL)

combine, n_calls = application._combine, 0

def combine_once(*args):
    global n_calls
    n_calls += 1
    return combine(*args) if n_calls < 2 else kill()

application.BLOCK_BYTES = 1000
application._combine = combine_once
cli(sys.argv[1:])
"""


def test_a_killed_blend_leaves_nothing(blend: Blend, tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir()
    files = sorted(map(str, Path("oof").iterdir()))
    options = [
        *("--target", "y.csv", "--target-column", "label", "--weights", "equal"),
        *("-o", "out.csv"),
    ]
    root = Path(__file__).parents[2]
    environment: Any = {
        **os.environ,
        "PYTHONPATH": f"{root}{os.pathsep}{root / 'cli'}",
        "TMPDIR": str(tmp_path / "spool"),
    }
    done = subprocess.run(
        [sys.executable, "-c", KILLED, "blend", *files, *options],
        env=environment,
        capture_output=True,
        timeout=600,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not Path("out.csv").exists()
    assert not list((tmp_path / "spool").iterdir())
    assert blend("--weights", "equal", "-o", "out.csv").exit_code == 0
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"oof", "test", "spool", "y.csv", "out.csv"}
