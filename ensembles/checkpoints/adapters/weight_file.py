"""The weight file of merged adapters: tensors, digests and provenance."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import ensembles
from ensembles._typing import Array, Float64
from ensembles.checkpoints.adapters.plan import AdapterPlan
from ensembles.checkpoints.formats.checkpoint import Checkpoint, Tensor
from ensembles.checkpoints.formats.detection import writer_for
from ensembles.checkpoints.formats.output import Layout, OutputFile, Sink
from ensembles.checkpoints.merging.digests import (
    BLOCK,
    ZERO,
    BlockDigest,
    Digested,
    digest,
)
from ensembles.checkpoints.merging.provenance import KEY, TENSORS, tensor_digests
from ensembles.checkpoints.methods.builtin import RULES
from ensembles.dtypes import is_float
from ensembles.kernels.mean import has_nonfinite
from ensembles.parallel import chunks


class ResultTensors:
    """Tensors of the result that were written, with their digests.

    Parameters
    ----------
    sinks : mapping of str to Sink
        Sink of each tensor.

    Attributes
    ----------
    written : dict of str to (dtype, shape, list of bytes)
        Dtype, shape and block digests of each tensor.
    nonfinite : list of str
        Names of tensors with NaN or infinity.
    """

    def __init__(self, sinks: Mapping[str, Sink]) -> None:
        self.written: dict[str, Digested] = {}
        self.nonfinite: list[str] = []
        self._sinks = sinks
        self._lock = threading.Lock()

    def add(self, name: str, array: Array) -> None:
        """Write a whole tensor."""
        self._add(name, array.dtype, array.shape, [np.ascontiguousarray(array)])

    def add_mean(
        self,
        name: str,
        dtype: np.dtype[Any],
        tensors: Sequence[Tensor],
        weights: Float64,
    ) -> None:
        """Write the weighted mean of tensors, in blocks."""
        self._add(name, dtype, tensors[0].shape, _means(name, dtype, tensors, weights))

    def _add(
        self,
        name: str,
        dtype: np.dtype[Any],
        shape: tuple[int, ...],
        blocks: Sequence[Array] | Iterator[Array],
    ) -> None:
        block_digest, offset, is_finite = BlockDigest(has_crc=False), 0, True
        for block in blocks:
            buffer = block.reshape(-1).view(np.uint8).data
            is_finite &= not (is_float(dtype) and has_nonfinite(block.reshape(-1)))
            self._sinks[name].write(buffer, offset)
            block_digest.update(buffer)
            offset += len(buffer)
        with self._lock:
            self.written[name] = dtype, shape, block_digest.close()
            self.nonfinite += [name] * (not is_finite)


def _means(
    name: str, dtype: np.dtype[Any], tensors: Sequence[Tensor], weights: Float64
) -> Iterator[Array]:
    """Blocks of the weighted mean of tensors; integers must be equal."""
    for start, stop in chunks(tensors[0].size, BLOCK // 8):
        members = []
        for tensor in tensors:
            member = np.empty(stop - start, tensor.dtype)
            offset = tensor.offset + start * tensor.dtype.itemsize
            tensor.source.read_into(member.view(np.uint8).data, offset)
            members.append(member)
        if is_float(dtype):
            yield RULES["mean"].combine(members, weights, dtype)
        elif all(np.array_equal(member, members[0]) for member in members):
            yield members[0]
        else:
            raise ValueError(
                f"tensor {name!r} of the adapters must have equal integers; apply the "
                "adapters to the base first"
            )


@contextmanager
def written_file(
    plan: AdapterPlan, path: Path, layout: Layout, digests: Sequence[str]
) -> Iterator[ResultTensors]:
    """Weight file of the result, complete after the block.

    Parameters
    ----------
    plan : AdapterPlan
        Plan of the result.
    path : Path
        File or directory to write to.
    layout : mapping of str to (dtype, shape)
        Tensors of the result.
    digests : sequence of str
        Digest of the tensors of each adapter.

    Yields
    ------
    ResultTensors
        Takes all tensors of the layout.
    """
    metadata = {
        **_metadata(plan, layout),
        KEY: recipe(plan, digests, ZERO),
        TENSORS: ZERO * len(layout),
    }
    file = OutputFile(
        path=path / plan.file if plan.is_directory else path,
        name=f"{plan.out}/{plan.file}" if plan.is_directory else f"{plan.out}",
        layout=layout,
        aliases={},
        order=tuple(layout),
        metadata=metadata,
    )
    with contextmanager(writer_for(plan.file))(file) as sinks:
        tensors = ResultTensors(sinks)
        yield tensors
        metadata[KEY] = recipe(plan, digests, digest(tensors.written))
        metadata[TENSORS] = tensor_digests(tensors.written)


def recipe(plan: AdapterPlan, digests: Sequence[str], result: str) -> str:
    """Provenance of the result in JSON, as of averages of checkpoints.

    Parameters
    ----------
    plan : AdapterPlan
        Plan of the result.
    digests : sequence of str
        Digest of the tensors of each adapter.
    result : str
        Digest of the tensors of the result, or a placeholder of the same length.

    Returns
    -------
    str
    """
    return json.dumps(
        {
            "version": ensembles.__version__,
            "rule": plan.rule.name,
            "params": plan.rule.params,
            "weights": plan.rule.weights.tolist(),
            "members": [f"xxh3-128:{member}" for member in digests],
            "result": f"xxh3-128:{result}",
            "options": {
                **{"include": [], "exclude": [], "integers": "error"},
                "missing": "error",
                "dtype": None if plan.dtype is None else str(plan.dtype),
                "rank": plan.rank,
                "energy": plan.energy,
            },
            "adapters": True,
        },
        sort_keys=True,
        default=list,
    )


# Metadata of kohya with which programs recognize the base, kept where members agree.
KOHYA = (
    *("ss_base_model_version", "ss_v2", "ss_network_module", "modelspec.architecture"),
    *("modelspec.implementation", "modelspec.prediction_type", "modelspec.resolution"),
)


def _metadata(plan: AdapterPlan, layout: Layout) -> dict[str, str]:
    """Metadata of the format, besides provenance."""
    checkpoints: list[Checkpoint] = [adapter.checkpoint for adapter in plan.members]
    if plan.naming != "kohya":
        return {"format": "pt"}
    first = checkpoints[0].metadata
    kept = {
        key: first[key]
        for key in KOHYA
        if key in first and all(c.metadata.get(key) == first[key] for c in checkpoints)
    }
    ranks = {shape[0] for name, (_, shape) in layout.items() if "lora_down" in name}
    rank = str(ranks.pop()) if len(ranks) == 1 else "Dynamic"
    return {"ss_network_module": "networks.lora", "ss_network_dim": rank, **kept}
