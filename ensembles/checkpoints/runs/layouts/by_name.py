"""Runs whose names have the step or the epoch, and whose files have little more."""

from __future__ import annotations

from dataclasses import replace

from ensembles.checkpoints.formats.pytorch_files.modules import contents
from ensembles.checkpoints.runs.beside import (
    has_key,
    json_beside,
    noted,
    pytorch_beside,
)
from ensembles.checkpoints.runs.layouts.table import LAYOUTS, with_last
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
    trainer="FunASR",
    names=[r"model\.pt\.ep(?P<epoch>\d+)(\.\d+)?"],
    roles={
        "copy": r"model\.pt",
        "best": r"model\.pt\.best",
        "average": r"model\.pt\.avg\d+",
    },
)
def funasr(run: Run) -> Run:
    """Validation results of all checkpoints are in ``model.pt``, the last one.

    Sources: funasr/train_utils/trainer.py and average_nbest_models.py of
    modelscope/FunASR. The step is the number of batches.
    """
    notes = list(run.notes)
    files = {c.path: pytorch_beside(c.path, notes) for c in run.checkpoints}
    last = next((files[c.path] for c in run.checkpoints if c.role == "copy"), None)
    results = {
        f"val_{kind}": contents(last.get(f"val_{kind}_step_or_eoch")) if last else {}
        for kind in ("acc", "loss")
    }
    checkpoints = []
    for checkpoint in run.checkpoints:
        saved, name = files[checkpoint.path], checkpoint.path.name
        if saved is not None and last is not None:
            values = {m: last.number(v.get(name)) for m, v in results.items()}
            metrics = {m: v for m, v in values.items() if v is not None}
            step = saved.decimal("batch_total")
            checkpoint = replace(checkpoint, metrics=metrics, step=step)
        checkpoints.append(checkpoint)
    monitor = last.get("avg_keep_nbest_models_type") if last else None
    return replace(
        run,
        checkpoints=tuple(checkpoints),
        notes=tuple(notes),
        monitor=f"val_{monitor}" if monitor in ("acc", "loss") else None,
        lower_is_better={"val_acc": False, "val_loss": True},
    )


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
    trainer="LeRobot",
    names=[r"(?P<step>\d+)/pretrained_model"],
    roles={"copy": r"last/pretrained_model"},
    subfolders=["checkpoints"],
)
def lerobot(run: Run) -> Run:
    """Folders ``STEP/pretrained_model``, and a link to the last one.

    Source: utils/constants.py and ``get_step_identifier`` of huggingface/lerobot.
    """
    return run


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

    Source: train.py of karpathy/nanoGPT, which overwrites ``ckpt.pt``. It counts if no
    other file has its step.
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
    return replace(run, checkpoints=tuple(with_last(checkpoints)), notes=tuple(notes))
