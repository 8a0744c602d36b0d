"""
Average large checkpoints in little memory
==========================================

Files are read, combined and written in blocks, so memory does not depend on the size of the
checkpoints. This example averages three files of 128 MiB in buffers of 16 MiB.
"""

# %%
# Write three checkpoints
# -----------------------

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from safetensors.numpy import save_file

from ensembles.checkpoints import average

MIB = 1 << 20
folder = Path(tempfile.mkdtemp())
rng = np.random.default_rng(0)
start = rng.standard_normal((4, 2048, 2048), np.float32)
paths = [folder / f"member-{n}.safetensors" for n in range(3)]
for path in paths:
    noise = rng.standard_normal(2048, np.float32) / 100
    tensors = {f"layer{n}": start[n] + noise for n in range(4)}
    save_file({**tensors, **{f"copy.{k}": t * 2 for k, t in tensors.items()}}, path)
del start, tensors

# %%
# Average them, and watch the memory
# ----------------------------------
# ``progress`` is called with the number of bytes that were read. Anonymous memory is what the
# process has allocated; pages of files, which the system can drop, do not count.

read, memory = [0], []


def anonymous_memory():
    """Anonymous memory of this process in MiB, on Linux; 0 elsewhere."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    kib = [int(line.split()[1]) for line in lines if line.startswith("RssAnon")]
    return kib[0] / 1024 if kib else 0


def progress(n_bytes):
    """Note the bytes read so far, and the memory in use."""
    read.append(read[-1] + n_bytes)
    memory.append(anonymous_memory() - before)


average([{"w": np.ones(8, np.float32)}, {"w": np.zeros(8, np.float32)}])  # compiles
before = anonymous_memory()
report = average(
    paths, folder / "averaged.safetensors", memory=16 * MIB, progress=progress
)
print(f"{read[-1] / MIB:.0f} MiB read, {max(memory):.0f} MiB more memory at most")

figure, axes = plt.subplots()
axes.plot(np.divide(read[1:], MIB), memory, label="memory beyond the start")
axes.axhline(3 * 128, color="tab:gray", linestyle="--", label="all members at once")
axes.set(xlabel="MiB read", ylabel="MiB", ylim=(0, 420))
axes.legend(loc="center right")
plt.show()
