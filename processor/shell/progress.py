"""How far one shard of a stream is read, handed out and applied."""

from dataclasses import dataclass, field

from processor.shell.feeds import Positions
from processor.shell.stream_places import END, ShardPosition

__all__ = ["END", "Progress"]


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

    def settle(self, positions: Positions) -> bool:
        """Take notice of what is applied; True where that is all that was read."""
        if self.handed != positions.get(self.name, b""):
            return False
        self.applied_at = max(self.applied_at, self.read_at)
        return not self.behind
