"""Files and folders that several intakes read together: each source by the one that has its lease."""

from collections.abc import AsyncIterator, Iterable

from xxhash import xxh3_128_digest

from processor.shell.feeds import Slice
from processor.shell.files import Source, SourceError, resolve_file
from processor.shell.follow import Follower, Reading
from processor.shell.leases import Leases

OPEN_MAX = 32
"""Sources that are opened, and leased, at a time: another intake finds work, too."""


class LeasedFiles:
    """Looks at paths again and again. `caught_up` after a round: all that there is was sent, by whichever intake."""

    def __init__(self, paths: Iterable[str], leases: Leases) -> None:
        self._follower = Follower(paths, {})
        self._leases = leases
        self._held: set[bytes] = set()
        self._pending = 0
        self.caught_up = False

    @property
    def held(self) -> list[bytes]:
        """The leases that this intake has."""
        return list(self._held)

    async def renew(self) -> None:
        """Keep the leases of files that are read on when they grow."""
        held = self.held
        for lease, ours in zip(held, await self._leases.take(held), strict=True):
            if not ours:
                self._held.discard(lease)

    async def poll(self) -> AsyncIterator[tuple[bytes, bytes, Slice]]:
        """(lease, stored position, slice) of all that is there and free."""
        self._pending = 0
        opened: list[tuple[bytes, Reading]] = []
        for source in self._follower.find():
            try:
                reading = self._follower.open(source)
            except (SourceError, OSError):
                self._pending += 1  # Moved away meanwhile: it is looked for anew.
                continue
            if reading is not None:
                opened.append((name_lease(source), reading))
            elif not self._follower.is_done(source):
                self._pending += 1
            if len(opened) >= OPEN_MAX:
                async for found in self._read(opened):
                    yield found
                opened = []
        async for found in self._read(opened):
            yield found
        self.caught_up = not self._pending

    async def _read(self, opened: list[tuple[bytes, Reading]]) -> AsyncIterator[tuple[bytes, bytes, Slice]]:
        positions = await self._leases.read_positions([reading.name for _, reading in opened])
        wanted = [
            (lease, reading)
            for (lease, reading), position in zip(opened, positions, strict=True)
            if not self._follower.is_complete(reading, position or None)
        ]
        ours = await self._leases.take([lease for lease, _ in wanted])
        mine = [each for each, is_ours in zip(wanted, ours, strict=True) if is_ours]
        self._pending += len(wanted) - len(mine)
        # Its last holder may have moved on between the first look and the lease.
        positions = await self._leases.read_positions([reading.name for _, reading in mine])
        done = [
            self._follower.is_complete(each, position or None)
            for (_, each), position in zip(mine, positions, strict=True)
        ]
        await self._leases.give_up([lease for (lease, _), is_done in zip(mine, done, strict=True) if is_done])
        for (lease, reading), position, is_done in zip(mine, positions, done, strict=True):
            if is_done:
                self._held.discard(lease)
                continue
            self._held.add(lease)
            for found in self._follower.read(reading, position or None):
                yield lease, position, found
                if found.ends:
                    self._held.discard(lease)


def name_lease(source: Source) -> bytes:
    """The id of a source's lease: its place, which all intakes that read it see under the same path."""
    return xxh3_128_digest(f"file\0{resolve_file(source.path)}\0{source.occurrence}".encode())
