"""``ensemble soup`` as users type it, with a command of their own that scores."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from ensembles import atomic_io
from ensembles.checkpoints import Journal
from ensembles.checkpoints.directories.open import open_checkpoint
from ensembles.rules import RULES, Rule
from ensembles_cli.main import cli
from ensembles_cli.scoring import shell
from ensembles_cli.scoring.command import TAIL, ScoringCommand
from tests.checkpoints.building import save
from tests.checkpoints.crashing import tree
from tests.checkpoints.soup_search.test_make_soup import VALUES, made, six, value
from tests.conftest import ROOT

Soup = Callable[..., Result]
# A user's own program: it knows nothing of the library. What it scored it writes down.
EVAL = """
import fcntl, json, math, os, struct, sys, time, zipfile
from pathlib import Path

path = Path(sys.argv[1])
if path.is_dir():
    assert (path / "config.json").exists() and (path / "tokenizer.json").exists()
    path = path / "model.safetensors"
if path.suffix == ".pt":
    with zipfile.ZipFile(path) as found:
        data = found.read(next(n for n in found.namelist() if n.endswith("/data/0")))
else:
    content = path.read_bytes()
    data = content[8 + int.from_bytes(content[:8], "little"):]
number = struct.unpack("<f", data[:4])[0]
with open("count", "a") as count:
    count.write(f"{number:.4f}\\n")
for fault in Path("faults").read_text().split() if Path("faults").exists() else ():
    kind, at = fault.split("=")
    if f"{number:.2f}" == f"{float(at):.2f}":
        if kind == "fail":
            sys.exit(f"no memory\\nat {number:g}")
        if kind == "hang":
            lock = open("lock", "w")
            fcntl.flock(lock, fcntl.LOCK_EX)
            Path("group").write_text(str(os.getpgrp()))
            os.fork()  # what a command has started must end with it
            print("waiting", file=sys.stderr, flush=True)
            time.sleep(60)
        print({"nothing": "done", "nan": "accuracy: nan"}[kind])
        sys.exit()
print("step 1000, in 3s: score", -math.floor(abs(number - 4)))
"""
SCORE = f"{shlex.quote(sys.executable)} -I -S eval.py {{}}"


@pytest.fixture
def soup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Soup:
    """Run the command in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "eval.py").write_text(EVAL)

    def run(*arguments: object, score: str = SCORE) -> Result:
        words = ["soup", "--score", score, *map(str, arguments)]
        return CliRunner().invoke(cli, words)

    return run


def faults(**found: float) -> None:
    """Let the command fail at a number, in ways such as hang=4.5."""
    Path("faults").write_text("\n".join(f"{kind}={at}" for kind, at in found.items()))


def counted() -> list[float]:
    return [float(line) for line in Path("count").read_text().split()]


def left() -> set[str]:
    """What lies in the folder besides members and what the command needs."""
    own = {"eval.py", "count", "faults", "lock", "group"}
    return {
        p.name for p in Path().iterdir() if p.name.split(".")[0] not in VALUES
    } - own


EXPECTED = """\
in\tmember\tscore\tweight
*\tc.safetensors\t-4\t0.2
*\td.safetensors\t-4\t0.2
\te.safetensors\t-7\t
*\ta.safetensors\t-1\t0.2
*\tb.safetensors\t-2\t0.2
*\tf.safetensors\t-3\t0.2
compared\tscore
uniform soup\t-1
soup of 5 in 6\t0
best single member, a.safetensors\t-1
The soup beats the best single member, a.safetensors: 0 against -1 (on the data of \
the selection; check on held-out data).
wrote out.safetensors; to write the same file: ensemble avg a.safetensors \
b.safetensors f.safetensors c.safetensors d.safetensors -o out.safetensors
"""


def test_a_soup_is_told_as_it_is_made_and_when_it_is_done(
    soup: Soup, tmp_path: Path
) -> None:
    names = [path.name for path in six(tmp_path)]
    result = soup(*names, "-o", "out.safetensors")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == EXPECTED
    lines = result.stderr.splitlines()
    assert lines[0] == "score -4 is read from: step 1000, in 3s: score -4"
    assert lines[1] == "[1] -4  c.safetensors"
    assert lines[7] == "[7] 0  a.safetensors + b.safetensors"
    assert len(lines) == 12
    assert left() == {"out.safetensors", "out.safetensors.journal.jsonl"}


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ""])
def test_the_line_that_is_told_writes_the_same_bytes(
    soup: Soup, tmp_path: Path, suffix: str
) -> None:
    six(tmp_path, suffix)
    pattern = f"[a-f]{suffix}"
    result = soup(pattern, "-o", f"out{suffix}")
    assert result.exit_code == 0, result.stderr
    words = shlex.split(result.stdout.splitlines()[-1].partition("file: ensemble ")[2])
    words[-1] = f"again{suffix}"
    assert CliRunner().invoke(cli, words).exit_code == 0
    assert tree(Path(f"out{suffix}")) == tree(Path(f"again{suffix}"))
    assert value(Path(f"out{suffix}")) == np.float32(3.6)
    assert left() == {p + suffix for p in ("out", "again")} | {
        f"out{suffix}.journal.jsonl"
    }


