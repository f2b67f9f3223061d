"""What a ledger's loop reads of an intake's calls, sessions and places, beside its own cells."""

import itertools

import numpy as np

from processor.core.compiled import Halves, Numbers, Octets, Words
from processor.core.count_loop import REGION_BITS
from processor.core.key_tables import grow
from processor.core.sessions import Calls, Place, Sessions, hash_text


class Attached:
    """What the loop reads of an intake's calls and sessions: which cells a call moves, and what a session is called. `bits` are
    those of the regions that a ledger has met, to which new ones come here."""

    def __init__(self, calls: Calls, sessions: Sessions, places: list[Place], bits: dict[str, int]) -> None:
        self.calls = calls
        self.sessions = sessions
        self.places = places
        self.outcomes: Octets = np.zeros(64, np.uint8)
        self.cells_from: Halves = np.zeros(64, np.int32)
        self.cells_to: Halves = np.zeros(64, np.int32)
        self.cells: Halves = np.zeros(64, np.int32)
        self.cell_count = 0
        self.widest = 1
        self.operators: Words = np.zeros(64, np.uint64)
        self.vias: Words = np.zeros(0, np.uint64)
        self.session_count = 0
        self.bits = bits
        self.regions: Words = np.zeros(0, np.uint64)
        self.region_bits: Numbers = np.zeros(0, np.int64)

    def add_sessions(self) -> None:
        """Take in the sessions and places that are new since the last time."""
        if len(self.regions) < len(self.places):
            self.regions = np.array([place.region_hash for place in self.places], np.uint64)
            self.region_bits = np.array([self._find_bit(place.region or "") for place in self.places], np.int64)
        known, size = self.session_count, len(self.sessions)
        if known == size:
            return
        self.operators = grow(self.operators, size)
        self.operators[known:size] = np.array(list(map(hash_text, self.sessions.operators[known:])), np.uint64)
        vias, origins = len(self.vias), self.sessions.origins
        if vias < len(origins):
            fresh = [origin.via_hash for origin in origins[vias:]]
            self.vias = np.concatenate((self.vias, np.array(fresh, np.uint64)))
        self.session_count = size

    def _find_bit(self, region: str) -> int:
        if region not in self.bits and len(self.bits) < REGION_BITS:
            self.bits[region] = len(self.bits)
        return self.bits.get(region, -1)

    def reach(self, count: int) -> None:
        """Have columns for so many calls."""
        self.outcomes = grow(self.outcomes, count)
        self.cells_from, self.cells_to = grow(self.cells_from, count), grow(self.cells_to, count)

    def add_calls(self, numbers: list[int], indexes: list[list[int]]) -> None:
        """Take in calls by number, and the cells of each."""
        ends = list(itertools.accumulate(map(len, indexes), initial=self.cell_count))
        self.cells = grow(self.cells, ends[-1])
        self.cells[self.cell_count : ends[-1]] = list(itertools.chain.from_iterable(indexes))
        self.cell_count = ends[-1]
        self.outcomes[numbers] = [self.calls.effects[number].outcome for number in numbers]
        self.cells_from[numbers], self.cells_to[numbers] = ends[:-1], ends[1:]
        self.widest = max(self.widest, *map(len, indexes))
