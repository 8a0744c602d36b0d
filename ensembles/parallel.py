"""Division of work into blocks, and their distribution over threads."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


def chunks(size: int, step: int) -> Iterator[tuple[int, int]]:
    """Bounds of consecutive pieces that cover ``range(size)``.

    Parameters
    ----------
    size : int, not negative
        Number of elements; 0 yields no piece.
    step : int, positive
        Length of every piece except the last, which may be shorter.

    Yields
    ------
    start, stop : int
        Bounds of a piece; ``stop`` is exclusive.

    Examples
    --------
    >>> list(chunks(5, 2))
    [(0, 2), (2, 4), (4, 5)]
    """
    for start in range(0, size, step):
        yield start, min(start + step, size)


def resolve_n_threads(n_threads: int | None) -> int:
    """Number of threads to run.

    Parameters
    ----------
    n_threads : int or None
        Requested number of threads; None means one for each processor that this
        process may use.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If ``n_threads`` is below 1.
    """
    if n_threads is None:
        if hasattr(os, "sched_getaffinity"):
            return len(os.sched_getaffinity(0))
        return os.cpu_count() or 1  # no sched_getaffinity on macOS
    if n_threads < 1:
        raise ValueError(f"threads must be at least 1, found {n_threads}")
    return n_threads


def map_threads(
    jobs: Sequence[Job],
    start: Callable[[], Callable[[Job], Result]],
    n_threads: int,
) -> list[Result]:
    """Run jobs on several threads and return their results in the order of the jobs.

    Parameters
    ----------
    jobs : sequence
        Arguments of the job function, one for each job.
    start : callable () -> (callable (job) -> result)
        Called once in each thread; returns the job function of this thread, which may
        own buffers that it reuses from job to job.
    n_threads : int, at least 1
        Maximum number of threads; 1 runs the jobs in the calling thread.

    Returns
    -------
    list of results

    Raises
    ------
    Exception
        If a job raises it; no further job is started.
    """
    results: list[Result | None] = [None] * len(jobs)
    n_threads = min(n_threads, len(jobs))
    if n_threads <= 1:
        return list(map(start(), jobs))
    indices = iter(range(len(jobs)))
    lock, stopped = threading.Lock(), threading.Event()

    def work() -> None:
        try:
            do = start()
            while not stopped.is_set():
                with lock:
                    index = next(indices, None)
                if index is None:
                    return
                results[index] = do(jobs[index])
        except BaseException:
            stopped.set()
            raise

    with ThreadPoolExecutor(n_threads, "ensembles") as pool:
        futures = [pool.submit(work) for _ in range(n_threads)]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:  # also after KeyboardInterrupt
            stopped.set()
    for future in futures:
        future.result()
    return results  # type: ignore[return-value]  # all are filled
