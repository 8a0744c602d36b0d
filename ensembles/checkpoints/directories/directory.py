"""Read Hugging Face, sentence-transformers and diffusers directories."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ensembles.checkpoints.directories.adapters import MERGE_ADAPTERS, adapter_in
from ensembles.checkpoints.directories.auxiliary_files import (
    auxiliary_files,
    link_root,
    reason_not_copied,
    training_files,
)
from ensembles.checkpoints.directories.modules import (
    CONFIG as CONFIG,
)
from ensembles.checkpoints.directories.modules import (
    ONE_FILE,
    PIPELINE,
    check_component,
    check_module,
    components,
    module_classes,
)
from ensembles.checkpoints.directories.quantization import quantized_by
from ensembles.checkpoints.directories.unreadable import explain
from ensembles.checkpoints.directories.unsupported import unsupported_reasons
from ensembles.checkpoints.directories.weight_files import (
    main_weight_files,
    other_weight_files,
    weight_map,
)
from ensembles.checkpoints.formats import detection
from ensembles.checkpoints.formats.checkpoint import Checkpoint, Keys
from ensembles.checkpoints.formats.detection import format_by_suffix
from ensembles.regular_files import read_json

TOKENIZERS = re.compile(
    r"(tokenizer|vocab)\.(json|txt|model)|merges\.txt|(spiece|sentencepiece)\..*model"
)
ARRAYS = (".npz", ".npy", ".pkl", ".pickle", ".joblib")
# PEFT methods whose update is linear in the stored tensors: their mean is exact.
LINEAR = {
    *("IA3", "PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING", "CPT", "ADAPTION_PROMPT"),
    *("LN_TUNING", "TRAINABLE_TOKENS", "C3A", "MISS", "SHIRA", "BEFT"),
}


def read(path: Path, key: Keys = None) -> Checkpoint:
    """Layout of a checkpoint directory, including all its modules.

    Tensor names of a module are prefixed with its folder (``2_Dense/linear.weight``),
    those of an additional weight file with its stem (``value_head/weight``), and those
    of the main weight files not at all.

    Parameters
    ----------
    path : Path
        Path of the directory.
    key : str, sequence of str or None, default=None
        Key of the state dict in the main weight files, if they are PyTorch checkpoints,
        with dots between nested keys; None finds it.

    Returns
    -------
    Checkpoint

    Raises
    ------
    ValueError
        If no weight file can be read, an index does not match its shards or refers to
        other directories, or the directory has an adapter that cannot be averaged.
    """
    checkpoint = Checkpoint(
        str(path), "", path, {}, is_directory=True, config=_config(path)
    )
    classes = module_classes(path)
    folders = list(classes)
    for component in components(path):
        check_component(path / component)
    for module in folders:
        _check_supported(path / module, classes[module], is_root=not module)
        names, index = main_weight_files(path / module)
        shards = [detection.read(path / module / name, key) for name in names]
        if index is not None:
            _check_index(index, dict(zip(names, shards, strict=True)))
        for name, shard in zip(names, shards, strict=True):
            _add_weight_file(checkpoint, module, name, shard)
        if classes[module] in ONE_FILE:
            checkpoint.whole_files.update(
                f"{module}/{name}".lstrip("/") for name in names
            )
    if not checkpoint.layout and len(folders) == 1:
        raise ValueError(f"{path} contains no readable weights: {explain(path)}")
    files, left_out = auxiliary_files(path, folders)
    checkpoint.files.extend(files)
    checkpoint.training_files.extend(training_files(path))
    for module in filter(lambda module: (path / module).is_dir(), folders):
        _add_additional_files(checkpoint, module, left_out)
    if not checkpoint.layout:
        raise ValueError(f"{path} contains no readable weights: {explain(path)}")
    if left_out:
        checkpoint.notes.append(f"not in the result: {', '.join(left_out)}")
    checkpoint.notes.extend(
        f"{name} is copied from the first member, not averaged"
        for name in checkpoint.files
        if name.endswith(ARRAYS)
    )
    return checkpoint


def _check_supported(folder: Path, class_name: str, *, is_root: bool) -> None:
    """Check that the weights of a module can be read and averaged."""
    check_module(folder, class_name)
    if is_root:
        return  # checked with its tensors, see `unsupported_reasons`
    config = _config(folder)
    part = Checkpoint(str(folder), "", folder, {}, is_directory=True, config=config)
    for reason in unsupported_reasons(part):
        raise ValueError(reason)


def _config(path: Path) -> dict[str, Any]:
    """Configuration of the model or adapter; rejects adapters without a valid mean."""
    adapter, listed = path / "adapter_config.json", path / CONFIG
    if adapter.exists():
        config = read_json(adapter)
        peft_type = config.get("peft_type") if isinstance(config, dict) else None
        if peft_type not in LINEAR:
            raise ValueError(
                f"{path} is a PEFT adapter: the mean of its factors is not the mean of "
                f"its updates; {MERGE_ADAPTERS}"
            )
        listed = adapter
    config = read_json(listed) if listed.exists() else {}
    return config if isinstance(config, dict) else {}


def _check_index(index: Path, shards: dict[str, Checkpoint]) -> None:
    """Check that an index and its shards list the same tensors in the same files."""
    mapping = weight_map(index)
    stored: dict[str, str] = {}
    for shard, checkpoint in shards.items():
        for name in checkpoint.names:
            if name in stored:
                raise ValueError(
                    f"{index.parent}: tensor {name!r} is in two shards, {stored[name]} "
                    f"and {shard}; save the checkpoint again"
                )
            stored[name] = shard
    for name in sorted(stored.keys() | mapping.keys()):
        if stored.get(name) != mapping.get(name):
            raise ValueError(
                f"{index} and its shards must agree on tensor {name!r}: it is in "
                f"{mapping.get(name, 'no file')} by the index, and in "
                f"{stored.get(name, 'no file')} by the shards; save the checkpoint "
                "again"
            )


def _add_weight_file(
    checkpoint: Checkpoint, module: str, name: str, file: Checkpoint, inner: str = ""
) -> None:
    """Add a weight file of a module; ``inner`` is the prefix of an additional one."""
    folder = f"{module}/" if module else ""
    prefix = folder + inner
    layout = {prefix + tensor: value for tensor, value in file.layout.items()}
    checkpoint.layout.update(layout)
    checkpoint.aliases.update({prefix + a: prefix + n for a, n in file.aliases.items()})
    checkpoint.order.extend(prefix + tensor for tensor in file.names)
    checkpoint.parts[folder + name] = list(layout)
    checkpoint.records.extend(file.records)
    checkpoint.format = checkpoint.format or file.format
    if not checkpoint.metadata:
        checkpoint.metadata.update(file.metadata)
    if inner:
        checkpoint.extras[folder + name] = prefix
    for contents in file.beside.values():
        checkpoint.beside[folder + name] = contents
    checkpoint.notes.extend(f"{folder}{name}: {note}" for note in file.notes)


def _add_additional_files(
    checkpoint: Checkpoint, module: str, left_out: list[str]
) -> None:
    """Add the other weight files of a module, or note that they are left out."""
    folder = Path(str(checkpoint.path)) / module
    prefix = f"{module}/" if module else ""
    main = [f.removeprefix(prefix) for f in checkpoint.parts if _is_in(f, prefix)]
    copies, additional = other_weight_files(folder, main)
    if not module and (folder / PIPELINE).exists():
        # The components once more, with the names of the original code.
        left_out.extend(f"{name} (the pipeline in one file)" for name in additional)
        additional = []
    shapes = {
        name.removeprefix(prefix): checkpoint.layout[name].shape
        for file in main
        for name in checkpoint.parts[prefix + file]
    }
    stems = set()
    for name in sorted(additional, key=lambda name: not name.endswith(".safetensors")):
        file = _additional_file(checkpoint, folder / name, prefix + name, left_out)
        stem = Path(name).stem
        if file is None:
            continue
        if stem in stems or _is_copy(file, shapes):
            copies.append(name)
        else:
            stems.add(stem)
            _add_weight_file(checkpoint, module, name, file, f"{stem}/")
    if copies and main:
        checkpoint.notes.append(
            f"took {', '.join(prefix + name for name in main)}; left out further "
            f"copies or variants: {', '.join(prefix + name for name in sorted(copies))}"
        )


def _additional_file(
    checkpoint: Checkpoint, path: Path, name: str, left_out: list[str]
) -> Checkpoint | None:
    """Layout of an additional weight file; None if it is copied or left out."""
    error_message = ""
    try:
        if detection.detect(path) is not None:
            file = detection.read(path)
            reason = _reason_not_averaged(file)
            if reason is None:
                return file
            left_out.append(f"{name} ({reason})")
            return None
    except ImportError as error:
        left_out.append(f"{name} ({error})")
        return None
    except ValueError as error:
        error_message = str(error)
    reason = reason_not_copied(path, link_root(Path(str(checkpoint.path))))
    if reason is not None:
        left_out.append(f"{name} ({reason})")
        return None
    checkpoint.files.append(name)
    if error_message:
        checkpoint.notes.append(
            f"{name} is copied from the first member, not averaged: {error_message}"
        )
    return None


def _reason_not_averaged(file: Checkpoint) -> str | None:
    """Reason why an additional weight file cannot be averaged, None if it can."""
    adapter = adapter_in(file)
    if adapter is not None:
        return f"a {adapter[0]} adapter"
    if quantized_by(file):
        return "quantized weights"
    format_ = format_by_suffix(file.name)
    if format_ is None or format_.name != file.format:
        return f"its format {file.format!r} does not have this suffix"
    return None if format_.write else f"format {file.format!r} can only be read"


def _is_in(file: str, prefix: str) -> bool:
    return file.startswith(prefix) and "/" not in file.removeprefix(prefix)


def _is_copy(file: Checkpoint, main: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether most tensors of a file have a name and shape of the main weight files."""
    n_equal = sum(main.get(n) == t.shape for n, t in file.layout.items())
    return n_equal > 0 and 2 * n_equal >= min(len(main), len(file.layout))
