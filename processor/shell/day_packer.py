"""Day buckets -> the commands of a flush: there may be one a cell at each midnight, so that a loop packs them."""

from collections.abc import Sequence

import numpy as np

from processor.core.compiled import Numbers, Octets, Words
from processor.core.day_counts import DAY_BITS, Days
from processor.core.key_tables import SHARD_SHIFT
from processor.core.ledger import Ledger
from processor.core.pack_loop import HASH_BYTES, KEY_BYTES, pack_days
from processor.shell.action_names import ActionNames
from processor.shell.commands import ARGUMENTS_MAX, Packed

PAIRS_MAX = ARGUMENTS_MAX // 2 - 1
"""Fields of one command."""

HEAD_BYTES = 5 + 5 + 3
"""Of a command in msgpack: how many strings, HSET, and how long its key is."""

COUNT_BYTES_MAX = 19
DAY_BYTES_MAX = 7


class DayPacker:
    """Packs a ledger's day buckets; `heads` are what the keys of each shard begin with."""

    def __init__(self, heads: Sequence[bytes], ledger: Ledger, names: ActionNames) -> None:
        self._ledger = ledger
        self._names = names
        self._hashes: Words = np.zeros(0, np.uint64)
        self._keys: Words = np.zeros(0, np.uint64)
        self._heads: Octets = np.frombuffer(b"".join(heads), np.uint8)
        self._heads_from: Numbers = np.cumsum([0, *map(len, heads)])
        self._head_max = max(map(len, heads))

    def pack(self, found: Days, oldest: int) -> Packed:
        """Commands that write the counts of all days from `oldest` on."""
        self._reach()
        owners = self._ledger.owners[found.cells].astype(np.int64)
        buckets = owners << DAY_BITS | found.days
        order = np.argsort(buckets)
        order = order[found.days[order] >= oldest]
        groups = 1 + len(order) // PAIRS_MAX + int(np.count_nonzero(np.diff(buckets[order])))
        a_group = HEAD_BYTES + self._head_max + DAY_BYTES_MAX + 1 + KEY_BYTES
        out = np.empty(groups * a_group + len(order) * (HASH_BYTES + COUNT_BYTES_MAX + 2), np.uint8)
        hashes = self._hashes[self._ledger.actions[found.cells[order]]]
        shards = (self._keys >> np.uint64(SHARD_SHIFT)).astype(np.int64)
        commands = np.zeros(1, np.int64)
        size = pack_days(
            owners[order],
            found.days[order],
            found.counts[order],
            hashes,
            self._keys,
            shards,
            self._heads,
            self._heads_from,
            PAIRS_MAX,
            out,
            commands,
        )
        return Packed(int(commands[0]), out[:size].tobytes())

    def _reach(self) -> None:
        """Have all actions' hashes and principals' keys as numbers."""
        hashes, usages = self._names.hashes, self._ledger.usages
        if len(self._hashes) < len(hashes):
            self._hashes = np.array([int.from_bytes(packed, "big") for packed in hashes], np.uint64)
        if len(self._keys) < len(usages):
            fresh = b"".join([usage.key for usage in usages[len(self._keys) :]])
            self._keys = np.concatenate((self._keys, np.frombuffer(fresh, ">u8").astype(np.uint64)))
