"""A program that saves one model from several ranks, as trainers do, with torch alone.

``python ranks.py FOLDER`` writes, for each step, the whole model in ``whole-STEP.pt``,
and distributed checkpoints of it in ``LAYOUT/step-STEP``.
"""

from __future__ import annotations

import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.distributed.checkpoint.state_dict_saver import save as save_distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

STEPS = (100, 200, 1000)


def model(step: int) -> Any:
    """Layers that no number of ranks divides evenly, some in bfloat16, with buffers."""
    torch.manual_seed(step)
    layers: Any = nn.Sequential(
        nn.Linear(10, 8), nn.BatchNorm1d(8), nn.Linear(8, 6), nn.Conv1d(3, 5, 2)
    )
    layers[1].running_mean.normal_()
    layers[3].to(torch.bfloat16)
    return layers


def fsdp(step: int, n_ranks: int) -> Any:
    mesh = init_device_mesh("cpu", (n_ranks,))
    sharded = model(step)
    for layer in sharded:
        fully_shard(layer, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    return sharded


def tensor_parallel(step: int, n_ranks: int) -> Any:
    """Two ranks divide the linear layers; with four, FSDP divides their parts again."""
    mesh = init_device_mesh("cpu", (n_ranks // 2, 2), mesh_dim_names=("dp", "tp"))
    sharded = model(step)
    styles = {"0": ColwiseParallel(), "2": RowwiseParallel()}
    parallelize_module(sharded, mesh["tp"], styles)
    if n_ranks > 2:
        fully_shard(sharded[0], mesh=mesh["dp"])
        fully_shard(sharded[2], mesh=mesh["dp"])
    return sharded


def save(folder: Path, rank: int, n_ranks: int) -> None:
    for step in STEPS:
        sharded = fsdp(step, n_ranks)
        optimizer = torch.optim.Adam(sharded.parameters())
        total: Any = torch.stack([p.sum() for p in sharded.parameters()]).sum()
        total.backward()
        kept = {name: value.clone() for name, value in sharded.state_dict().items()}
        optimizer.step()
        _, state = get_state_dict(sharded, optimizer)
        content = {"model": kept, "optimizer": state, "step": step}
        write(content, folder / f"fsdp-{n_ranks}/step-{step}")
        ranks = folder / f"ranks-{n_ranks}/step-{step}"
        ranks.mkdir(parents=True, exist_ok=True)
        torch.save(kept, ranks / f"model_world_size_{n_ranks}_rank_{rank}.pt")
        parts = tensor_parallel(step, n_ranks).state_dict()
        write(parts, folder / f"tensor-{n_ranks}/step-{step}")
        both = folder / f"ranks-tensor-{n_ranks}/step-{step}"
        both.mkdir(parents=True, exist_ok=True)
        torch.save(parts, both / f"model_world_size_{n_ranks}_rank_{rank}.pt")
    # torchtitan has the names of the model at the top level.
    flat = {**kept, "optimizer": state, "train_state": {"step": torch.tensor(step)}}
    write(flat, folder / f"flat-{n_ranks}")
    mesh = init_device_mesh("cpu", (n_ranks // 2, 2), mesh_dim_names=("dp", "tp"))
    torch.manual_seed(0)
    whole = torch.randn(7, 5)
    placements = {
        "rows": (Replicate(), Shard(0)),
        "columns": (Shard(1), Replicate()),
        "both": (Shard(0), Shard(1)),
        "twice": (Shard(0), Shard(0)),
        "copies": (Replicate(), Replicate()),
    }
    tensors = {n: distribute_tensor(whole, mesh, p) for n, p in placements.items()}
    write(tensors, folder / f"placements-{n_ranks}")
    ranks = folder / f"placement-ranks-{n_ranks}"
    ranks.mkdir(exist_ok=True)
    torch.save(tensors, ranks / f"model_world_size_{n_ranks}_rank_{rank}.pt")


def write(content: dict[str, Any], path: Path) -> None:
    save_distributed(content, storage_writer=FileSystemWriter(path, sync_files=False))


def run(folder: Path, rank: int, n_ranks: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous-{n_ranks}",
        rank=rank,
        world_size=n_ranks,
        timeout=timedelta(seconds=100),
    )
    save(folder, rank, n_ranks)
    dist.destroy_process_group()


def main(folder: Path) -> int:
    """Fork the ranks: importing torch takes longer than all that they do."""
    for step in STEPS:
        torch.save(model(step).state_dict(), folder / f"whole-{step}.pt")
    failed = 0
    for n_ranks in (2, 4):
        children = []
        for rank in range(n_ranks):
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    run(folder, rank, n_ranks)
                    status = 0
                finally:
                    sys.stderr.flush()
                    os._exit(status)
            children.append(child)
        failed += sum(os.waitpid(child, 0)[1] != 0 for child in children)
    return failed


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