def test_many_members_are_reported_by_their_number(soup: Soup, tmp_path: Path) -> None:
    for n in range(7):
        made(tmp_path, f"{n}.safetensors", n)
    more = ["--select", "top-k", "--select-param", "k=6"]
    result = soup("?.safetensors", "-o", "out.safetensors", *more)
    *_, best, everyone = result.stderr.splitlines()
    assert best.startswith("[8] 0  1.safetensors + 2.safetensors + ")
    assert everyone == "[9] -1  7 members"


def test_json_holds_the_same_facts(soup: Soup, tmp_path: Path) -> None:
    names = [path.name for path in six(tmp_path)]
    found = json.loads(soup(*names, "-o", "out.safetensors", "--json").stdout)
    assert re.fullmatch("xxh3-128:[0-9a-f]{32}", found.pop("digest"))
    assert found == {
        "out": "out.safetensors",
        "members": [
            {
                "member": name,
                "score": score,
                "weight": 0.2 if name[0] != "e" else 0,
                "step": None,
                "state_dict": None,
                "notes": [],
            }
            for name, score in zip(names, [-4, -4, -7, -1, -2, -3], strict=True)
        ],
        "base": None,
        "soup": {
            "score": 0,
            "members": [f"{letter}.safetensors" for letter in "abfcd"],
            "weights": [1] * 5,
            "rule": "mean",
            "params": {},
        },
        "rules": [
            {
                "rule": "mean",
                "params": {},
                "members": [f"{letter}.safetensors" for letter in "cdabf"],
                "weights": [0.2] * 5,
                "score": 0,
                "scored": 5,
            }
        ],
        "uniform": -1,
        "best": {"member": "a.safetensors", "score": -1},
        "beats_best": True,
        "lower_is_better": False,
        "score_line": "step 1000, in 3s: score -4",
        "left_out": [],
        "notes": [],
        "scored": 11,
        "reused": 0,
        "journal": "out.safetensors.journal.jsonl",
        "average": EXPECTED.splitlines()[-1].partition("file: ")[2],
    }


def test_what_is_known_is_not_scored_again(soup: Soup, tmp_path: Path) -> None:
    six(tmp_path)
    soup("?.safetensors", "-o", "out.safetensors")
    before, content = counted(), Path("out.safetensors").read_bytes()
    result = soup("?.safetensors", "-o", "out.safetensors", "--force")
    assert result.stderr == "11 scores are taken from out.safetensors.journal.jsonl\n"
    assert counted() == before
    assert Path("out.safetensors").read_bytes() == content
    # Another text of the command stands for another score.
    again = soup("?.safetensors", "-o", "out.safetensors", "--force", score=SCORE + " ")
    assert len(again.stderr.splitlines()) == 12
    assert counted() == before * 2
    # A member that changed is another member.
    made(tmp_path, "f.safetensors", 1)
    result = soup("?.safetensors", "-o", "out.safetensors", "--force")
    assert "taken from" in result.stderr
    assert counted()[22:].count(1) == 1
    assert 3 not in counted()[22:]


def test_two_at_once_are_refused(soup: Soup, tmp_path: Path) -> None:
    six(tmp_path)
    with Journal("out.safetensors.journal.jsonl", "another"):
        result = soup("?.safetensors", "-o", "out.safetensors")
    assert result.exit_code == 1
    assert result.stderr == (
        "error: out.safetensors.journal.jsonl is in use by another run; wait until "
        "that has ended, or choose another output\n"
    )


@pytest.mark.parametrize(
    ("arguments", "weights"),
    [
        (["--lower-is-better"], {"e": 1}),
        (["--select", "best"], {"a": 1}),
        (["--select", "top-k", "--select-param", "k=2"], {"a": 0.5, "b": 0.5}),
        (
            ["--select", "greedy", "--select-param", "n_rounds=2"],
            {"a": 0.5, "b": 0.5},
        ),
        (["--select", "optuna", "--select-param", "n_trials=1"], {"a": 1}),
        (["--select", "greedy_soup", "--threads", "1", "--memory", "8MiB"], None),
    ],
    ids=str,
)
def test_options_reach_the_library(
    soup: Soup, tmp_path: Path, arguments: list[str], weights: dict[str, float] | None
) -> None:
    six(tmp_path)
    result = soup("?.safetensors", "-o", "out.safetensors", *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)["members"]
    expected = dict.fromkeys("abcdf", 0.2) if weights is None else weights
    assert {m["member"][0]: m["weight"] for m in found if m["weight"]} == expected


def test_options_of_the_means_are_part_of_the_line_and_of_the_scores(
    soup: Soup, tmp_path: Path
) -> None:
    for name, number in (("a", 3), ("b", 6)):
        tensors = {
            "w": np.full(3, number, np.float32),
            "z": np.array([number], np.int8),
        }
        save(tmp_path / f"{name}.safetensors", tensors)
    words = ["[ab].safetensors", "-o", "out.safetensors", "--force", "--integers"]
    line = soup(*words, "max").stdout.splitlines()[-1]
    assert line.endswith("b.safetensors --integers max -o out.safetensors")
    # Members score what they did, a mean by another rule is another.
    assert len(soup(*words, "max").stderr.splitlines()) == 1
    assert soup(*words, "first").stderr.splitlines() == [
        "2 scores are taken from out.safetensors.journal.jsonl",
        "score 0 is read from: step 1000, in 3s: score 0",
        "[3] 0  a.safetensors + b.safetensors",
    ]
    assert "pass integers='first' (--integers first) to take" in (
        soup("[ab].safetensors", "-o", "o.safetensors").stderr
    )


