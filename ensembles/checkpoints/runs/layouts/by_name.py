"""Runs whose names have the step, with few or no metrics beside."""

from __future__ import annotations

from dataclasses import replace

from ensembles.checkpoints.runs.beside import (
    has_key,
    json_beside,
    noted,
    pytorch_beside,
)
from ensembles.checkpoints.runs.layouts.table import LAYOUTS
from ensembles.checkpoints.runs.run import Run
from ensembles.registry import register

TRAIN_STATES = ("train.pt", "train/rank0.pt")  # of OLMo, OLMo-core and torchtitan


@register(
    LAYOUTS,
    trainer="nanochat",
    names=[r"model_(?P<step>\d+)\.pt"],
    markers=["meta_*.json"],
)
def nanochat(run: Run) -> Run:
    """Each ``model_STEP.pt`` has a ``meta_STEP.json`` with ``val_bpb``.

    Source: nanochat/checkpoint_manager.py of karpathy/nanochat.
    """
    notes = list(run.notes)
    checkpoints = []
    for checkpoint in run.checkpoints:
        number = checkpoint.path.stem.removeprefix("model_")
        path = checkpoint.path.with_name(f"meta_{number}.json")
        meta = json_beside(path, notes)
        with noted(path, notes):
            metrics = {
                name: float(value)
                for name, value in (meta or {}).items()
                if name.startswith("val_") and isinstance(value, int | float)
            }
            checkpoint = replace(checkpoint, metrics=metrics)
        checkpoints.append(checkpoint)
    return replace(run, checkpoints=tuple(checkpoints), notes=tuple(notes))


@register(
    LAYOUTS,
    trainer="OLMo",
    names=[r"step(?P<step>\d+)-unsharded/model\.(pt|safetensors)"],
    roles={"copy": r"latest-unsharded/model\.(pt|safetensors)"},
)
def olmo(run: Run) -> Run:
    """Tokens are in ``train.pt``.

    Source: olmo/train.py and olmo/checkpoint.py of allenai/OLMo.
    """
    return _with_tokens(run, parents=1)


@register(
    LAYOUTS,
    trainer="torchtitan or OLMo-core",
    names=[r"step-?(?P<step>\d+)(-tokens(?P<tokens>\d+B))?(-unsharded)?"],
    roles={"copy": r"latest"},
    subfolders=["checkpoint"],
)
def torchtitan(run: Run) -> Run:
    """Folders ``step-N`` of torchtitan, ``stepN`` of OLMo-core and of its mirrors.

    Sources: torchtitan/components/checkpoint.py; src/olmo_core/train/checkpoint.py of
    allenai/OLMo-core.
    """
    return _with_tokens(run, parents=0)


def _with_tokens(run: Run, parents: int) -> Run:
    """Run with the tokens in the state of the trainer."""
    notes = list(run.notes)
    checkpoints = []
    for checkpoint in run.checkpoints:
        folder = [checkpoint.path, *checkpoint.path.parents][parents]
        for name in TRAIN_STATES:
            state = pytorch_beside(folder / name, notes)
            if state is not None:
                tokens = state.decimal("global_train_tokens_seen")
                checkpoint = replace(checkpoint, tokens=tokens or checkpoint.tokens)
        checkpoints.append(checkpoint)
    return replace(run, checkpoints=tuple(checkpoints), notes=tuple(notes))


@register(
    LAYOUTS,
    trainer="OpenNMT-py",
    names=[r"[^/]*_step_(?P<step>\d+)\.pt"],
)
def opennmt(run: Run) -> Run | None:
    """Files ``PREFIX_step_N.pt``, with the output layer at the key ``generator``.

    Source: onmt/models/model_saver.py of OpenNMT/OpenNMT-py.
    """
    return run if has_key(run, "generator") else None


@register(
    LAYOUTS,
    trainer="nanoGPT",
    names=[r"ckpt[-_]?(?P<step>\d+)\.pt"],
    roles={"copy": r"ckpt\.pt"},
)
def nanogpt(run: Run) -> Run | None:
    """Files ``ckpt_N.pt`` beside ``ckpt.pt``, as in scripts derived from nanoGPT.

    Source: train.py of karpathy/nanoGPT, which overwrites ``ckpt.pt``.
    """
    if not has_key(run, "model_args"):
        return None
    notes = list(run.notes)
    checkpoints = []
    for checkpoint in run.checkpoints:
        if checkpoint.step is None:
            state = pytorch_beside(checkpoint.path, notes)
            step = state.decimal("iter_num") if state else None
            checkpoint = replace(checkpoint, step=step)
        checkpoints.append(checkpoint)
    return replace(run, checkpoints=tuple(checkpoints), notes=tuple(notes))
