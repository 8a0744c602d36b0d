"""Find tied tensors: two names for one tensor, recognized by equal bytes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

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
SAMPLE = (
    1 << 12
)  # bytes compared first; tensors with equal samples are compared in full
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
    found = Ties({}, [{} for _ in members], {})
    names = dict.fromkeys(name for member in members for name in member.names)
    lacking = [name for name in names if any(not m.tensor(name) for m in members)]
    for name in lacking:
        _settle(found, name, members)
    flags = [flag for member in members for flag in _flags(member.config)]
    if any(flags):
        own = _flags(members[0].config)
        for name in names:
            if name not in lacking and HEAD.fullmatch(name):
                _declared(found, name, members, all(own) and bool(own))
    return found


def same_bytes(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same dtype, shape and bytes.

    Tensors are read in blocks. The result is cached while their sources exist.

    Parameters
    ----------
    one, other : Tensor
        Tensors in files or in memory.

    Returns
    -------
    bool
    """
    if one is other:
        return True
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    known = _KNOWN.setdefault(one.source, WeakKeyDictionary())
    places = known.setdefault(other.source, {})
    where = (one.offset, other.offset, one.nbytes)
    if where not in places:
        places[where] = _compared(one, other)
    return places[where]


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
    own = f"{name.rpartition('.')[0]}.bias"
    biases = {n for n, shape in shapes.items() if shape == shapes[name][:1]}
    return not biases or own in biases


def _settle(found: Ties, name: str, members: Sequence[Checkpoint]) -> None:
    """Add a name that only some members store to the ties, if it is tied."""
    holders = [m for m in members if m.tensor(name)]
    lackers = [i for i, m in enumerate(members) if not m.tensor(name)]
    twins = [twin for twin in _twins(holders[0], name) if _fits(twin, name, members)]
    for holder in holders[1:]:
        twins = [twin for twin in twins if _is_twin(holder, name, twin)]
    if twins and 0 in lackers:
        found.left_out[name] = twins[0]
    elif twins:
        for index in lackers:
            found.counted[index][name] = twins[0]
    elif HEAD.fullmatch(name):
        _assumed(found, name, members, lackers)


def _assumed(
    found: Ties, name: str, members: Sequence[Checkpoint], lackers: Sequence[int]
) -> None:
    """Add an output layer that some members do not store, because loading ties it."""
    head = next(tensor for m in members if (tensor := m.tensor(name)))
    kinds = [m.config.get("architectures") for m in members if m.tensor(name)]
    partners = {i: _partner(members[i], name, head) for i in lackers}
    for index in lackers:
        flags = _flags(members[index].config)
        own = members[index].config.get("architectures")
        # Without a flag, a member of the same class as one with the layer ties it.
        if not (any(flags) or (not flags and own and own in kinds)):
            return
    if all(partners.values()):
        for index, partner in partners.items():
            found.counted[index][name] = str(partner)
        if len(head.shape) > 1:
            found.untied[name] = str(partners[lackers[0]])


def _declared(
    found: Ties, name: str, members: Sequence[Checkpoint], is_decisive: bool
) -> None:
    """Add an output layer that all members store, although a configuration ties it."""
    head = members[0].tensor(name)
    if head is None or len(head.shape) != 2:
        return
    partner = _partner(members[0], name, head)
    if partner is None or not _fits(partner, name, members):
        return
    if all(_is_twin(member, name, partner) for member in members):
        if is_decisive:
            found.left_out[name] = partner
    else:
        found.untied[name] = partner


def _partner(member: Checkpoint, name: str, head: Tensor) -> str | None:
    """Name of the tensor that an output layer of this shape is tied to on loading."""
    alike = [
        other
        for other, tensor in member.layout.items()
        if other != name and tensor.shape == head.shape and is_float(tensor.dtype)
    ]
    if len(head.shape) == 1:
        alike = [other for other in alike if other.endswith("bias")]
        return alike[0] if len(alike) == 1 else None
    alike = [other for other in alike if not POSITION.fullmatch(other)]
    named = [other for other in alike if EMBEDDING.fullmatch(other)]
    if named or len(alike) > 1:  # a single candidate may have any name
        alike = named
    first = member.tensor(alike[0]) if alike else None
    others = [member.tensor(other) for other in alike[1:]]
    same = first and all(other and same_bytes(first, other) for other in others)
    return alike[0] if same else None


def _flags(config: Mapping[str, Any]) -> list[bool]:
    """Values of ``tie_word_embeddings``, at the top level and in ``text_config``."""
    levels = [config, config.get("text_config")]
    return [
        bool(level["tie_word_embeddings"])
        for level in levels
        if isinstance(level, dict) and level.get("tie_word_embeddings") is not None
    ]


def _fits(twin: str, name: str, members: Sequence[Checkpoint]) -> bool:
    """Whether every member has the twin, and both tensors the same shape everywhere."""
    shapes = {t.shape for m in members for n in (twin, name) if (t := m.tensor(n))}
    return len(shapes) == 1 and all(m.tensor(twin) for m in members)


def _twins(member: Checkpoint, name: str) -> Iterator[str]:
    """Other names in a member for the same tensor, or for one with the same bytes."""
    tensor = member.tensor(name)
    for other in member.names:
        held = member.tensor(other)
        if other == name or tensor is None or held is None:
            continue
        if held.shape == tensor.shape and _is_twin(member, name, other):
            yield other


def _is_twin(member: Checkpoint, name: str, other: str) -> bool:
    one, two = member.tensor(name), member.tensor(other)
    if one is None or two is None or one is two:
        return one is two and one is not None
    # Constant tensors, such as biases of zeros and norms of ones, are equal by chance.
    return same_bytes(one, two) and not _is_constant(one)


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


def _compared(one: Tensor, other: Tensor) -> bool:
    if not np.array_equal(_sample(one), _sample(other)):
        return False
    for start, stop in chunks(one.nbytes, STEP):
        first, second = np.empty((2, stop - start), np.uint8)
        one.source.read_into(first.data, one.offset + start)
        other.source.read_into(second.data, other.offset + start)
        if not np.array_equal(first, second):
            return False
    return True
