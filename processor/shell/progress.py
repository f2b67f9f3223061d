"""How far one shard of a stream is read, handed out and applied."""

from collections import deque
from dataclasses import dataclass, field

from processor.shell.feeds import Positions
from processor.shell.stream_places import END, ShardPosition, unpack_place

__all__ = ["END", "Progress"]

READS_MAX = 256
"""Answers on their way to the store that are remembered; those before them say less, and are forgotten."""


@dataclass(slots=True)
class Progress:
    """How far one shard is read: `handed` is the position of the last slice, and `place` the same as it is counted on, `read_at`
    the time up to which the slices reach (seconds since 1970, by arrival), `applied_at` the same of what is known to be applied."""

    name: bytes
    handed: bytes = b""
    read_at: float = 0.0
    applied_at: float = 0.0
    behind: bool = True
    place: ShardPosition = field(default_factory=ShardPosition)
    _reads: deque[tuple[tuple[bytes, int], float]] = field(default_factory=lambda: deque(maxlen=READS_MAX))

    def note_read(self, read_at: float) -> None:
        """All that had arrived by a time is handed out."""
        self.read_at = read_at
        if self._reads and self._reads[-1][0] == self.place.order:
            self._reads.pop()
        self._reads.append((self.place.order, read_at))

    def settle(self, positions: Positions) -> bool:
        """Take notice of what is applied; True where that is all that was read. Of a shard in which there is always something new
        the answers before count, whose records are applied."""
        stored = positions.get(self.name, b"")
        if self.handed == stored:
            self._reads.clear()
            self.applied_at = max(self.applied_at, self.read_at)
            return not self.behind
        if self._reads and stored != END:
            order = unpack_place(stored).order
            while self._reads and self._reads[0][0] <= order:
                self.applied_at = max(self.applied_at, self._reads.popleft()[1])
        return False
