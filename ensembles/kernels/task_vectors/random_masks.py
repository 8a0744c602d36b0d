# mypy: disable-error-code="no-untyped-def"
"""Random masks of elements, from a counter-based generator.

The generator is Philox4x32-10 of Salmon et al. (2011), "Parallel random numbers: as
easy as 1, 2, 3", SC '11, which passes TestU01 and is the generator of cuRAND and of
PyTorch on GPUs. A word is a function of key and counter alone, so that masks are the
same for any blocks, threads and shards. Each element has a word of 32 bits, so that
probabilities are multiples of 2**-32.

The key and a word of the counter are a digest of the seed and the name of the tensor.
The other words of the counter are the member and the index of four elements, so that
two elements or members of a tensor never have the same counter.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensembles._typing import Float64
from ensembles.kernels.jit import LANE, compiled, inlined, use_loops

Words = NDArray[np.uint32]

RESOLUTION = 2.0**-32  # of probabilities
# Constants of Philox4x32: two multipliers, and what is added to the key in each round.
FIRST, SECOND = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
FIRST_STEP, SECOND_STEP = np.uint32(0x9E3779B9), np.uint32(0xBB67AE85)
ROUNDS = 10
HALF, LOW = np.uint64(32), np.uint64(0xFFFFFFFF)  # bits and mask of a word


@lru_cache(maxsize=256)
def stream_key(seed: int, name: str) -> tuple[np.uint32, np.uint32, np.uint32]:
    """Key of the random words of a tensor.

    Parameters
    ----------
    seed : int
        Seed of a merge.
    name : str
        Name of the tensor.

    Returns
    -------
    tuple of three uint32
        Key of the generator, and a word of its counter.
    """
    text = f"{seed} {name}".encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(text, digest_size=12).digest()
    first, second, third = np.frombuffer(digest, "<u4").astype(np.uint32)
    return first, second, third


def random_words(seed: int, name: str, member: int, start: int, size: int) -> Words:
    """Random words of consecutive elements of a tensor.

    Parameters
    ----------
    seed : int
        Seed of a merge.
    name : str
        Name of the tensor.
    member : int
        Index of the member.
    start : int
        Index of the first element in the flat tensor.
    size : int
        Number of elements.

    Returns
    -------
    ndarray of shape (size,), uint32
    """
    first_block, offset = divmod(start, 4)
    n_blocks = (offset + size + 3) // 4
    counter = np.uint64(first_block) + np.arange(n_blocks, dtype=np.uint64)
    key = [np.uint64(word) for word in stream_key(seed, name)]
    x: list[Any] = [counter & LOW, counter >> HALF, np.uint64(member), key.pop()]
    for _ in range(ROUNDS):
        left, right = FIRST * x[0], SECOND * x[2]
        x = [
            (right >> HALF) ^ x[1] ^ key[0],
            right & LOW,
            (left >> HALF) ^ x[3] ^ key[1],
            left & LOW,
        ]
        key[0] = (key[0] + np.uint64(FIRST_STEP)) & LOW
        key[1] = (key[1] + np.uint64(SECOND_STEP)) & LOW
    words = np.stack(x, axis=1).astype(np.uint32).reshape(-1)
    return np.asarray(words[offset : offset + size])


def add_randomly(
    stack: Float64,
    base: Float64,
    probabilities: Float64,
    factors: Float64,
    out: Float64,
    *,
    seed: int,
    name: str,
    start: int,
) -> None:
    """Add the differences from the base that are kept, multiplied by factors.

    Parameters
    ----------
    stack : ndarray of shape (n_members, size)
        Consecutive elements of a tensor of each member.
    base : ndarray of shape (size,)
        The same elements of the base.
    probabilities : ndarray of shape (n_members,), from 2**-32 to 1
        Probability of keeping an element of each member, rounded up to a multiple of
        2**-32.
    factors : ndarray of shape (n_members,)
        Factor of each member; members with factor 0 are ignored.
    out : ndarray of shape (n_members, size) or (1, size)
        The differences of each member are added to its row, or all to a single row. A
        difference that is NaN or infinite makes the entry NaN if it is not kept.
    seed : int
        Seed of a merge.
    name : str
        Name of the tensor.
    start : int
        Index of the first element in the flat tensor.
    """
    if use_loops(8 * stack.size):
        key = stream_key(seed, name)
        _add_randomly(stack, base, probabilities, factors, *key, start, out)
        return
    for member, factor in enumerate(factors.tolist()):
        if factor == 0:
            continue
        words = random_words(seed, name, member, start, base.size)
        is_kept = words * RESOLUTION < probabilities[member]
        with np.errstate(all="ignore"):  # infinities
            differences = (stack[member] - base) * np.where(is_kept, factor, 0.0)
            out[min(member, len(out) - 1)] += differences


def scale_randomly(
    values: Float64,
    probabilities: Float64,
    factors: Float64,
    *,
    seed: int,
    name: str,
    member: int,
    start: int,
) -> None:
    """Multiply values by their factors, and by 0 if they are not kept, in place.

    Parameters
    ----------
    values : ndarray of shape (size,)
        Values of consecutive elements of a tensor; NaN and infinity become NaN if they
        are not kept.
    probabilities : ndarray of shape (size,), from 2**-32 to 1
        Probability of keeping each element, rounded up to a multiple of 2**-32.
    factors : ndarray of shape (size,)
        Factor of each element.
    seed : int
        Seed of a merge.
    name : str
        Name of the tensor.
    member : int
        Index of the member.
    start : int
        Index of the first element in the flat tensor.
    """
    if use_loops(8 * values.size):
        key = stream_key(seed, name)
        _scale_randomly(values, probabilities, factors, *key, np.uint32(member), start)
        return
    words = random_words(seed, name, member, start, values.size)
    with np.errstate(all="ignore"):  # infinity times 0
        values *= np.where(words * RESOLUTION < probabilities, factors, 0.0)


@inlined
def _round_of_philox(x0, x1, x2, x3, key0, key1):
    left, right = FIRST * np.uint64(x0), SECOND * np.uint64(x2)
    # Numba widens integers to 64 bits.
    y0 = np.uint32((right >> HALF) ^ np.uint64(x1) ^ np.uint64(key0))
    y2 = np.uint32((left >> HALF) ^ np.uint64(x3) ^ np.uint64(key1))
    return y0, np.uint32(right & LOW), y2, np.uint32(left & LOW)


@compiled
def _fill_words(key0, key1, key2, member, first_block, words):
    """Write the words of consecutive blocks of 4 elements."""
    for j in range(words.size // 4):
        block = np.uint64(first_block) + np.uint64(j)
        x0, x1 = np.uint32(block & LOW), np.uint32(block >> HALF)
        x2, x3, k0, k1 = member, key2, key0, key1
        for _ in range(ROUNDS):
            x0, x1, x2, x3 = _round_of_philox(x0, x1, x2, x3, k0, k1)
            k0, k1 = np.uint32(k0 + FIRST_STEP), np.uint32(k1 + SECOND_STEP)
        words[4 * j], words[4 * j + 1] = x0, x1
        words[4 * j + 2], words[4 * j + 3] = x2, x3


@compiled
def _add_lane(values, base, words, out, probability, factor):
    for j in range(values.size):
        is_kept = np.float64(words[j]) * RESOLUTION < probability
        out[j] += (values[j] - base[j]) * (factor if is_kept else 0.0)


@compiled
def _add_randomly(stack, base, probabilities, factors, key0, key1, key2, start, out):
    words = np.empty(LANE, np.uint32)
    for first in range(-(start % 4), base.size, LANE):
        low, high = max(first, 0), min(first + LANE, base.size)
        for i in range(len(stack)):
            if factors[i] == 0:
                continue
            block = (start + first) // 4
            _fill_words(key0, key1, key2, np.uint32(i), block, words)
            _add_lane(
                stack[i, low:high],
                base[low:high],
                words[low - first : high - first],
                out[min(i, len(out) - 1), low:high],
                probabilities[i],
                factors[i],
            )


@compiled
def _scale_lane(values, words, probabilities, factors):
    for j in range(values.size):
        is_kept = np.float64(words[j]) * RESOLUTION < probabilities[j]
        values[j] *= factors[j] if is_kept else 0.0


@compiled
def _scale_randomly(values, probabilities, factors, key0, key1, key2, member, start):
    words = np.empty(LANE, np.uint32)
    for first in range(-(start % 4), values.size, LANE):
        _fill_words(key0, key1, key2, member, (start + first) // 4, words)
        low, high = max(first, 0), min(first + LANE, values.size)
        _scale_lane(
            values[low:high],
            words[low - first : high - first],
            probabilities[low:high],
            factors[low:high],
        )
