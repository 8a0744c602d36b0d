"""Contract 4: whole or absent, whenever a run is killed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ensembles.checkpoints import average
from tests.checkpoints.building import save, save_shards
from tests.conftest import ROOT

N_RANDOM = 25  # kills at random moments for each of six cases
OUTPUTS = {"file": "out.safetensors", "PyTorch file": "out.pt", "directory": "out"}
Tree = dict[str, bytes]


def tree(path: Path) -> Tree | None:
    """Contents of a file, or of all files of a directory; None if there is none."""
    if path.is_dir():
        files = [file for file in path.rglob("*") if file.is_file()]
        return {str(file.relative_to(path)): file.read_bytes() for file in files}
    return {"": path.read_bytes()} if path.exists() else None


class Victim:
    """Runs in processes that are killed, over one output."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder = folder
        self.out = folder / OUTPUTS[kind]
        self.members = self._members(kind)
        command = [sys.executable, str(Path(__file__).with_name("victim.py"))]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"PYTHONPATH": str(ROOT)},
            text=True,
        )
        average(self.members, self.out)
        self.complete = tree(self.out)
        self.seconds = sorted(self.run(force=True)["seconds"] for _ in range(5))[1]

    def _members(self, kind: str) -> list[str]:
        """Two checkpoints of four megabytes."""
        rng = np.random.default_rng(0)
        found = []
        for name in "ab":
            tensors = [
                {f"t{i}": rng.normal(size=n).astype(np.float32)}
                for i, n in enumerate((700_000, 300_000, 1))
            ]
            path = self.folder / "members" / name
            if kind == "directory":
                save_shards(path, tensors)
                (path / "config.json").write_text(json.dumps({"from": name}))
            else:
                path = path.with_suffix(".safetensors")
                save(path, {k: v for part in tensors for k, v in part.items()})
            found.append(str(path))
        return found

    def run(self, **order: Any) -> dict[str, Any]:
        order |= {"members": self.members, "out": str(self.out)}
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        assert isinstance(answer, dict)
        return answer

    def prepare(self, over: str) -> Tree | None:
        """Put nothing, or an old result, at the output."""
        if self.out.is_dir():
            shutil.rmtree(self.out)
        self.out.unlink(missing_ok=True)
        if over == "nothing":
            return None
        if over == "directory":
            save_shards(self.out, [{"old": np.ones(9)}, {"older": np.ones(9)}])
        else:
            save(self.out, {"old": np.ones(9)})
        return tree(self.out)

    def check(self, *allowed: Tree | None) -> None:
        """The output is complete or allowed; the next run ends and clears up."""
        assert tree(self.out) in (self.complete, *allowed)
        assert self.run(force=True)["done"]
        assert tree(self.out) == self.complete
        names = sorted(path.name for path in self.folder.iterdir())
        assert names == ["members", self.out.name]


@pytest.fixture(scope="module", params=OUTPUTS)
def victim(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Victim]:
    found = Victim(tmp_path_factory.mktemp("kills"), request.param)
    yield found
    assert found.process.stdin
    assert found.process.stdout
    found.process.stdin.close()
    found.process.wait(10)
    found.process.stdout.close()


def overs(victim: Victim) -> list[str]:
    return ["nothing", "directory" if victim.out.suffix == "" else "file"]


@pytest.mark.parametrize("case", [0, 1], ids=["over nothing", "over an old result"])
def test_kills_at_random_moments_leave_it_whole_or_absent(
    victim: Victim, case: int, rng: np.random.Generator
) -> None:
    n_killed, seconds = 0, victim.seconds
    for _ in range(N_RANDOM):
        old = victim.prepare(overs(victim)[case])
        answer = victim.run(force=case == 1, delay=float(rng.uniform(0, seconds)))
        n_killed += answer["killed"]
        if not answer["killed"]:  # how long a run takes depends on the machine's load
            seconds = min(seconds, answer["seconds"]) * 0.9
        victim.check(old)
    assert n_killed > N_RANDOM // 5


EVERY = (
    "after _claim",
    "half a block",
    "before _flush",
    "after _flush",
    "before _publish",
    "after _publish",
)


@pytest.mark.parametrize("step", [*EVERY, "before _rename", "after _rename"])
def test_kills_at_each_step_over_nothing(victim: Victim, step: str) -> None:
    victim.prepare("nothing")
    assert victim.run(step=step)["killed"]
    victim.check(None)


@pytest.mark.parametrize("step", EVERY)
def test_kills_at_each_step_over_an_old_result(victim: Victim, step: str) -> None:
    old = victim.prepare(overs(victim)[1])
    assert victim.run(step=step, force=True)["killed"]
    victim.check(old)


@pytest.mark.parametrize(
    "step",
    ["before _rename", "after _rename", "before _remove", "half a removal"],
)
def test_kills_while_directories_change_places(victim: Victim, step: str) -> None:
    if victim.out.suffix:
        pytest.skip("files are replaced in one step")
    old = victim.prepare("directory")
    assert victim.run(step=step, force=True)["killed"]
    assert tree(victim.out) is not None
    victim.check(old)


@pytest.mark.parametrize("step", ["before os.replace", "after os.replace"])
def test_kills_while_a_file_is_replaced(victim: Victim, step: str) -> None:
    if not victim.out.suffix:
        pytest.skip("directories are exchanged")
    old = victim.prepare("file")
    assert victim.run(step=step, force=True)["killed"]
    assert tree(victim.out) is not None
    victim.check(old)


@pytest.mark.parametrize("over", [0, 1], ids=["over nothing", "over an old result"])
@pytest.mark.parametrize(
    "step", ["before os.rename", "after os.rename", "before os.replace"]
)
def test_kills_where_the_system_cannot_exchange(
    victim: Victim, step: str, over: int
) -> None:
    old = victim.prepare(overs(victim)[over])
    killed = victim.run(step=step, force=over == 1, no_exchange=True)["killed"]
    assert killed == (("replace" in step) == bool(over and victim.out.suffix))
    victim.check(old, None)  # between two renames there is nothing at the output
