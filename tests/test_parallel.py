"""Cutting and spreading work."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

import pytest

from ensembles.parallel import chunks, map_threads, resolve_n_threads


@pytest.mark.parametrize("size", [0, 1, 6, 7, 8])
@pytest.mark.parametrize("step", [1, 3, 7, 100])
def test_pieces_cover_everything_once(size: int, step: int) -> None:
    pieces = list(chunks(size, step))
    assert [i for start, stop in pieces for i in range(start, stop)] == [*range(size)]
    assert all(stop - start == step for start, stop in pieces[:-1])


def test_threads_are_as_many_as_asked_or_as_there_are_processors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert resolve_n_threads(3) == 3
    assert 1 <= resolve_n_threads(None) <= (os.cpu_count() or 1)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert resolve_n_threads(None) == 5
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert resolve_n_threads(None) == 1


@pytest.mark.parametrize("n_threads", [0, -2])
def test_fewer_than_one_thread_is_an_error(n_threads: int) -> None:
    with pytest.raises(ValueError, match=rf"at least 1, found {n_threads}$"):
        resolve_n_threads(n_threads)


@pytest.mark.parametrize("n_threads", [1, 2, 8])
@pytest.mark.parametrize("n_jobs", [0, 1, 20])
def test_results_come_in_the_order_of_the_jobs(n_threads: int, n_jobs: int) -> None:
    def do(job: int) -> int:
        time.sleep(0.002 * (job % 3 == 0))
        return job * job

    results = map_threads(range(n_jobs), lambda: do, n_threads)
    assert results == [job * job for job in range(n_jobs)]


def test_each_thread_starts_once_and_no_more_than_there_are_jobs() -> None:
    started: list[threading.Thread] = []
    together = threading.Barrier(2)

    def start() -> Callable[[int], int]:
        started.append(threading.current_thread())
        together.wait(timeout=10)
        return lambda job: job

    assert map_threads([5, 6], start, 8) == [5, 6]
    assert len(set(started)) == 2


def test_one_thread_is_the_one_that_asks() -> None:
    main = threading.current_thread()
    (found,) = map_threads([0], lambda: lambda _: threading.current_thread(), 4)
    assert found is main


@pytest.mark.parametrize("n_threads", [1, 2])
def test_the_first_failure_is_raised_and_no_further_job_begun(n_threads: int) -> None:
    begun = []
    failing = threading.Event()

    def do(job: int) -> int:
        begun.append(job)
        if job == 1:
            failing.set()
            raise ValueError("job 1 cannot be done")
        if n_threads > 1:
            failing.wait(timeout=60)
            time.sleep(0.2)  # the other thread has time to end
        return job

    with pytest.raises(ValueError, match=r"^job 1 cannot be done$"):
        map_threads(range(100), lambda: do, n_threads)
    # On a busy machine one job more may begin before the failing thread has ended.
    assert len(begun) == 2 if n_threads == 1 else len(begun) < 10


def test_an_interrupt_stops_the_threads_before_their_next_job(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun = []
    first, interrupted = threading.Event(), threading.Event()

    def interrupt(*arguments: object, **named: object) -> None:
        first.wait(timeout=60)
        interrupted.set()
        raise KeyboardInterrupt

    def do(job: int) -> None:
        begun.append(job)
        first.set()
        interrupted.wait(timeout=60)
        time.sleep(0.2)

    monkeypatch.setattr("ensembles.parallel.wait", interrupt)
    with pytest.raises(KeyboardInterrupt):
        map_threads(range(50), lambda: do, 2)
    assert len(begun) < 10


def test_a_thread_that_cannot_start_is_an_error() -> None:
    def start() -> Callable[[int], int]:
        raise MemoryError("no buffers")

    with pytest.raises(MemoryError, match="no buffers"):
        map_threads([1, 2], start, 2)
