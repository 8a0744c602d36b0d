"""Contract 4: the old or the new output, whichever system call is the last or fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from ensembles.checkpoints import average
from tests.checkpoints import crashing
from tests.checkpoints.building import load
from tests.checkpoints.crashing import ERRORS, KINDS, LARGE, Case, Server

N_RANDOM = 5  # kills of each case; `make crash-test` takes a thousand


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with crashing.served() as server:
        yield server


@pytest.fixture(params=[(kind, over) for kind in KINDS for over in (False, True)])
def case(request: pytest.FixtureRequest, tmp_path: Path, server: Server) -> Case:
    kind, is_over = request.param
    return Case(tmp_path, server, kind, is_over)


def test_a_kill_at_any_system_call_leaves_the_old_or_the_new_output(case: Case) -> None:
    assert case.kill_each() > 10


def test_an_error_of_any_system_call_leaves_the_old_or_the_new_output(
    case: Case,
) -> None:
    assert case.fail_each(lambda at: (ERRORS[at % len(ERRORS)],)) > 10


def test_short_reads_and_writes_are_continued(case: Case) -> None:
    assert case.shorten_each() > 3


# How a new file and a replaced directory are published without renameat2.
without_exchange = pytest.mark.parametrize(
    ("kind", "is_over"), [("safetensors", False), ("directory", True)]
)


@without_exchange
def test_a_kill_where_the_system_cannot_exchange_leaves_the_next_run_a_way(
    tmp_path: Path, server: Server, kind: str, is_over: bool
) -> None:
    """Between two renames the output is absent; the old and the new are beside it."""
    Case(tmp_path, server, kind, is_over).kill_each(("renameat2",))


@without_exchange
def test_an_error_where_the_system_cannot_exchange_keeps_the_old_output(
    tmp_path: Path, server: Server, kind: str, is_over: bool
) -> None:
    case = Case(tmp_path, server, kind, is_over)
    case.fail_each(lambda at: (ERRORS[at % len(ERRORS)],), ("renameat2",))


def test_a_kill_at_a_random_moment_leaves_the_old_or_the_new_output(
    case: Case, rng: np.random.Generator
) -> None:
    seconds = max(case.run(is_over=True)["seconds"] for _ in range(3))
    for _ in range(N_RANDOM):
        seconds = case.kill_at_random(rng, seconds)


def test_a_kill_of_the_command_leaves_the_old_or_the_new_output(
    tmp_path: Path, server: Server, rng: np.random.Generator
) -> None:
    case = Case(tmp_path, server, "safetensors", True, LARGE)
    assert sum(case.kill_process(rng, 1.0) for _ in range(3)) > 0


@pytest.mark.parametrize("command", ["average", "convert"])
@pytest.mark.parametrize("layout", ["fsdp-4", "tensor-2"])
def test_a_kill_while_shards_of_ranks_are_joined_leaves_nothing_or_all(
    saved: Path,
    tmp_path: Path,
    server: Server,
    rng: np.random.Generator,
    layout: str,
    command: str,
) -> None:
    whole = [torch.load(saved / f"whole-{step}.pt") for step in (100, 1000, 200)]
    members = whole[: 1 if command == "convert" else 3]
    average(members, tmp_path / "whole.safetensors")
    joined = load(tmp_path / "whole.safetensors")
    case = crashing.sharded_case(tmp_path, server, saved, layout, command, False)
    case.run()
    written = load(case.out / "model.safetensors")
    assert {n: (t.dtype, t.tobytes()) for n, t in written.items()} == {
        n: (t.dtype, t.tobytes()) for n, t in joined.items()
    }
    seconds = max(case.run(is_over=True)["seconds"] for _ in range(3))
    for _ in range(N_RANDOM):
        seconds = case.kill_at_random(rng, seconds)


@pytest.mark.parametrize("kind", KINDS)
def test_of_runs_at_the_same_time_without_force_one_writes(
    tmp_path: Path, server: Server, kind: str
) -> None:
    case = Case(tmp_path, server, kind, False)
    for _ in range(3):
        case.prepare()
        answers = case.run_together(4)
        errors = [answer["error"] for answer in answers if answer["error"]]
        assert len(errors) == 3
        assert all(error.startswith("FileExistsError") for error in errors)
        assert crashing.tree(case.out) == case.new
        assert case.leftovers() == []


@pytest.mark.parametrize("missing", [(), ("renameat2",)])
def test_of_runs_at_the_same_time_with_force_all_succeed(
    case: Case, missing: tuple[str, ...]
) -> None:
    for _ in range(3):
        case.prepare()
        answers = case.run_together(4, is_over=True, missing=missing)
        assert [answer["error"] for answer in answers] == [None] * 4
        assert crashing.tree(case.out) == case.new
        assert case.leftovers() == []
