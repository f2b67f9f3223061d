"""Columns -> the commands of a flush, packed as msgpack by compiled loops."""

import numpy as np

from processor.core.compiled import Numbers, Octets, Read, Words, compiled, inner

KEY_BYTES, HASH_BYTES = 8, 5
"""A principal's key, an action's stable hash."""

_LIST, _STRING, _LONG = 0xDD, 0xA0, 0xDA
_H, _S, _E, _T = 0x48, 0x53, 0x45, 0x54


@inner
def write_size(out: Octets, at: int, size: int, octets: int) -> int:
    """A number in so many bytes, big-endian; answers the place behind it."""
    for place in range(octets):
        out[at + place] = np.uint8((size >> (8 * (octets - 1 - place))) & 0xFF)
    return at + octets


@inner
def count_digits(number: int) -> int:
    digits = 1
    while number >= 10:
        number //= 10
        digits += 1
    return digits


@inner
def write_digits(out: Octets, at: int, number: int, digits: int) -> int:
    for place in range(at + digits - 1, at - 1, -1):
        out[place] = np.uint8(0x30 + number % 10)
        number //= 10
    return at + digits


@compiled
def pack_days(
    owners: Read[Numbers], days: Read[Numbers], counts: Read[Numbers], hashes: Read[Words], keys: Read[Words],
    shards: Read[Numbers], heads: Read[Octets], heads_from: Read[Numbers], pairs_max: int, out: Octets, commands: Numbers,
) -> int:  # fmt: skip
    """HSET of each (owner, day), whose rows stand together, of so many pairs at most. `hashes` are of the rows' actions; `keys` and
    `shards` of the owners; the head of a shard's keys lies between two of `heads_from`. Answers the bytes written, and counts the
    commands in the only element of `commands`."""
    at = begin = 0
    while begin < len(owners):
        owner, day = owners[begin], days[begin]
        end = begin + 1
        while end < len(owners) and end - begin < pairs_max and owners[end] == owner and days[end] == day:
            end += 1
        out[at] = np.uint8(_LIST)
        at = write_size(out, at + 1, 2 + 2 * (end - begin), 4)
        out[at], out[at + 1], out[at + 2], out[at + 3], out[at + 4] = _STRING | 4, _H, _S, _E, _T
        head, stop = heads_from[shards[owner]], heads_from[shards[owner] + 1]
        digits = count_digits(day)
        out[at + 5] = np.uint8(_LONG)
        at = write_size(out, at + 6, stop - head + digits + 1 + KEY_BYTES, 2)
        for place in range(head, stop):
            out[at] = heads[place]
            at += 1
        at = write_digits(out, at, day, digits)
        out[at] = np.uint8(0x3A)
        at = write_size(out, at + 1, int(np.int64(keys[owner])), KEY_BYTES)
        for row in range(begin, end):
            out[at] = np.uint8(_STRING | HASH_BYTES)
            at = write_size(out, at + 1, int(np.int64(hashes[row])), HASH_BYTES)
            digits = count_digits(counts[row])
            out[at] = np.uint8(_STRING | digits)
            at = write_digits(out, at + 1, counts[row], digits)
        commands[0] += 1
        begin = end
    return at
