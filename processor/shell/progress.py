"""How far one shard of a stream is read, handed out and applied."""

from dataclasses import dataclass

from processor.shell.feeds import Positions

END = b"end"
"""The position of a shard that was split or merged, and is applied whole."""


@dataclass(slots=True)
class Progress:
    """How far one shard is read: `handed` is the position of the last slice, `read_at` the time up to which the slices reach
    (seconds since 1970, by arrival), `applied_at` the same of what is known to be applied."""

    name: bytes
    handed: bytes = b""
    read_at: float = 0.0
    applied_at: float = 0.0
    behind: bool = True

    def settle(self, positions: Positions) -> bool:
        """Take notice of what is applied; True where that is all that was read."""
        if self.handed != positions.get(self.name, b""):
            return False
        self.applied_at = max(self.applied_at, self.read_at)
        return not self.behind
