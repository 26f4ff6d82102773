"""Places 0..n-1 and a key -> the same places, shuffled: a permutation that is computed where it is asked for, never stored."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import xxhash

from mmu_pipeline.sky import Int

UInt = npt.NDArray[np.uint64]

ROUNDS = 6
_STEP = 0x9E3779B97F4A7C15
_SALTS = [np.uint64((number + 1) * _STEP % 2**64) for number in range(ROUNDS)]
_MIX = np.uint64(0xD6E8FEB86659FD93)
_HALF = np.uint64(32)


def key_of(*parts: int | str) -> int:
    """A 64-bit key from a seed, an epoch and what the key is for."""
    return xxhash.xxh3_64_intdigest("/".join(map(str, parts)).encode())


def permuted(places: Int, size: int, keys: int | UInt) -> Int:
    """Where each place of `range(size)` goes, shape (n,), under one key or one key for each place.

    A Feistel network over the next power of two; what falls outside of the range walks on until it is inside, twice
    on average at worst. Every key gives a permutation of the range.
    """
    bits = max(size - 1, 1).bit_length()
    widths = bits // 2, bits - bits // 2
    out = places.astype(np.uint64)
    key = np.broadcast_to(np.asarray(keys, np.uint64), out.shape)
    todo = np.arange(len(out))
    while len(todo):
        walked = _feistel(out[todo], key[todo], *widths)
        out[todo] = walked
        todo = todo[walked >= size]
    return out.astype(np.int64)


def _feistel(value: UInt, key: UInt, left_bits: int, right_bits: int) -> UInt:
    left, right = value >> np.uint64(right_bits), value & np.uint64((1 << right_bits) - 1)
    for number in range(ROUNDS):
        bits = right_bits if number % 2 else left_bits
        left, right = right, left ^ (scattered(right + key, number) & np.uint64((1 << bits) - 1))
    return (left << np.uint64(right_bits)) | right


def scattered(value: UInt, number: int) -> UInt:
    """32 bits that look random from each value, others for each round."""
    mixed = (value + _SALTS[number]) * _MIX
    mixed = (mixed ^ (mixed >> _HALF)) * _MIX
    mixed = (mixed ^ (mixed >> _HALF)) * _MIX
    return mixed >> _HALF
