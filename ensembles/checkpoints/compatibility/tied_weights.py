"""Find tied tensors: names of the same tensor, recognized by equal bytes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from ensembles.checkpoints.compatibility.layers import split_layer
from ensembles.checkpoints.formats.checkpoint import Checkpoint, Source, Tensor
from ensembles.dtypes import is_float
from ensembles.parallel import chunks

# An output layer is recognized by its last module, an input embedding by any part.
HEAD = re.compile(
    r"(?:.*[._])?(?:head|embed_out|proj_out|output|output_projection|lm_loss|decoder"
    r"|pred_layer\.proj|unembed\w*|vocab_projector|out_proj|lm_head\.decoder)\.(?:weight|bias)"
)
EMBEDDING = re.compile(r".*(?:emb|wte|shared).*")
POSITION = re.compile(r".*(?:pos|token_type).*")
# Bytes compared first; tensors with equal samples are compared in full.
SAMPLE = 1 << 12
STEP = 1 << 20  # bytes
# Results of comparisons, by the two sources, then offsets and size.
_Known = WeakKeyDictionary[Source, dict[tuple[int, int, int], bool]]
_KNOWN: WeakKeyDictionary[Source, _Known] = WeakKeyDictionary()


class Ties(NamedTuple):
    """Tied tensors of members, by name.

    Parameters
    ----------
    left_out : dict of str to str
        Names to leave out of the average, because the first member does not store them
        or ties them in its configuration, to the tensor with the same bytes in every
        member that stores the name.
    counted : list of dict of str to str
        For each member, names that it does not store, to its tensor that they are tied
        to.
    untied : dict of str to str
        Output layers with separate parameters although the configuration of a member
        ties them, to the embedding that they would be tied to.
    """

    left_out: dict[str, str]
    counted: list[dict[str, str]]
    untied: dict[str, str]


def find_ties(members: Sequence[Checkpoint]) -> Ties:
    """Tied tensors of members that store or declare them in different ways.

    Tensors are read only if a member lacks a name that another member has, or if a
    configuration sets ``tie_word_embeddings`` although an output layer is stored.

    Parameters
    ----------
    members : sequence of Checkpoint
        Members with matching tensor names, see `match_first_names`.

    Returns
    -------
    Ties
    """
    ties = Ties({}, [{} for _ in members], {})
    names = dict.fromkeys(name for member in members for name in member.names)
    lacking = [name for name in names if any(not m.tensor(name) for m in members)]
    is_stack = any(member.made_from for member in members)
    for name in lacking:
        # In a stack, a layer may be repeated without being tied.
        if not (is_stack and split_layer(name)):
            _add_partly_stored(ties, name, members)
    flags = [flag for member in members for flag in _flags(member.config)]
    if any(flags):
        first_flags = _flags(members[0].config)
        for name in names:
            if name not in lacking and HEAD.fullmatch(name):
                _add_declared(
                    ties, name, members, all(first_flags) and bool(first_flags)
                )
    return ties


def same_bytes(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors have the same dtype, shape and bytes.

    Tensors are read in blocks. The result is cached while their sources exist.

    Parameters
    ----------
    first, second : Tensor
        Tensors in files or in memory.

    Returns
    -------
    bool
    """
    if first is second:
        return True
    if (first.dtype, first.shape) != (second.dtype, second.shape):
        return False
    by_source = _KNOWN.setdefault(first.source, WeakKeyDictionary())
    by_offsets = by_source.setdefault(second.source, {})
    offsets = (first.offset, second.offset, first.nbytes)
    if offsets not in by_offsets:
        by_offsets[offsets] = _have_equal_bytes(first, second)
    return by_offsets[offsets]


