"""Distributed checkpoints with the tensors of a directory of safetensors files.

Run as ``python distributed_members.py OUT MEMBER N_RANKS``: that many processes shard
each tensor along its first axis, as FSDP2 does, and save with torch's DCP.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard


def save_rank(out: Path, member: Path, rank: int, n_ranks: int, meeting: str) -> None:
    """Save the part of one rank."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=n_ranks
    )
    mesh = init_device_mesh("cpu", (n_ranks,))
    state: dict[str, Any] = {}
    for path in sorted(member.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118  # no mapping
                whole = file.get_slice(name)
                shape = torch.Size(whole.get_shape())
                size = -(-shape[0] // n_ranks)
                part = whole[
                    min(rank * size, shape[0]) : min((rank + 1) * size, shape[0])
                ]
                stride = torch.empty(shape, device="meta").stride()
                state[name] = DTensor.from_local(
                    part, mesh, [Shard(0)], shape=shape, stride=stride
                )
    save({"model": state}, storage_writer=FileSystemWriter(out, sync_files=False))
    dist.destroy_process_group()


def main(out: Path, member: Path, n_ranks: int) -> int:
    """Fork the ranks; the number of those that failed."""
    with tempfile.TemporaryDirectory() as folder:
        children = []
        for rank in range(n_ranks):
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    save_rank(out, member, rank, n_ranks, f"{folder}/meeting")
                    status = 0
                finally:
                    sys.stderr.flush()
                    os._exit(status)
            children.append(child)
        return sum(os.waitpid(child, 0)[1] != 0 for child in children)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])))
