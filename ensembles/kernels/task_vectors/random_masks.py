# mypy: disable-error-code="no-untyped-def"
"""Random masks of elements, from a counter-based generator.

The generator is Philox4x32-10 of Salmon et al. (2011), "Parallel random numbers: as
easy as 1, 2, 3", SC '11, which passes TestU01 and is the generator of cuRAND and of
PyTorch on GPUs. A word is a function of key and counter alone, so that masks are the
same for any blocks, threads and shards.

Each element has a random number of 32 bits, so that probabilities are multiples of
2**-32. A counter of 16 elements gives the highest byte of each, which decides for 255
elements of 256. The other bytes are the highest of a word from a second counter, of
four elements, and computed where they matter.

The key and a word of the counter are a digest of the seed and the name of the tensor.
The other words of the counter are the index of its elements, and the member, with the
highest bit set in the second counter: two counters of a tensor are never equal.
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
FINE = np.uint32(1 << 31)  # bit of the second counter
BYTES = 16  # elements of a counter that have a byte each
WORDS = 4  # elements of a counter that have a word each
GROUP = 64  # elements that are searched for undecided ones at once


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
    """Random numbers of consecutive elements of a tensor.

    Parameters
    ----------
    seed : int
        Seed of a merge.
    name : str
        Name of the tensor.
    member : int
        Index of the member, below 2**31.
    start : int
        Index of the first element in the flat tensor.
    size : int
        Number of elements.

    Returns
    -------
    ndarray of shape (size,), uint32
    """
    key = stream_key(seed, name)
    part = start, start + size
    bytes_ = philox(key, member, *_counters(*part, BYTES)).view("u1")
    words = philox(key, member | int(FINE), *_counters(*part, WORDS))
    highest = bytes_[start % BYTES :][:size].astype(np.uint32) << np.uint32(24)
    return np.asarray(highest | words[start % WORDS :][:size] >> np.uint32(8))


def _counters(start: int, stop: int, n_elements: int) -> tuple[int, int]:
    """First counter of elements, and the number of counters."""
    first = start // n_elements
    return first, -(-stop // n_elements) - first


def philox(
    key: tuple[np.uint32, np.uint32, np.uint32], member: int, first: int, n: int
) -> Words:
    """Words of Philox4x32-10 for consecutive counters.

    Parameters
    ----------
    key : tuple of three uint32
        Key of the generator, and the last word of the counter.
    member : int
        Third word of the counter.
    first : int
        First two words of the first counter.
    n : int
        Number of counters.

    Returns
    -------
    ndarray of shape (4 * n,), uint32
    """
    counter = np.uint64(first) + np.arange(n, dtype=np.uint64)
    words = [np.uint64(word) for word in key]
    x: list[Any] = [counter & LOW, counter >> HALF, np.uint64(member), words.pop()]
    for _ in range(ROUNDS):
        left, right = FIRST * x[0], SECOND * x[2]
        x = [
            (right >> HALF) ^ x[1] ^ words[0],
            right & LOW,
            (left >> HALF) ^ x[3] ^ words[1],
            left & LOW,
        ]
        words[0] = (words[0] + np.uint64(FIRST_STEP)) & LOW
        words[1] = (words[1] + np.uint64(SECOND_STEP)) & LOW
    return np.stack(x, axis=1).astype("<u4").reshape(-1)


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
        stream = *stream_key(seed, name), np.uint32(member)
        _scale_randomly(values, probabilities, factors, stream, start)
        return
    words = random_words(seed, name, member, start, values.size)
    with np.errstate(all="ignore"):  # infinity times 0
        values *= np.where(words * RESOLUTION < probabilities, factors, 0.0)


@compiled
def _scale_randomly(values, probabilities, factors, stream, start):
    bytes_, bounds = np.empty(values.size, np.uint8), np.empty(values.size, np.uint16)
    find_bounds(probabilities, bounds)
    mask_row(probabilities, bounds, stream, start, bytes_)
    scale_row(values, bytes_, factors)


@inlined
def _round_of_philox(x0, x1, x2, x3, key0, key1):
    left, right = FIRST * np.uint64(x0), SECOND * np.uint64(x2)
    # Numba widens integers to 64 bits.
    y0 = np.uint32((right >> HALF) ^ np.uint64(x1) ^ np.uint64(key0))
    y2 = np.uint32((left >> HALF) ^ np.uint64(x3) ^ np.uint64(key1))
    return y0, np.uint32(right & LOW), y2, np.uint32(left & LOW)


@inlined
def _words_at(stream, block):
    """Words of a counter of the stream of a member: a key, and the member."""
    x0, x1, x2, x3 = (
        np.uint32(block & LOW),
        np.uint32(block >> HALF),
        stream[3],
        stream[2],
    )
    key0, key1 = stream[0], stream[1]
    for _ in range(ROUNDS):
        x0, x1, x2, x3 = _round_of_philox(x0, x1, x2, x3, key0, key1)
        key0, key1 = np.uint32(key0 + FIRST_STEP), np.uint32(key1 + SECOND_STEP)
    return x0, x1, x2, x3


@compiled
def _fill_words(stream, first_block, words):
    """Write the words of consecutive counters."""
    for j in range(words.size // 4):
        x0, x1, x2, x3 = _words_at(stream, np.uint64(first_block) + np.uint64(j))
        words[4 * j], words[4 * j + 1] = x0, x1
        words[4 * j + 2], words[4 * j + 3] = x2, x3


@compiled
def find_bounds(probabilities, bounds):
    """Write bounds of the highest byte: elements with a smaller one are kept."""
    for j in range(bounds.size):
        bounds[j] = np.uint16(np.int32(probabilities[j] * 256))


@compiled
def mask_row(probabilities, bounds, stream, start, mask):
    """Write 1 for the elements that are kept, and 0 for others.

    ``stream`` is a key of three words and the member; ``start`` is the index of the
    first element.
    """
    words = np.empty(LANE // 4, np.uint32)
    bytes_ = words.view(np.uint8)
    for first in range(-(start % BYTES), mask.size, LANE):
        _fill_words(stream, (start + first) // BYTES, words)
        low, high = max(first, 0), min(first + LANE, mask.size)
        part, part_bounds = mask[low:high], bounds[low:high]
        _compare(bytes_[low - first : high - first], part_bounds, part)
        for j in range(0, part.size, GROUP):
            group = part[j : j + GROUP]
            if _any_undecided(group):
                p = probabilities[low + j : low + j + group.size]
                _decide(group, part_bounds[j : j + GROUP], p, stream, start + low + j)


@compiled
def _compare(bytes_, bounds, mask):
    """Write 1 for bytes below their bound, 2 for equal ones, and 0 for others."""
    for j in range(mask.size):
        byte = np.uint16(bytes_[j])
        mask[j] = np.uint8(byte < bounds[j]) | (np.uint8(byte == bounds[j]) << 1)


@compiled
def _any_undecided(mask):
    bits = np.uint8(0)
    for j in range(mask.size):
        bits = np.uint8(bits | mask[j])
    return bits > 1


@compiled
def _decide(mask, bounds, probabilities, stream, start):
    """Replace each 2 in a mask, by the other bytes of the random number."""
    fine = stream[0], stream[1], stream[2], np.uint32(stream[3] | FINE)
    for j in range(mask.size):
        if mask[j] > 1:
            words = _words_at(fine, np.uint64(start + j) // np.uint64(WORDS))
            word = words[(start + j) % WORDS]
            number = np.uint64(bounds[j]) << np.uint64(24) | np.uint64(
                word
            ) >> np.uint64(8)
            mask[j] = np.float64(number) * RESOLUTION < probabilities[j]


@compiled
def scale_row(values, mask, factors):
    """Multiply values by their factors where the mask is 1, and else by 0."""
    for j in range(values.size):
        factor = factors[j]  # a load in a branch is not vectorized
        values[j] *= factor if mask[j] else 0.0
