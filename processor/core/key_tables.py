"""A hash of bytes, and tables of 64-bit keys that compiled loops and Python share."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from processor.core.compiled import Numbers, Read, Word, Words, compiled, inner, load_some, load_word

EMPTY = np.uint64(0)
"""The key of a free slot; a hash that is 0 by chance is taken for 1."""

SHARD_SHIFT = 58
EVENT_BITS = (1 << SHARD_SHIFT) - 1
"""What of an event's hash is the event's own; the bits above it are the shard that it is counted in."""

SLOTS_MIN = 64
FRESH, FULL = 0.6, 0.85
"""How full a table is when it has just been made larger, and when it must be: then some twenty slots are looked at for a key that
is not there, in three lines of the cache."""

_ONE = np.uint64(1)
_PRIME_1 = np.uint64(0x9E3779B185EBCA87)
_PRIME_2 = np.uint64(0xC2B2AE3D27D4EB4F)
_PRIME_3 = np.uint64(0x165667B19E3779F9)
_PRIME_4 = np.uint64(0x85EBCA77C2B2AE63)
_R29, _R32, _R33, _R35 = np.uint64(29), np.uint64(32), np.uint64(33), np.uint64(35)


@inner
def mix(word: np.uint64) -> np.uint64:
    """A bijection in which every bit moves every other."""
    word ^= word >> _R33
    word *= _PRIME_2
    word ^= word >> _R29
    word *= _PRIME_3
    return word ^ (word >> _R32)


@inner
def combine(hashed: np.uint64, word: np.uint64) -> np.uint64:
    """A hash of a hash and what follows it."""
    mixed = (hashed ^ word) * _PRIME_1
    return (mixed << _R29) | (mixed >> _R35)


@inner
def hash_bytes(text: int, at: int, end: int, seed: np.uint64) -> tuple[np.uint64, np.uint64]:
    """A 64-bit hash of some bytes, and all words of them or-ed (a high bit says that not all are ASCII). Four lanes, as
    XXH64 has them; never 0."""
    first, second, third, fourth = seed ^ _PRIME_1, seed ^ _PRIME_2, seed ^ _PRIME_3, seed ^ _PRIME_4
    seen = EMPTY
    place = at
    while place + 32 <= end:
        a, b = load_word(text, place), load_word(text, place + 8)
        c, d = load_word(text, place + 16), load_word(text, place + 24)
        seen |= a | b | c | d
        first, second = combine(first, a), combine(second, b)
        third, fourth = combine(third, c), combine(fourth, d)
        place += 32
    while place < end:
        word = load_some(text, place, end)
        seen |= word
        first, second = second, combine(first, word)
        place += 8
    size = np.uint64(end - at)
    hashed = mix(combine(combine(combine(first, second), third), fourth) ^ size)
    return (hashed if hashed != EMPTY else _ONE), seen


@inner
def hash_short(text: int, at: int, end: int) -> tuple[np.uint64, np.uint64]:
    """As `hash_bytes`, another hash and without a seed: less than half of the time for some tens of bytes."""
    size = end - at
    hashed, seen = np.uint64(size) ^ _PRIME_1, EMPTY
    if size >= 8:
        while at + 8 < end:
            word = load_word(text, at)
            seen |= word
            hashed = combine(hashed, word)
            at += 8
        word = load_word(text, end - 8)  # Some of it again, as a rule.
    else:
        word = load_some(text, at, end)
    return combine(hashed, word), seen | word


@inner
def find_slot(keys: Words, key: np.uint64) -> int:
    """Where a key is, or the free slot that it would take; `keys` has less than 2^32 slots, one of them free. Keys lie in the order
    of their hashes, so that a table is copied into a larger one from its beginning to its end, and not all over memory."""
    size = np.uint64(len(keys))
    slot = (((key * _PRIME_1) >> _R32) * size) >> _R32
    while keys[slot] != key and keys[slot] != EMPTY:
        slot += _ONE
        if slot == size:
            slot = EMPTY
    return int(slot)


@compiled
def put_keys(given: Read[Words], keys: Words) -> int:
    """Put keys into a set that has room for them; answers how many were new."""
    count = 0
    for key in given:
        if key != EMPTY:
            slot = find_slot(keys, key)
            if keys[slot] == EMPTY:
                keys[slot] = key
                count += 1
    return count


@compiled
def spread_pairs(old: Read[Words], held: Read[Numbers], keys: Words, values: Numbers) -> None:
    """Put all keys of a table, and the values beside them, into another."""
    for at in range(len(old)):
        if old[at] != EMPTY:
            slot = find_slot(keys, old[at])
            keys[slot] = old[at]
            values[slot] = held[at]


@compiled
def find_value(keys: Read[Words], values: Read[Numbers], key: Word) -> int:
    """The value of a key, -1 where it is not there."""
    slot = find_slot(keys, np.uint64(key))
    return int(values[slot]) if keys[slot] != EMPTY else -1


@compiled
def put_pairs(new: Read[Words], given: Read[Numbers], keys: Words, values: Numbers) -> int:
    """Put keys and values into a table that has room; answers how many of the keys were new."""
    count = 0
    for at in range(len(new)):
        slot = find_slot(keys, new[at])
        if keys[slot] == EMPTY:
            keys[slot] = new[at]
            count += 1
        values[slot] = given[at]
    return count


class KeySet:
    """64-bit keys, none of them 0: 9 to 13 bytes each."""

    __slots__ = ("count", "keys")

    def __init__(self) -> None:
        self.count = 0
        self.keys: Words = np.zeros(SLOTS_MIN, np.uint64)

    def reserve(self, more: int) -> None:
        """Make room, so that a compiled loop may put in `more` keys itself, and count them."""
        wanted = self.count + more
        if wanted > FULL * len(self.keys):
            old, self.keys = self.keys, np.zeros(int(wanted / FRESH), np.uint64)
            put_keys(old, self.keys)

    def take(self) -> Words:
        """All keys, in no order that means anything."""
        return self.keys[np.flatnonzero(self.keys)]


class KeyTable:
    """Numbers by 64-bit keys, none of them 0."""

    __slots__ = ("count", "keys", "values")

    def __init__(self) -> None:
        self.count = 0
        self.keys: Words = np.zeros(SLOTS_MIN, np.uint64)
        self.values: Numbers = np.zeros(len(self.keys), np.int64)

    def reserve(self, more: int) -> None:
        wanted = self.count + more
        if wanted > FULL * len(self.keys):
            old, held = self.keys, self.values
            self.keys = np.zeros(int(wanted / FRESH), np.uint64)
            self.values = np.zeros(len(self.keys), np.int64)
            spread_pairs(old, held, self.keys, self.values)

    def find(self, key: int) -> int:
        """The value of one key, -1 where it is not there: some half a microsecond."""
        return int(find_value(self.keys, self.values, key))

    def put_all(self, keys: list[int], values: list[int]) -> None:
        """Put in keys, or give those that are there other values."""
        if keys:
            self.reserve(len(keys))
            self.count += int(put_pairs(np.array(keys, np.uint64), np.array(values, np.int64), self.keys, self.values))


def grow(array: NDArray[Any], size: int) -> NDArray[Any]:
    """The array, or one at least an eighth longer that begins like it and goes on with zeros, where it is too short."""
    if size <= len(array):
        return array
    grown = np.zeros((max(size, len(array) + len(array) // 8), *array.shape[1:]), array.dtype)
    grown[: len(array)] = array
    return grown
