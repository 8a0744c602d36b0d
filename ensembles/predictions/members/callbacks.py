"""Progress reports of a fit to scikit-learn callbacks (scikit-learn 1.9 and later)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

try:
    from sklearn import callback
except ImportError:  # scikit-learn 1.8
    callback = None


class _NoSupport:
    """Empty base class, without ``set_callbacks``."""


CallbackSupport: Any = callback.CallbackSupportMixin if callback else _NoSupport
with_callbacks: Any = callback.with_callbacks if callback else (lambda fit: fit)


def iter_with_callbacks(
    estimator: Any, names: Sequence[str], done: Iterable[Any]
) -> Iterator[Any]:
    """Pass task results on and report each one to the callbacks of an estimator.

    Parameters
    ----------
    estimator : estimator
        Its ``fit``, decorated with ``with_callbacks``, must be running.
    names : sequence of str
        Names of the tasks, for the callbacks.
    done : iterable
        Results of the tasks, in the order of ``names``.

    Yields
    ------
    result
        The results of ``done``, unchanged. The end of the fit is reported after the
        last one, so the iterator must be exhausted.
    """
    if callback is None:
        yield from done
        return
    whole = estimator._init_callback_context(max_subtasks=len(names))
    whole.call_on_fit_task_begin(estimator=estimator)
    results = iter(done)
    for name in names:
        task = whole.subcontext(task_name=name)
        task.call_on_fit_task_begin(estimator=estimator)
        result = next(results)
        task.call_on_fit_task_end(estimator=estimator)
        yield result
    whole.call_on_fit_task_end(estimator=estimator)
