"""Weights and configuration of an extracted adapter, as PEFT loads them."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ensembles._typing import Array
from ensembles.checkpoints.adapters.adapter_card import extraction_card
from ensembles.checkpoints.adapters.conversion.changes import Changes
from ensembles.checkpoints.compatibility.configuration import CARD
from ensembles.checkpoints.formats.checkpoint import Checkpoint, MemorySource, Tensor
from ensembles.checkpoints.formats.detection import writer_for
from ensembles.checkpoints.formats.lora.peft import PREFIX
from ensembles.checkpoints.formats.lora.peft_config import BASE_LAYER
from ensembles.checkpoints.formats.output import OutputFile
from ensembles.checkpoints.planning.plan import Plan
from ensembles.parallel import chunks

HEAD = "lm_head.weight"  # of language models in transformers
EMBEDDING = re.compile(r"(.*\.)?(embed_tokens|wte|word_embeddings|embed_in)\.weight")
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PIECE = 1 << 20  # bytes
# End of the name of an architecture in transformers, to PEFT's task.
TASKS = {
    "ForCausalLM": "CAUSAL_LM",
    "LMHeadModel": "CAUSAL_LM",
    "ForSequenceClassification": "SEQ_CLS",
    "ForTokenClassification": "TOKEN_CLS",
    "ForQuestionAnswering": "QUESTION_ANS",
}


class StoredFactors(NamedTuple):
    """Factors of a module in the format of the adapter.

    Parameters
    ----------
    module : str
        Name of the module.
    a : ndarray of shape (rank, n_inputs)
        First factor.
    b : ndarray of shape (n_outputs, rank)
        Second factor.
    has_inputs_first : bool
        Whether the base stores the weight as (n_inputs, n_outputs).
    """

    module: str
    a: Array
    b: Array
    has_inputs_first: bool


def write_files(
    folder: Path, factors: Mapping[str, StoredFactors], changes: Changes, planned: Plan
) -> int:
    """Write the weights, the configuration and the model card of an adapter.

    Parameters
    ----------
    folder : Path
        Directory to write to.
    factors : mapping of str to StoredFactors
        Factors by module.
    changes : Changes
        Other tensors to store.
    planned : Plan
        Plan with the model and its base.

    Returns
    -------
    int
        Size of the tensors in bytes.
    """
    named = _tensors(factors, changes)
    assert planned.base is not None  # the rule needs one
    embedding = _tied_embedding(planned.base, changes)
    if embedding is not None:  # which PEFT saves under both names
        named[HEAD] = named[embedding]
    tensors = {PREFIX + name: tensor for name, tensor in named.items()}
    layout = {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
    order = sorted(layout, key=lambda name: (-layout[name][0].itemsize, name))
    file = OutputFile(
        path=folder / WEIGHTS,
        name=WEIGHTS,
        layout={name: layout[name] for name in order},
        aliases={},
        order=tuple(order),
        metadata={"format": "pt"},
    )
    with contextmanager(writer_for(WEIGHTS))(file) as sinks:
        for name, tensor in tensors.items():
            for start, stop in chunks(tensor.nbytes, PIECE):
                buffer = memoryview(bytearray(stop - start))
                tensor.source.read_into(buffer, tensor.offset + start)
                sinks[name].write(buffer, start)
    text = json.dumps(_config(factors, changes, planned), indent=2) + "\n"
    (folder / CONFIG).write_text(text, encoding="utf-8")
    ranks = [len(stored.a) for stored in factors.values()]
    card = extraction_card(planned.members[0], planned.base, ranks)
    (folder / CARD).write_text(card, encoding="utf-8")
    return sum(tensor.nbytes for tensor in tensors.values())


def _tensors(
    factors: Mapping[str, StoredFactors], changes: Changes
) -> dict[str, Tensor]:
    """Tensors of the adapter, by name without the prefix of PEFT."""
    tensors = {}
    for stored in factors.values():
        for part, array in (("A", stored.a), ("B", stored.b)):
            source = MemorySource(array)
            tensor = Tensor(array.dtype, array.shape, source, 0)
            tensors[f"{stored.module}.lora_{part}.weight"] = tensor
    # PEFT has the layer itself inside of the module that adds the update.
    for pair in changes.biases:
        layer = BASE_LAYER if pair.module in factors else ""
        tensors[f"{pair.module}{layer}.bias"] = pair.tuned
    for pairs in changes.saved.values():
        tensors |= {pair.name: pair.tuned for pair in pairs}
    return tensors


def _config(
    factors: Mapping[str, StoredFactors], changes: Changes, planned: Plan
) -> dict[str, Any]:
    """Content of ``adapter_config.json``: the scale of all modules is 1."""
    base = planned.base
    assert base is not None  # the rule needs one
    config = base.config or planned.members[0].config
    ranks = {module: len(stored.a) for module, stored in factors.items()}
    rank = Counter(ranks.values()).most_common(1)[0][0] if ranks else 1
    # PEFT reads names as regular expressions.
    others = {re.escape(name): r for name, r in ranks.items() if r != rank}
    return {
        "peft_type": "LORA",
        "task_type": _task(config),
        "base_model_name_or_path": str(config.get("_name_or_path") or base.path or ""),
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": others,
        "alpha_pattern": others,
        "target_modules": sorted(factors),
        "modules_to_save": sorted(changes.saved) or None,
        "bias": "all" if changes.biases else "none",
        "fan_in_fan_out": any(stored.has_inputs_first for stored in factors.values()),
        "ensure_weight_tying": _tied_embedding(base, changes) is not None,
        "lora_dropout": 0.0,
        "use_rslora": False,
        "inference_mode": True,
    }


def _task(config: Mapping[str, Any]) -> str | None:
    """Task of PEFT, by the architecture of the model."""
    architecture = next(iter(config.get("architectures") or ()), "")
    if config.get("is_encoder_decoder"):
        return "SEQ_2_SEQ_LM"
    ends = (task for end, task in TASKS.items() if architecture.endswith(end))
    return next(ends, None)


def _tied_embedding(base: Checkpoint, changes: Changes) -> str | None:
    """Name of an embedding that is stored whole and tied to the output layer."""
    is_language_model = _task(base.config) == "CAUSAL_LM"
    if not is_language_model or any(name.endswith(HEAD) for name in base.layout):
        return None
    saved = (pair.name for pairs in changes.saved.values() for pair in pairs)
    return next(filter(EMBEDDING.fullmatch, saved), None)