def untied_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Configuration with ``tie_word_embeddings`` set to false.

    Parameters
    ----------
    config : mapping of str to value
        Content of ``config.json`` in a Hugging Face directory.

    Returns
    -------
    dict of str to value
        Modified copy, including ``text_config`` if that has the flag.
    """
    changed = {**config, "tie_word_embeddings": False}
    inner = config.get("text_config")
    if isinstance(inner, dict) and "tie_word_embeddings" in inner:
        changed["text_config"] = {**inner, "tie_word_embeddings": False}
    return changed


def may_untie(config: Mapping[str, Any], name: str, shapes: Mapping[str, Any]) -> bool:
    """Whether an average may set ``tie_word_embeddings`` to false.

    In an encoder-decoder, the flag also ties the embeddings. In a masked language
    model it also ties a bias, which would be missing from the untied layer.

    Parameters
    ----------
    config : mapping of str to value
        Configuration of the first member.
    name : str
        Tensor name of the output layer.
    shapes : mapping of str to tuple of int
        Shapes of all tensors in the average, by name.

    Returns
    -------
    bool
    """
    if not config or config.get("is_encoder_decoder"):
        return False
    bias_name = f"{name.rpartition('.')[0]}.bias"
    biases = {n for n, shape in shapes.items() if shape == shapes[name][:1]}
    return not biases or bias_name in biases


def _add_partly_stored(ties: Ties, name: str, members: Sequence[Checkpoint]) -> None:
    """Add a name that only some members store to the ties, if it is tied."""
    holders = [m for m in members if m.tensor(name)]
    without = [i for i, m in enumerate(members) if not m.tensor(name)]
    partners = [
        partner
        for partner in _tied_names(holders[0], name)
        if _fits(partner, name, members)
    ]
    for holder in holders[1:]:
        partners = [partner for partner in partners if _is_tied(holder, name, partner)]
    if partners and 0 in without:
        ties.left_out[name] = partners[0]
    elif partners:
        for index in without:
            ties.counted[index][name] = partners[0]
    elif HEAD.fullmatch(name):
        _add_tied_on_loading(ties, name, members, without)


def _add_tied_on_loading(
    ties: Ties, name: str, members: Sequence[Checkpoint], without: Sequence[int]
) -> None:
    """Add an output layer that loading ties in the members that do not store it."""
    head = next(tensor for m in members if (tensor := m.tensor(name)))
    known_architectures = [
        m.config.get("architectures") for m in members if m.tensor(name)
    ]
    partners = {i: _partner(members[i], name, head) for i in without}
    for index in without:
        flags = _flags(members[index].config)
        architectures = members[index].config.get("architectures")
        # Without a flag, a member of the same class as one with the layer ties it.
        if not (
            any(flags)
            or (not flags and architectures and architectures in known_architectures)
        ):
            return
    if all(partners.values()):
        for index, partner in partners.items():
            ties.counted[index][name] = str(partner)
        if len(head.shape) > 1:
            ties.untied[name] = str(partners[without[0]])


def _add_declared(
    ties: Ties, name: str, members: Sequence[Checkpoint], is_decisive: bool
) -> None:
    """Add an output layer that all members store, although a configuration ties it."""
    head = members[0].tensor(name)
    if head is None or len(head.shape) != 2:
        return
    partner = _partner(members[0], name, head)
    if partner is None or not _fits(partner, name, members):
        return
    if all(_is_tied(member, name, partner) for member in members):
        if is_decisive:
            ties.left_out[name] = partner
    else:
        ties.untied[name] = partner


def _partner(member: Checkpoint, name: str, head: Tensor) -> str | None:
    """Name of the tensor that an output layer of this shape is tied to on loading."""
    candidates = [
        other
        for other, tensor in member.layout.items()
        if other != name and tensor.shape == head.shape and is_float(tensor.dtype)
    ]
    if len(head.shape) == 1:
        candidates = [other for other in candidates if other.endswith("bias")]
        return candidates[0] if len(candidates) == 1 else None
    candidates = [other for other in candidates if not POSITION.fullmatch(other)]
    embeddings = [other for other in candidates if EMBEDDING.fullmatch(other)]
    if embeddings or len(candidates) > 1:  # a single candidate may have any name
        candidates = embeddings
    first = member.tensor(candidates[0]) if candidates else None
    others = [member.tensor(other) for other in candidates[1:]]
    same = first and all(other and same_bytes(first, other) for other in others)
    return candidates[0] if same else None


def _flags(config: Mapping[str, Any]) -> list[bool]:
    """Values of ``tie_word_embeddings``, at the top level and in ``text_config``."""
    levels = [config, config.get("text_config")]
    return [
        bool(level["tie_word_embeddings"])
        for level in levels
        if isinstance(level, dict) and level.get("tie_word_embeddings") is not None
    ]


def _fits(partner: str, name: str, members: Sequence[Checkpoint]) -> bool:
    """Whether every member has the partner, with the shape of the named tensor."""
    shapes = {t.shape for m in members for n in (partner, name) if (t := m.tensor(n))}
    return len(shapes) == 1 and all(m.tensor(partner) for m in members)


def _tied_names(member: Checkpoint, name: str) -> Iterator[str]:
    """Names of a member's other tensors that are the same tensor or have its bytes."""
    tensor = member.tensor(name)
    for other in member.names:
        candidate = member.tensor(other)
        if other == name or tensor is None or candidate is None:
            continue
        if candidate.shape == tensor.shape and _is_tied(member, name, other):
            yield other


def _is_tied(member: Checkpoint, name: str, other: str) -> bool:
    first, second = member.tensor(name), member.tensor(other)
    if first is None or second is None or first is second:
        return first is second and first is not None
    # Constant tensors, such as biases of zeros and norms of ones, are equal by chance.
    return same_bytes(first, second) and not _is_constant(first)


def _is_constant(tensor: Tensor) -> bool:
    sample = _sample(tensor).view(tensor.dtype)
    return bool((sample == sample[0]).all()) if len(sample) else True


def _sample(tensor: Tensor) -> np.ndarray[Any, Any]:
    """Bytes from the middle: padding rows are at the beginning or the end."""
    size = min(tensor.size, SAMPLE // tensor.dtype.itemsize)
    sample = np.empty(size * tensor.dtype.itemsize, np.uint8)
    start = (tensor.size - size) // 2 * tensor.dtype.itemsize
    tensor.source.read_into(sample.data, tensor.offset + start)
    return sample


def _have_equal_bytes(first: Tensor, second: Tensor) -> bool:
    if not np.array_equal(_sample(first), _sample(second)):
        return False
    for start, stop in chunks(first.nbytes, STEP):
        first_block, second_block = np.empty((2, stop - start), np.uint8)
        first.source.read_into(first_block.data, first.offset + start)
        second.source.read_into(second_block.data, second.offset + start)
        if not np.array_equal(first_block, second_block):
            return False
    return True