def test_parameters_go_to_the_rule_and_the_selection(
    soup: Soup, tmp_path: Path
) -> None:
    six(tmp_path)
    more = ["--select", "top-k", "--rule", "power_mean"]
    more += ["--param", "p=3", "--select-param", "k=2"]
    result = soup("[abcdf].safetensors", "-o", "out.safetensors", *more)
    assert result.exit_code == 0, result.stderr
    line = result.stdout.splitlines()[-1].partition("file: ensemble ")[2]
    assert "b.safetensors:0.5 --rule power_mean --param p=3 -o" in line
    words = [*shlex.split(line)[:-1], "again.safetensors"]
    assert CliRunner().invoke(cli, words).exit_code == 0
    assert tree(Path("out.safetensors")) == tree(Path("again.safetensors"))
    assert value(Path("out.safetensors")) == pytest.approx(((27 + 216) / 2) ** (1 / 3))
    # Members score the same with another parameter of the rule, combinations do not.
    more[-3] = "p=2"
    result = soup("[abcdf].safetensors", "-o", "o.safetensors", *more, "--force")
    assert "[6]" in result.stderr


def test_rule_and_selection_may_have_parameters_of_one_name(
    soup: Soup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kth_entry(stack: Any, weights: Any, *, k: int = 0) -> Any:
        return stack[k]

    six(tmp_path)
    monkeypatch.setitem(RULES, "kth_entry", Rule(kth_entry))
    more = ["--select", "top-k", "--select-param", "k=2"]
    more += ["--rule", "kth_entry", "--param", "k=1", "-o", "out.safetensors"]
    result = soup("[ab].safetensors", *more)
    assert result.exit_code == 0, result.stderr
    assert value(Path("out.safetensors")) == value(Path("b.safetensors"))


def test_wise_ft_takes_a_base(soup: Soup, tmp_path: Path) -> None:
    for name, number in (("a", 8), ("b", 12), ("start", 0)):
        made(tmp_path, f"{name}.safetensors", number)
    words = ["[ab].safetensors", "-o", "out.safetensors", "--base", "start.safetensors"]
    result = soup(*words, "--select", "wise-ft", score=SCORE)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith(
        "in\tmember\tscore\tweight\n*\tstart.safetensors\t-4\t0.6\n"
    )
    assert "0.6 start.safetensors + 0.2 a.safetensors" in result.stderr
    line = result.stdout.splitlines()[-1].partition("file: ensemble ")[2]
    assert "start.safetensors:0.6 a.safetensors:0.2" in line
    words = [*shlex.split(line)[:-1], "again.safetensors"]
    assert CliRunner().invoke(cli, words).exit_code == 0
    assert tree(Path("out.safetensors")) == tree(Path("again.safetensors"))


def test_a_soup_that_does_not_help_says_so(soup: Soup, tmp_path: Path) -> None:
    for name, number in (("a", 4), ("b", 12)):
        made(tmp_path, f"{name}.safetensors", number)
    result = soup("[ab].safetensors", "-o", "out.safetensors")
    assert "No other combination beat a.safetensors: the output is that" in (
        result.stdout
    )
    more = ["-o", "o.safetensors", "--select", "top-k", "--select-param", "k=2"]
    assert (
        "The soup does not beat a.safetensors alone, -4 against 0: use that member (on"
        in (soup("[ab].safetensors", *more).stdout)
    )


def test_a_soup_that_scores_as_the_best_member_leaves_the_choice(
    soup: Soup, tmp_path: Path
) -> None:
    for name, number in (("a", 3), ("b", 7)):
        made(tmp_path, f"{name}.safetensors", number)
    result = soup("[ab].safetensors", "-o", "out.safetensors")
    assert (
        "The soup and a.safetensors alone both score -1: use either (on the data of"
        in (result.stdout)
    )


def test_all_members_may_do_better_than_what_was_chosen(
    soup: Soup, tmp_path: Path
) -> None:
    for name, number in (("a", 2), ("b", 7)):
        made(tmp_path, f"{name}.safetensors", number)
    result = soup("[ab].safetensors", "-o", "out.safetensors", "--select", "best")
    assert (
        "is that member alone; the uniform soup scores better (on the data of"
        in result.stdout
    )


FAULTS = [
    ("fail", "ended with exit status 1; its last lines:\n  no memory\n  at 4.5\n"),
    ("hang", "was killed after 3 seconds; its last lines:\n  waiting\n"),
    ("nothing", "printed no number; its last lines:\n  done\n"),
    ("nan", "printed nan, which is not finite, in 'accuracy: nan'; its last lines:"),
]


@pytest.mark.parametrize(("kind", "words"), FAULTS)
def test_a_score_that_fails_ends_the_run(
    soup: Soup, tmp_path: Path, kind: str, words: str
) -> None:
    six(tmp_path)
    faults(**{kind: 4.5})
    more = ["--timeout", "3"] if kind == "hang" else []
    result = soup("?.safetensors", "-o", "out.safetensors", *more)
    assert result.exit_code == 1
    assert "Traceback" not in result.stderr
    *_, kept, error = result.stderr.partition("6 scores are kept in ")
    assert kept
    assert error.startswith(
        "out.safetensors.journal.jsonl; run the same command again to continue\nerror: "
    )
    assert f"candidate.safetensors {words}" in error
    assert error.endswith(
        "the failed score was that of a.safetensors + b.safetensors; pass "
        "on_error='drop' (--on-error drop) to continue without it\n"
    )
    assert left() == {"out.safetensors.journal.jsonl"}
    free_within(5)


def free_within(seconds: float) -> None:
    """All that the command had started has ended: nobody holds its lock."""
    with open("lock", "w") as lock:
        deadline = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                assert time.monotonic() < deadline, "the command goes on"
                time.sleep(0.01)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("kind", "words"), FAULTS)
