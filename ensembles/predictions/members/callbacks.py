"""Progress of a fit, told to scikit-learn's callbacks where it has them: from 1.9."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

try:
    from sklearn import callback
except ImportError:  # scikit-learn 1.8
    callback = None


class _NoSupport:
    """No ``set_callbacks``."""


CallbackSupport: Any = callback.CallbackSupportMixin if callback else _NoSupport
with_callbacks: Any = callback.with_callbacks if callback else (lambda fit: fit)


def told(estimator: Any, names: Sequence[str], done: Iterable[Any]) -> Iterator[Any]:
    """Results of tasks, each told to the estimator's callbacks as it comes.

    Parameters
    ----------
    estimator : estimator
        In a ``fit`` under ``with_callbacks``.
    names : sequence of str
        Of the tasks.
    done : iterable
        Their results, in their order.

    Yields
    ------
    result
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
