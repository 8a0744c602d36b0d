"""Runs of icefall: ``epoch-N.pt``, and ``checkpoint-N.pt`` after N batches.

Sources: icefall/checkpoint.py and egs/librispeech/ASR/zipformer/train.py.
"""

from __future__ import annotations

from dataclasses import replace

from ensembles.checkpoints.runs.beside import has_key, pytorch_beside
from ensembles.checkpoints.runs.layouts.table import LAYOUTS
from ensembles.checkpoints.runs.run import Run, RunCheckpoint
from ensembles.registry import register

STEP = "batch_idx_train"
LOSS = "train_loss"


@register(
    LAYOUTS,
    trainer="icefall",
    names=[r"epoch-(?P<epoch>\d+)\.pt", r"checkpoint-(?P<step>\d+)\.pt"],
    roles={"best": r"best-(train|valid)-loss\.pt", "other": r"pretrained\.pt"},
)
def icefall(run: Run) -> Run | None:
    """The training loss of an epoch is in its file.

    A validation loss is not: ``best_valid_loss`` is the smallest so far. As in icefall,
    ``epoch-N.pt`` is chosen by its epoch alone, and ``checkpoint-N.pt`` by its step.
    """
    if not has_key(run, STEP):
        return None
    notes: list[str] = []
    checkpoints = tuple(_with_loss(c, notes) for c in run.checkpoints)
    return replace(
        run,
        checkpoints=checkpoints,
        notes=(*run.notes, *notes),
        lower_is_better={LOSS: True},
    )


def _with_loss(checkpoint: RunCheckpoint, notes: list[str]) -> RunCheckpoint:
    """Checkpoint of an epoch with its training loss."""
    if checkpoint.epoch is None:  # train_loss is that of the epoch before
        return checkpoint
    content = pytorch_beside(checkpoint.path, notes)
    if content is None:
        return checkpoint
    if content.get(STEP) is None:  # such as a link epoch-99.pt to pretrained.pt
        notes.append(f"{checkpoint.path.name} was not saved in training: no {STEP}")
        return replace(checkpoint, role="other", epoch=None)
    loss = content.number(content.get(LOSS))
    return checkpoint if loss is None else replace(checkpoint, metrics={LOSS: loss})