def test_a_score_that_fails_may_be_skipped(
    soup: Soup, tmp_path: Path, kind: str, words: str
) -> None:
    six(tmp_path)
    faults(**{kind: 4.5})
    more = ["--timeout", "3"] if kind == "hang" else []
    result = soup("?.safetensors", "-o", "out.safetensors", "--on-error", "drop", *more)
    assert result.exit_code == 0, result.stderr
    assert "[7] failed  a.safetensors + b.safetensors\nwarning: " in result.stderr
    assert f"candidate.safetensors {words}" in result.stderr
    # a is 3, and f is 1: without b nothing helps it but c, which makes 5.5.
    faults(**{kind: 8})
    result = soup("?.safetensors", "-o", "o.safetensors", "--on-error", "drop", *more)
    assert "warning: c.safetensors is left out because scoring it failed: " in (
        result.stderr
    )
    assert "\tc.safetensors\tfailed\t\n" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["a.safetensors", "b.safetensors", "--score", "python eval.py"],
            2,
            "must contain {}",
        ),
        (["a.safetensors"], 1, "at least two members, found a.safetensors"),
        (
            ["?.safetensors", "--select-param", "n_trials=3"],
            1,
            "selection 'greedy_soup' has no parameter 'n_trials' (known: none); it",
        ),
        (["?.safetensors", "--rule", "maen"], 1, "unknown rule 'maen'; did you mean"),
        (["?.safetensors", "--select", "uniform"], 1, "average all members"),
        (["?.safetensors", "--select", "gredy"], 1, "did you mean 'greedy'?"),
        (
            ["?.safetensors", "--select", "wise-ft"],
            1,
            "error: selection 'wise_ft' needs the checkpoint that the members were "
            "fine-tuned from; pass base=PATH (--base PATH)\n",
        ),
        (
            ["?.safetensors", "--base", "b.pt", "--select", "top-k"],
            1,
            "error: base=PATH (--base PATH) can be used with selection 'wise_ft' or a "
            "rule that needs a base only, found the base b.pt, selection 'top_k' and "
            "rule 'mean'; leave the base out, or choose such a selection or rule\n",
        ),
        (
            [
                *("?.safetensors", "--select", "top-k"),
                *("--select-param", "k=2", "--select-param", "k=3"),
            ],
            2,
            "each parameter must be given once, found k=2 and k=3",
        ),
        (
            ["?.safetensors", "--select-param", "n_rounds=true", "--select", "greedy"],
            1,
            "n_rounds must be an integer, found True",
        ),
        (["?.safetensors", "--param", "k=1"], 1, "'mean' has no parameter 'k'"),
        (
            ["?.safetensors", "--select", "greedy", "--select-param", "n_rounds=abc"],
            1,
            "error: parameters of selection 'greedy' must have the right types: "
            "n_rounds must be an integer, found 'abc'\n",
        ),
        (
            [
                "[ab].safetensors",
                "--base",
                "c.safetensors",
                "--select",
                "wise-ft",
                "--select-param",
                "alphas=0.3",
            ],
            1,
            "numbers from 0 to 1, such as alphas=[0.3]; found 0.3\n",
        ),
        (["?.safetensors", "--timeout", "0"], 2, "0.0 is not in the range x>0"),
        (["*.pt"], 1, "no checkpoint matches '*.pt'"),
        (["a.safetensors", "a.safetensors"], 1, "must be different"),
        (
            ["?.safetensors", "-o", "no/out.pt"],
            1,
            "the folder of the output must exist: create no",
        ),
    ],
    ids=str,
)
def test_wrong_input_is_told_and_nothing_scored(
    soup: Soup, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    six(tmp_path)
    result = soup("-o", "out.safetensors", *arguments)
    assert result.exit_code == code
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert left() == set()
    assert not Path("count").exists()


def test_an_output_inside_a_member_is_reported(soup: Soup, tmp_path: Path) -> None:
    six(tmp_path, "")
    before = tree(tmp_path)
    result = soup("?", "-o", "a/soup")
    assert result.exit_code == 1
    assert "error: a/soup is inside the member a, which must not change" in (
        result.stderr
    )
    assert tree(tmp_path) == before


def test_a_folder_that_cannot_be_written_to_is_reported(
    soup: Soup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    six(tmp_path)
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    if os.access(locked, os.W_OK):  # root writes everywhere
        usual = os.access
        monkeypatch.setattr(
            os, "access", lambda path, mode: Path(path) != locked and usual(path, mode)
        )
    result = soup("?.safetensors", "-o", locked / "out.safetensors")
    assert result.exit_code == 1
    assert f"{locked} is not writable; choose another folder" in result.stderr
    assert list(locked.iterdir()) == []
    assert not Path("count").exists()


def test_paths_are_quoted_for_the_shell(soup: Soup, tmp_path: Path) -> None:
    for name, number in (("a b;c", 3), ("it's $HOME", 1)):
        made(tmp_path, f"{name}.safetensors", number)
    result = soup("*.safetensors", "-o", "the out.safetensors")
    assert result.exit_code == 0, result.stderr
    assert "'a b;c.safetensors'" in result.stdout


def test_members_are_told_apart_by_their_folders(soup: Soup, tmp_path: Path) -> None:
    for run, number in ((1, 3), (2, 6)):
        (tmp_path / f"runs/{run}").mkdir(parents=True)
        made(tmp_path, f"runs/{run}/model.safetensors", number)
    result = soup("runs/*/model.safetensors", "-o", "out.safetensors")
    assert result.stderr.splitlines()[2:] == [
        "[2] -2  2/model.safetensors",
        "[3] 0  1/model.safetensors + 2/model.safetensors",
    ]


@pytest.mark.parametrize(
    ("printed", "score"),
    [
        ("0.5", 0.5),
        ("93.1%", 93.1),
        ("loss: 1.5e-3.", 0.0015),
        ("-.5", -0.5),
        ("+2", 2),
        ("{'f1': 0.5}", 0.5),
        ("\x1b[32m0.5\x1b[0m", 0.5),
        ("epoch,loss\nresnet50,0.25", 0.25),
        ("f1:0.87", 0.87),
        ("val/acc=0.87", 0.87),
        ("/tmp/run3/candidate.pt: 0.87", 0.87),
    ],
)
def test_the_number_that_is_printed_is_the_score(
    tmp_path: Path, printed: str, score: float
) -> None:
    (tmp_path / "printed").write_text(printed)
    assert ScoringCommand("cat {}")(tmp_path / "printed") == score


@pytest.mark.parametrize(
    "printed",
    [
        "epoch 3: acc=0.25\nacc=0.75",
        "0.5 in 12s on 2024-01-01 by v1.2.3 of resnet50",
        "1,234.5",
        "loss -1,234,567",
        "\u22120.5",
        "5e\u22121",
        "\u20130.5",
        "\uff0d0.5",
        "tensor(0.8712, device='cuda:0')",
        "0.87 done at 15:42:24",
        "0.87\ndone 2024-01-02 10:00:00.123456+00:00",
        "0.87\n2024-01-02T10:00:00+00:00",
        "0.87 at 127.0.0.1:8080 and localhost:6006",
        "0.87\n[2024-01-01 12:00:00,123] done, at 2024-01-01T12:30",
        "0.87\n[00:01<00:00, 9.1it/s]",
        "0.87 at https://wandb.ai/run/123?step=3 and ./runs/3, /tmp/1/",
        "0.87 in runs/lr=0.5/model.pt, R^2",
        f"0.87 {'1' * 20_000}x {'1,' * 20_000}1x",
    ],
)
def test_a_number_beside_others_is_not_taken_for_the_score(
    tmp_path: Path, printed: str
) -> None:
    (tmp_path / "printed").write_text(printed)
    with pytest.raises(ValueError, match="print the score alone in the last line, or"):
        ScoringCommand("cat {}")(tmp_path / "printed")


@pytest.mark.parametrize("before", ["", "0.25\n"])
@pytest.mark.parametrize(
    "printed",
    [
        "0,95",
        "(1,2)",
        "1,234",  # 1.234, where a comma stands for the point
        "0,123.4",
        "12,34.5",
        "1.234,5",
        "1'234.5",
        "1\u202f234.5",
        "1.5*10^-3",
        "1.5\u00d710\u207b\u00b3",
        "acc 0.5 \u00b1 0.1",
        "93.1%\u00b10.2%",
        "0.5 +/- 0.1",
        "0.5+-0.1",
        "1_234",
        "\u2248 0.5s",
    ],
)
def test_a_number_that_may_be_read_in_two_ways_is_no_score(
    tmp_path: Path, printed: str, before: str
) -> None:
    (tmp_path / "printed").write_text(f"{before}{printed}\n")
    with pytest.raises(ValueError, match="print the score alone in the last") as caught:
        ScoringCommand("cat {}")(tmp_path / "printed")
    assert printed in str(caught.value)


@pytest.mark.parametrize("printed", ["inf", "score: -Infinity", "NaN"])
def test_a_number_that_is_not_finite_is_no_score(tmp_path: Path, printed: str) -> None:
    (tmp_path / "printed").write_text(f"0.5\n{printed}")
    with pytest.raises(
        ValueError, match=rf"printed -?(inf|nan), which is.*'{printed}'"
    ):
        ScoringCommand("cat {}")(tmp_path / "printed")


@pytest.mark.parametrize("quoted", ['"{}"', "'{}'", "--path='{}'", '"{}/eval"'])
def test_a_path_in_quotes_of_the_user_s_own_is_refused(quoted: str) -> None:
    with pytest.raises(click.UsageError, match=r"must contain \{\} without qu") as e:
        ScoringCommand(f"python eval.py {quoted}")
    assert f"found {quoted.removeprefix('--path=')[:4]}; remove" in str(e.value)


@pytest.mark.parametrize("text", ['bash -c "echo 2 {}"', "echo '{' {} 2", "echo a'{}2"])
def test_quotes_elsewhere_are_left_alone(text: str) -> None:
    assert ScoringCommand(text).text == text


@pytest.mark.parametrize("text", ['m "x={}"', "m '{}.x'", 'm "{} "', "sh -c 'm {}'"])
def test_quotes_around_more_than_a_path_are_refused_where_it_needs_some(
    tmp_path: Path, text: str
) -> None:
    score = ScoringCommand(f"echo 1 || {text}; true")
    assert score(tmp_path / "a") == 1
    with pytest.raises(
        ValueError, match=r"must contain \{\} without quotes, found .m?"
    ):
        score(tmp_path / "a b")


@pytest.mark.parametrize(
    "text", ["wc -c < {}", "echo \"'$(wc -c < {})'\"", "echo \\'; wc -c < {} #'"]
)
def test_quotes_that_do_not_hold_the_path_are_left_alone(
    tmp_path: Path, text: str
) -> None:
    (tmp_path / "a b").write_text("12345")
    assert ScoringCommand(text)(tmp_path / "a b") == 5


def test_a_command_may_go_to_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a").write_text("0.5")
    assert ScoringCommand("cd / && cat {}")(Path("a")) == 0.5


def test_a_path_through_a_link_is_left_as_it_is(soup: Soup, tmp_path: Path) -> None:
    (tmp_path / "far" / "runs").mkdir(parents=True)
    six(tmp_path / "far")
    (tmp_path / "link").symlink_to(tmp_path / "far" / "runs")
    result = soup("link/../?.safetensors", "-o", "out.safetensors")
    assert result.exit_code == 0, result.stderr
    assert len(counted()) == 11


def test_a_number_whose_start_is_out_of_sight_is_none(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("12345.5" + " " * (TAIL - 3))
    with pytest.raises(ValueError, match="printed no number"):
        ScoringCommand("cat {}")(tmp_path / "a")


def test_what_was_printed_is_shown_in_part(tmp_path: Path) -> None:
    for printed in ("x" * 900_000, "1," * 400_000 + "1", "1" * 900_000):
        (tmp_path / "a").write_text(printed)
        with pytest.raises(ValueError, match="printed ") as caught:
            ScoringCommand("cat {}")(tmp_path / "a")
        assert len(str(caught.value)) < 900


@pytest.mark.filterwarnings("default")
def test_what_a_command_says_is_told_in_its_own_words(
    soup: Soup, tmp_path: Path
) -> None:
    six(tmp_path)
    words = "ValueError: kind=True weights=None, force=True errors='strict'"

    def fails_at(pattern: str) -> str:
        return f'{SCORE}; case {{}} in {pattern}) echo "{words}" >&2; exit 3; esac'

    out = ["-o", "out.safetensors"]
    result = soup("?.safetensors", *out, score=fails_at("*/c.*"))
    assert f"its last lines:\n  {words}\n" in result.stderr
    line = fails_at("*/c.*").replace("{}", str(tmp_path / "c.safetensors"))
    assert f"error: {line} ended with exit status 3" in result.stderr
    assert result.stderr.endswith(
        "c.safetensors; pass on_error='drop' (--on-error drop) to continue without it\n"
    )
    for pattern, n_failed in (("*/[cd].*", 2), ("*candidate.*", 6)):
        more = [*out, "--on-error", "drop", "--force"]
        result = soup("?.safetensors", *more, score=fails_at(pattern))
        assert result.stderr.count(f"its last lines:\n  {words}\n") == n_failed


def test_a_command_that_is_killed_says_by_what(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ended with signal SIGKILL$"):
        ScoringCommand("kill -9 $$ {}")(tmp_path)


def test_what_a_command_leaves_behind_is_not_waited_for(tmp_path: Path) -> None:
    started = time.monotonic()
    assert ScoringCommand("sleep 10 & echo {} 2")(tmp_path / "3") == 2
    assert time.monotonic() - started < 8


def started(
    suffix: str = ".safetensors",
    score: str = SCORE,
    deaf: signal.Signals | None = None,
) -> subprocess.Popen[bytes]:
    def prepare() -> None:
        # What runs in the background of a shell is deaf to it, and so are its children.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if deaf is not None:
            signal.signal(deaf, signal.SIG_IGN)

    words = [sys.executable, "-m", "ensembles_cli", "soup", f"?{suffix}"]
    return subprocess.Popen(
        [*words, "--score", score, "-o", f"out{suffix}"],
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'cli'}"},
        stderr=subprocess.PIPE,
        preexec_fn=prepare,
    )


def wait_until_it_hangs(run: subprocess.Popen[Any]) -> None:
    while run.poll() is None:
        with open("lock", "a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
        time.sleep(0.01)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.usefixtures("soup")
def test_a_run_that_is_ended_from_outside_ends_what_it_started(
    tmp_path: Path, sent: signal.Signals
) -> None:
    six(tmp_path)
    faults(hang=10 / 3)
    run = started()
    wait_until_it_hangs(run)
    assert any("tmp" in name for name in left())
    run.send_signal(sent)
    _, words = run.communicate(timeout=20)
    assert run.returncode == 128 + sent
    assert b"Traceback" not in words
    assert b"7 scores are kept in out.safetensors.journal.jsonl" in words
    assert left() == {"out.safetensors.journal.jsonl"}
    free_within(5)


@pytest.mark.usefixtures("soup")
def test_a_run_that_is_deaf_to_a_signal_goes_on(tmp_path: Path) -> None:
    six(tmp_path)
    faults(hang=4.5)
    run = started(score=f"{SCORE} & echo $! > lock.pid; wait", deaf=signal.SIGHUP)
    wait_until_it_hangs(run)
    run.send_signal(signal.SIGHUP)
    time.sleep(0.2)
    assert run.poll() is None
    # The command is as deaf to it as it was when it was called.
    pid = Path("lock.pid").read_text().strip()
    ignored = re.search(r"SigIgn:\s+(\w+)", Path(f"/proc/{pid}/status").read_text())
    assert ignored
    assert int(ignored[1], 16) & 1
    run.send_signal(signal.SIGTERM)
    run.communicate(timeout=20)
    assert run.returncode == 128 + signal.SIGTERM


@pytest.mark.parametrize("at", [3, 4.5, 10 / 3])
def test_a_run_that_is_killed_goes_on_to_the_same_soup(
    soup: Soup, tmp_path: Path, at: float
) -> None:
    six(tmp_path)
    soup("?.safetensors", "-o", "whole.safetensors")
    uninterrupted = counted()
    Path("count").unlink()
    faults(hang=at)
    run = started()
    wait_until_it_hangs(run)
    run.kill()
    run.communicate()
    os.killpg(int(Path("group").read_text()), signal.SIGKILL)  # nobody else does
    free_within(5)
    n_before = len(counted()) - 1
    Path("faults").unlink()
    result = soup("?.safetensors", "-o", "out.safetensors")
    assert result.exit_code == 0, result.stderr
    assert result.stderr.startswith(
        f"{n_before} scores are taken" if n_before > 1 else "score -1 is read"
    )
    found = counted()
    assert found[n_before] == found[n_before + 1]
    assert found[: n_before + 1] + found[n_before + 2 :] == uninterrupted
    assert Path("out.safetensors").read_bytes() == (
        Path("whole.safetensors").read_bytes()
    )
    assert {name for name in left() if "tmp" in name} == set()


@pytest.mark.parametrize("pattern", ["*/", "*"])
def test_what_a_killed_run_left_is_no_member_of_the_next(
    soup: Soup, tmp_path: Path, pattern: str
) -> None:
    for name in "ab":
        made(tmp_path / "runs", name, VALUES[name])
    dead = Path("runs") / f"{atomic_io._marked(Path('out'))}{0:032x}" / "candidate"
    made(dead.parent, dead.name, 0)
    score = SCORE.replace("eval.py", str(tmp_path / "eval.py"))
    result = soup(f"runs/{pattern}", "-o", "runs/out", score=score)
    assert result.exit_code == 0, result.stderr
    assert counted() == [VALUES["a"], VALUES["b"], 4.5]
    assert not dead.exists()


@pytest.mark.parametrize("at", [-3, 4.5])
def test_a_command_may_leave_its_results_in_a_member(
    soup: Soup, tmp_path: Path, at: float
) -> None:
    six(tmp_path, "")
    score = f"{SCORE} && date +%N > {{}}/eval_results.json"
    result = soup("?", "-o", "whole", score=score)
    assert result.exit_code == 0, result.stderr
    assert Path("a/eval_results.json").exists()
    # It was not there when the run began.
    assert not Path("whole/eval_results.json").exists()
    for name in VALUES:
        Path(name, "eval_results.json").unlink()
    Path("count").unlink()
    faults(hang=at)
    run = started("", score)
    wait_until_it_hangs(run)
    run.kill()
    run.communicate()
    os.killpg(int(Path("group").read_text()), signal.SIGKILL)
    free_within(5)
    n_before = len(counted()) - 1
    Path("faults").unlink()
    result = soup("?", "-o", "out", score=score)
    assert result.exit_code == 0, result.stderr
    assert result.stderr.startswith(f"{n_before} scores are taken from")
    assert len(counted()) == 11 + 1
    assert Path("out/model.safetensors").read_bytes() == (
        Path("whole/model.safetensors").read_bytes()
    )
    result = soup("?", "-o", "out", "--force", score=score)
    assert result.stderr == "11 scores are taken from out.journal.jsonl\n"


def test_a_name_of_a_member_runs_no_command(soup: Soup, tmp_path: Path) -> None:
    for name, number in (("x$(touch PWNED)a", 3), ("`touch PWNED`;touch PWNED", 6)):
        made(tmp_path, f"{name}.safetensors", number)
    quoted = [
        f'echo "$(date) file {{}}" > log; {SCORE}',
        f"cat > log <<EOF\n{{}}\nEOF\n{SCORE}",
        f'bash -c "echo {{}}" > log; {SCORE}',
    ]
    Path("to").mkdir()
    for score in quoted:
        result = soup("*.safetensors", "-o", "to/out.safetensors", score=score)
        assert "must contain {} without quotes" in result.stderr
        assert result.exit_code == 1
    for score in (SCORE, f'echo "$(cat {{}} | wc -c)" > log; {SCORE}'):
        result = soup(
            "*.safetensors", "-o", "to/out.safetensors", "--force", score=score
        )
        assert result.exit_code == 0, result.stderr
    assert not Path("PWNED").exists()


LAUNCHER = """
import os, signal, subprocess, sys, time
# As torchrun: a worker in a session of its own, ended when the launcher is asked to.
worker = subprocess.Popen([sys.executable, "-c", WORKER], start_new_session=True)
if sys.argv[1] == "gone":
    sys.exit(os.kill(os.getppid(), signal.SIGSTOP))
time.sleep(60)
"""
WORKER = """
import fcntl, signal, sys, time
from pathlib import Path
if Path("deaf").exists():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
lock = open("lock", "w")
fcntl.flock(lock, fcntl.LOCK_EX)
Path("begun").touch()
time.sleep(60)
"""


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
@pytest.mark.parametrize("deaf", [False, True])
@pytest.mark.parametrize("launcher", ["waits", "gone"])
def test_workers_in_sessions_of_their_own_end_with_their_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deaf: bool, launcher: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shell, "GRACE", 0.5)
    (tmp_path / "launch.py").write_text(f"WORKER = {WORKER!r}\n{LAUNCHER}")
    if deaf:
        Path("deaf").touch()
    line = f"{shlex.quote(sys.executable)} -I -S launch.py {launcher}; echo {{}} 1"
    with pytest.raises(ValueError, match="was killed after 3 seconds"):
        ScoringCommand(line, timeout=3)(tmp_path / "a")
    assert Path("begun").exists()
    free_within(5)


def test_a_command_is_asked_to_end_before_it_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    line = "trap 'touch asked; exit' TERM; while :; do sleep .05; done; echo {}"
    with pytest.raises(ValueError, match="was killed after 1 seconds"):
        ScoringCommand(line, timeout=1)(tmp_path / "a")
    assert Path("asked").exists()


def test_the_program_of_a_command_is_part_of_its_scores(
    soup: Soup, tmp_path: Path
) -> None:
    six(tmp_path)
    soup("?.safetensors", "-o", "out.safetensors")
    (tmp_path / "eval.py").write_text(f"{EVAL}\n# another program\n")
    result = soup("?.safetensors", "-o", "out.safetensors", "--force")
    lines = result.stderr.splitlines()
    assert lines[0] == (
        "11 scores are not taken from out.safetensors.journal.jsonl because eval.py "
        "changed"
    )
    assert len(counted()) == 22


def test_a_key_names_the_score_and_its_line_is_reported(
    soup: Soup, tmp_path: Path
) -> None:
    six(tmp_path)
    score = f"{SCORE}; echo 'loss: 1'; echo 'elapsed 3'"
    result = soup("?.safetensors", "-o", "out.safetensors", score=score)
    assert "1 of them in the line 'elapsed 3'" in result.stderr
    more = ["--score-key", "score", "--json"]
    result = soup("?.safetensors", "-o", "out.safetensors", *more, score=score)
    assert result.exit_code == 0, result.stderr
    line = "step 1000, in 3s: score -1"
    assert f"score -1 is read from: {line}\n" in result.stderr
    assert json.loads(result.stdout)["score_line"] == line


@pytest.mark.parametrize(
    ("score", "more", "is_warned"),
    [
        ("echo loss: 1.5 {} >&2; echo loss: 1.5", [], True),
        ("echo loss: 1.5; : {}", ["--lower-is-better"], False),
        ("echo acc: 1.5; : {}", [], False),
    ],
)
@pytest.mark.filterwarnings("ignore:all members have exactly the same score")
def test_a_loss_without_its_direction_is_warned_of(
    soup: Soup, tmp_path: Path, score: str, more: list[str], is_warned: bool
) -> None:
    six(tmp_path)
    result = soup("[ab].safetensors", "-o", "out.safetensors", *more, score=score)
    assert result.exit_code == 0, result.stderr
    assert ("pass --lower-is-better if lower is better" in result.stderr) is is_warned


def test_the_last_checkpoints_of_a_run_are_members(soup: Soup, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for step in (100, 200, 300, 1000):
        made(tmp_path / "run", f"step-{step}.safetensors", step / 100)
    made(tmp_path / "run", "best.safetensors", 4)
    result = soup("run", "--last", 3, "-o", "out.safetensors", "--json")
    found = json.loads(result.stdout)["members"]
    assert [member["step"] for member in found] == [200, 300, 1000]
    result = soup("run", "--last", 3, "-o", "out.safetensors", "--force")
    assert result.stdout.startswith("in\tmember\tscore\tweight\tstep\n")


@pytest.mark.filterwarnings("ignore:all members have exactly the same score")
@pytest.mark.filterwarnings("ignore:.* has its tensors under the key 'state_dict'")
def test_a_state_dict_that_was_chosen_is_reported(soup: Soup, tmp_path: Path) -> None:
    for name, number in (("a", 3), ("b", 6)):
        state = {"w": torch.full((2,), float(number))}
        torch.save({"state_dict": state, "epoch": 3}, tmp_path / f"{name}.ckpt")
    result = soup(
        "*.ckpt", "-o", "o.safetensors", "--json", score="wc -c < {} >&2; echo acc 1"
    )
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    known = [open_checkpoint(f"{name}.ckpt", 0).state_dict for name in "ab"]
    assert [member["state_dict"] for member in found["members"]] == known


def test_parts_may_be_left_out_of_a_soup(soup: Soup, tmp_path: Path) -> None:
    for name, number, n_classes in (("a", 3, 2), ("b", 6, 5)):
        w = np.full(2, number, np.float32)
        save(tmp_path / f"{name}.safetensors", {"a.w": w, "head": np.ones(n_classes)})
    wrong = soup("[ab].safetensors", "-o", "out.safetensors")
    assert "checkpoints differ at tensor 'head'" in wrong.stderr
    result = soup("[ab].safetensors", "-o", "out.safetensors", "--exclude", "head")
    assert result.exit_code == 0, result.stderr
    assert "note: 1 tensors are left out: head" in result.stderr
    assert "--exclude head -o out.safetensors" in result.stdout
