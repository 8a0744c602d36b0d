"""Cutting work into blocks and spreading them over threads."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


def cut(size: int, step: int) -> Iterator[tuple[int, int]]:
    """Start and stop of pieces that cover ``range(size)``, in order.

    Parameters
    ----------
    size : int, not negative
    step : int, positive
        Length of every piece but the last.

    Yields
    ------
    start, stop : int

    Examples
    --------
    >>> list(cut(5, 2))
    [(0, 2), (2, 4), (4, 5)]
    """
    for start in range(0, size, step):
        yield start, min(start + step, size)


def count_threads(n_threads: int | None) -> int:
    """Number of threads: as asked, or the processors this process may use.

    Parameters
    ----------
    n_threads : int or None

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If it is below 1.
    """
    if n_threads is None:
        if hasattr(os, "sched_getaffinity"):
            return len(os.sched_getaffinity(0))
        return os.cpu_count() or 1  # macOS
    if n_threads < 1:
        raise ValueError(f"threads must be at least 1, found {n_threads}")
    return n_threads


def spread(
    jobs: Sequence[Job],
    start: Callable[[], Callable[[Job], Result]],
    n_threads: int,
) -> list[Result]:
    """Results of jobs, in the order of the jobs, whichever thread did them.

    Parameters
    ----------
    jobs : sequence
    start : callable
        Called once in each thread; returns the function that does a job there, with
        the buffers that it uses again and again.
    n_threads : int, at least 1

    Returns
    -------
    list

    Raises
    ------
    Exception
        The first one that a job raises; no further job is begun.
    """
    results: list[Result | None] = [None] * len(jobs)
    left = iter(range(len(jobs)))
    lock, stopped = threading.Lock(), threading.Event()

    def work() -> None:
        try:
            do = start()
            while not stopped.is_set():
                with lock:
                    index = next(left, None)
                if index is None:
                    return
                results[index] = do(jobs[index])
        except BaseException:
            stopped.set()
            raise

    n_threads = min(n_threads, len(jobs))
    if n_threads <= 1:
        work()
        return results  # type: ignore[return-value]  # all are filled
    with ThreadPoolExecutor(n_threads, "ensembles") as pool:
        futures = [pool.submit(work) for _ in range(n_threads)]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:  # also where the user interrupts
            stopped.set()
    for future in futures:
        future.result()
    return results  # type: ignore[return-value]  # all are filled
