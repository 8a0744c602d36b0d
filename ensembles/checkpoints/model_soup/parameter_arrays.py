"""Combine members into arrays that are reused from one set of weights to the next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from ensembles._typing import Array, Float64
from ensembles.checkpoints.compatibility.layout import TensorPlan
from ensembles.checkpoints.formats.output import ArraySink, Sink
from ensembles.checkpoints.merging.combinations import Pool
from ensembles.checkpoints.merging.streaming import StreamResult, stream_plan
from ensembles.checkpoints.planning.layers import layers_of
from ensembles.checkpoints.planning.plan import Plan, plan
from ensembles.dtypes import is_float


class Mixture:
    """Combines members into preallocated arrays.

    Parameters
    ----------
    pool : Pool
        Members with the tensor names of ``arrays``.
    arrays : mapping of str to ndarray
        Output arrays by tensor name, C-contiguous; each call overwrites them.
    """

    def __init__(self, pool: Pool, arrays: Mapping[str, Array]) -> None:
        self.pool = pool
        self.arrays = arrays
        self.layers = layers_of(arrays)

    def __call__(self, weights: Float64) -> None:
        """Combine the members into the arrays.

        Parameters
        ----------
        weights : ndarray of shape (n_members,) or (n_members, n_layers)
            Member weights; with two axes, a column for each of ``layers``, in order.
        """
        if weights.ndim == 1:
            planned = self.pool.plan(weights)
            self._into(planned, self.pool.stream)
            return
        planned = plan(self.pool.members, **self.pool.options)
        self._into(planned, partial(self._by_layer, weights))

    def _by_layer(
        self, weights: Float64, planned: Plan, sinks: Any, progress: Any
    ) -> StreamResult:
        """Stream each layer with its own column of weights."""
        outcome = StreamResult()
        for layer, column in zip(self.layers.values(), weights.T, strict=True):
            names = set(layer)
            targets = [t for t in planned.targets if t.name in names]
            own = replace(planned, targets=targets, weights=column)
            outcome = stream_plan(own, sinks, progress)
        return outcome

    def _into(self, planned: Plan, stream: Callable[..., StreamResult]) -> None:
        targets = [self._target(target) for target in planned.targets]
        sinks: dict[str, Sink] = {
            target.name: ArraySink(self.arrays[target.name]) for target in targets
        }
        stream(replace(planned, targets=targets), sinks, lambda n_read: None)

    def _target(self, target: TensorPlan) -> TensorPlan:
        """TensorPlan with the dtype of its output array, if it is a float."""
        own = self.arrays[target.name].dtype
        return target._replace(dtype=own) if is_float(target.dtype) else target
