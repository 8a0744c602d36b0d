"""Processes that write an output together are killed, and started again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ensembles.checkpoints import average
from tests.checkpoints.building import save, save_shards
from tests.checkpoints.merging.torchrun import tree
from tests.conftest import ROOT

N_RANDOM = int(os.environ.get("ENSEMBLES_KILLS", "3"))  # 20 by hand
N_RANKS = 4
KILLED = -signal.SIGKILL


class Ranks:
    """Four processes over one output, started again and again."""

    def __init__(self, folder: Path) -> None:
        rng = np.random.default_rng(0)
        self.folder = folder
        self.out = folder / "out"
        for name in "ab":
            tensors = [
                {f"t{i}": rng.normal(size=size).astype(np.float32)}
                for i, size in enumerate([150_000, 120_000, 1, 90_000, 50_000, 9])
            ]
            path = save_shards(folder / "members" / name, tensors)
            (path / "config.json").write_text(json.dumps({"from": name}))
        self.members = [str(folder / "members" / name) for name in "ab"]
        average(self.members, self.out)
        self.complete = tree(self.out)
        command = [sys.executable, str(Path(__file__).with_name("ranks.py"))]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"PYTHONPATH": str(ROOT)},
            text=True,
        )

    def run(self, *, force: bool, **order: Any) -> dict[str, Any]:
        order.setdefault("ranks", list(range(N_RANKS)))
        order["job"] = {
            "members": self.members,
            "out": str(self.out),
            "world_size": N_RANKS,
            "force": force,
        }
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        assert isinstance(answer, dict)
        return answer

    def prepare(self, *, force: bool) -> Any:
        """Put nothing, or an old result, at the output."""
        for path in [self.out, *self.folder.glob(".*")]:
            if path.exists():
                shutil.rmtree(path)
        if force:
            save(self.out / "model.safetensors", {"old": np.ones(9)})
        return tree(self.out)

    def check(self, old: Any, *, force: bool) -> None:
        """The output is old or complete; the same ranks, started again, complete it."""
        assert tree(self.out) in (old, self.complete)
        assert self.run(force=force)["codes"] == [0] * N_RANKS
        assert tree(self.out) == self.complete
        (work_folder,) = self.folder.glob(".*")
        assert {path.suffix for path in work_folder.iterdir()} == {".json"}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    ranks = Ranks(tmp_path_factory.mktemp("ranks"))
    yield ranks
    assert ranks.process.stdin
    assert ranks.process.stdout
    ranks.process.stdin.close()
    ranks.process.wait(10)
    ranks.process.stdout.close()


@pytest.mark.parametrize("force", [False, True], ids=["new", "over an old result"])
def test_a_rank_killed_at_any_moment_can_be_started_again(
    ranks: Ranks, force: bool, rng: np.random.Generator
) -> None:
    ranks.prepare(force=force)
    answer = ranks.run(force=force)
    assert answer["codes"] == [0] * N_RANKS
    assert tree(ranks.out) == ranks.complete
    for _ in range(N_RANDOM):
        old = ranks.prepare(force=force)
        delay = float(rng.uniform(0, answer["seconds"]))
        victim = int(rng.integers(N_RANKS))
        codes = ranks.run(force=force, delay=delay, victim=victim)["codes"]
        assert codes[victim] in (0, KILLED)
        assert {*codes[:victim], *codes[victim + 1 :]} == {0}
        ranks.check(old, force=force)


@pytest.mark.parametrize(
    "step",
    [
        "before write_weight_files",
        "after write_weight_files",
        "before os.replace",
        "after os.replace",
        "before atomic_output",
    ],
)
def test_a_rank_killed_at_a_step_of_its_files_is_started_again(
    ranks: Ranks, step: str
) -> None:
    ranks.prepare(force=False)
    codes = ranks.run(force=False, step=step, victim=0)["codes"]
    assert codes == [KILLED, 0, 0, 0]
    assert not ranks.out.exists()
    ranks.check({}, force=False)


@pytest.mark.parametrize("force", [False, True], ids=["new", "over an old result"])
@pytest.mark.parametrize(
    "step",
    [
        "before rewrite_metadata",
        "after rewrite_metadata",
        "before write_auxiliary_files",
        "after write_auxiliary_files",
        "before publish",
        "after publish",
    ],
)
def test_a_rank_killed_while_it_publishes_is_started_again(
    ranks: Ranks, step: str, force: bool
) -> None:
    old = ranks.prepare(force=force)
    assert ranks.run(force=force, ranks=[1, 2, 3])["codes"] == [0, 0, 0]
    assert ranks.run(force=force, ranks=[0], step=step, victim=0)["codes"] == [KILLED]
    assert tree(ranks.out) == (ranks.complete if step == "after publish" else old)
    ranks.check(old, force=force)
