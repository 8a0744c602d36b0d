"""The limit of BLAS to one thread: in any thread, restored, and with the same bytes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from threadpoolctl import ThreadpoolController, threadpool_limits

from ensembles.checkpoints.methods import iso_c
from ensembles.checkpoints.methods.matrices.blas import one_blas_thread


def n_threads() -> set[int]:
    libraries = ThreadpoolController().select(user_api="blas").lib_controllers
    return {library.num_threads for library in libraries}


def in_thread(function: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


@pytest.fixture(autouse=True)
def _two_threads() -> Any:
    with threadpool_limits(2):  # the main thread controls the limits of threadpoolctl
        yield


def limited() -> set[int]:
    with one_blas_thread():
        return n_threads()


def test_the_limit_holds_in_any_thread_and_is_restored() -> None:
    before = n_threads()
    assert before == {2}
    for number in (limited(), in_thread(limited), limited()):
        assert number == {1}
    assert n_threads() == before


def test_the_limit_lasts_until_the_last_block_has_ended() -> None:
    started, ended = threading.Event(), threading.Event()

    def hold() -> None:
        with one_blas_thread():
            started.set()
            ended.wait(20)

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(hold)
        started.wait(20)
        assert limited() == {1}
        assert n_threads() == {1}
        ended.set()
        first.result()
    assert n_threads() == {2}


def test_an_error_inside_restores_the_number_of_threads() -> None:
    with pytest.raises(ZeroDivisionError), one_blas_thread():
        1 / 0  # noqa: B018
    assert n_threads() == {2}


def test_threads_merge_the_same_bytes(rng: np.random.Generator) -> None:
    stack, base = rng.normal(size=(2, 300, 400)), np.zeros((300, 400))

    def merge() -> bytes:
        return iso_c(stack, base=base).tobytes()

    expected = merge()
    with threadpool_limits(1):
        assert merge() == expected
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(lambda _: merge(), range(4)))
    assert set(results) == {expected}
