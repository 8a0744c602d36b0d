"""Detect adapters that store factors of an update (LoRA and others) by tensor name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from ensembles.checkpoints.formats.checkpoint import Checkpoint, Tensor
from ensembles.dtypes import is_float

# Components of tensor names by family. Families whose update is linear in the stored
# tensors (IA3, prompts, C3A, MiSS, SHiRA) are not listed: their mean is well defined.
FAMILIES = {
    "PEFT": r"(\w+_)?lora_(embedding_)?[AB]\d*|lora_magnitude_vector|lora_E|lora_diag",
    "LoRA": (
        r"lora_(up|down|mid)|(\w*_)?lora\d*[._/](up|down|mid)|lora_linear_layer"
        r"|(\w+_)?lora(_(kernel|embeddings))?[._/]?[ab]|lora[AB]|lora[./][AB]"
        r"|(lora\w*_)?adapter(_(q|k|v|up|gate))?\.linear_(in|out)|lora_controlnet"
        r"|(unet|text_encoder\w*):\d+:(up|down)"  # lora_diffusion's, without alpha
    ),
    "DoRA": r"dora_scale",
    "LoHa": r"hada_\w+",
    "LoKr": r"lokr_\w+",
    "GLoRA": r"glora_\w+",
    "OFT": r"oft_(r|s|R|diag|blocks|embedding_R)|psoft_R",
    "Compacter": r"phm_rule(_left|_right)?",
    "BOFT": r"boft_[Rs]",
    "VeRA": r"p?vera_(A|B|lambda_[bd])",
    "VB-LoRA": r"vblora_\w+",
    "FourierFT": r"(fourierft|waveft)_\w+",
    "HRA": r"hra_u",
    "RandLoRA": r"randlora_\w+",
    "DeLoRA": r"delora_\w+",
    "GraLoRA": r"gralora_\w+",
    "TinyLoRA": r"(tinylora|unilora)_\w+",
    "RoAd": r"road_(theta|alpha)",
    "Poly": r"poly_(lora_[AB]|router)",
    "HiRA": r"hira_(embedding_)?[AB]",
    "AdaMSS": r"adamss_[AB]",
    "OSF": r"osf_\w+",
    "DEFT": r"deft_[PR]",
    "FRoD": r"frod_\w+",
    "Lily": r"lily_([AB]|router)",
    "PEANuT": r"peanut_\w+",
    "SuperTuning": r"supertuning_\w+",
}
ADAPTER = re.compile(
    r"(?:.*[./])?(?:"
    + "|".join(f"(?P<f{i}>{pattern})" for i, pattern in enumerate(FAMILIES.values()))
    + r")(?:[./].*)?"
)
MERGE_ADAPTERS = (  # advice in messages
    "merge each adapter into its base model first, or LoRA adapters with each other by "
    "average_adapters (ensemble avg without --base)"
)
RANK = re.compile(r"(alpha|rank|r|scale|scaling|lambda_layer)")
NUMBER = re.compile(r"\d+")
MOST = 0.8  # fraction of low-rank tensors above which a file is an adapter


def adapter_in(checkpoint: Checkpoint) -> tuple[str, str] | None:
    """Adapter family of a checkpoint, with the name of a matching tensor.

    Parameters
    ----------
    checkpoint : Checkpoint
        Checkpoint whose tensor names and shapes are examined; no tensor is read.

    Returns
    -------
    (str, str) or None
        Family and tensor name. None without adapters, or if their update is linear in
        the stored tensors.
    """
    for name in names_by_pattern(checkpoint.layout):
        match = ADAPTER.fullmatch(name)
        if match:
            index = next(i for i in range(len(FAMILIES)) if match[f"f{i}"])
            return list(FAMILIES)[index], name
    factor = _low_rank(checkpoint.layout)
    return ("low-rank", factor) if factor else None


def names_by_pattern(layout: Mapping[str, Tensor]) -> Iterable[str]:
    """One tensor name for each pattern of names that differ only in numbers.

    Names of layers and experts, for example, differ only in their index.

    Parameters
    ----------
    layout : mapping of str to Tensor
        Tensors by name.

    Returns
    -------
    iterable of str
        First name of each pattern and dtype, in the order of the layout.
    """
    first: dict[tuple[str, object], str] = {}
    for name, tensor in layout.items():
        first.setdefault((NUMBER.sub("0", name), tensor.dtype), name)
    return first.values()


def _low_rank(layout: Mapping[str, Tensor]) -> str | None:
    """Name of a low-rank factor, if most tensors are such factors or their alphas.

    A few do not count: a gate called alpha beside a bottleneck is a usual layer.
    """
    if all(tensor.size != 1 for tensor in layout.values()):
        return None
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in layout.items():
        stem, _, last = name.removesuffix(".weight").rpartition(".")
        if stem:
            groups.setdefault(stem, {})[last] = tensor
    n_low_rank, first = 0, None
    for stem, members in groups.items():
        scalar = any(RANK.fullmatch(n) and t.size == 1 for n, t in members.items())
        factor = _factor(members) if scalar else None
        if factor is not None:
            n_low_rank += len(members)
            first = first or f"{stem}.{factor}"
    return first if n_low_rank > MOST * len(layout) else None


def _factor(members: Mapping[str, Tensor]) -> str | None:
    """Name of a matrix whose product with another has a small inner dimension."""
    matrices = {
        name: (tensor.shape[0], tensor.size // tensor.shape[0])
        for name, tensor in members.items()
        if len(tensor.shape) >= 2 and tensor.size and is_float(tensor.dtype)
    }
    for name, (rank, n_in) in matrices.items():
        for other, (n_out, inner) in matrices.items():
            if other != name and inner == rank < min(n_in, n_out):
                return name
    return None
