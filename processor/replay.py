"""`gapwatch replay`: read everything, keep it in the store, and say what the gap is as of a time.

A source's position is stored with the state that it produced: how many records of it are applied, in the order in which
they stand in it. What is given again is skipped up to there, so that a run that was killed goes on where it was.
"""

import asyncio
import time
from collections.abc import Callable, Iterable

from processor.core.held import Held
from processor.core.records import TIME_MAX, Rejected
from processor.core.stream import decode_stream
from processor.opening import Opened
from processor.shell.files import Source, SourceReader
from processor.shell.layout import Position, unpack_position

FLUSH_SECONDS = 10.0
FLUSH_USES = 1_000_000
"""A batch has nobody waiting for it, and can be read again: its flushes are few, as each writes a hot cell anew."""


class AsOfError(ValueError):
    """An --as-of that the store cannot be reported at."""


class Replay:
    """One batch run over sources into a claimed store. `warn` gets lines for a person; `step` gets (source, its bytes)."""

    def __init__(
        self,
        opened: Opened,
        warn: Callable[[str], None],
        step: Callable[[Source, int], None] = lambda source, size: None,
    ) -> None:
        self._opened = opened
        self._pipeline = opened.pipeline
        self._state = opened.state
        self._warn = warn
        self._step = step
        self._flushed_at = time.monotonic()
        self._uses_at_flush = 0
        self._held = Held()
        self._moves: list[tuple[bytes, Position]] = []

    async def read(self, sources: Iterable[Source]) -> None:
        """Apply all sources, each from where the store has it."""
        for source in sources:
            await self._read_source(source)
        self._apply_held()
        await self._state.flush()

    async def _read_source(self, source: Source) -> None:
        await asyncio.sleep(0)  # the hold's beat has its turn
        reader = SourceReader(source)
        try:
            await self._read_from(reader, reader.identify())
        finally:
            reader.close()
        self._step(source, reader.size)

    async def _read_from(self, reader: SourceReader, name: bytes | None) -> None:
        until = self._pipeline.ledger.until
        before = unpack_position(self._state.positions.get(name or b""))
        if before.cut and before.until != until:
            raise AsOfError(
                f"{reader.source.name} was read into this store up to --as-of only, and holds newer records, which were "
                "counted but not applied: give the same --as-of again, or use a fresh store"
            )
        if before.whole:
            return
        index = 0
        cut = before.cut
        for decoded in decode_stream(reader):
            index += decoded.read
            if index <= before.index:
                continue
            decoded.name_origin((reader.source.name, index))
            self._held.add(decoded)
            if until < TIME_MAX:
                beyond = self._pipeline.ledger.beyond_until
                self._apply_held()
                cut = cut or self._pipeline.ledger.beyond_until > beyond
            if name is not None:
                self._moves.append((name, Position(index, whole=False, cut=cut, until=until)))
            if until < TIME_MAX or self._held.is_full:
                self._apply_held()
                await self._flush_if_due()
        if reader.damage is not None:
            self._warn(f"{reader.source.name} {reader.damage}: what could be read of it was")
            self._held.decoded.rejected.append(Rejected("damaged_file", b"", (reader.source.name, index)))
        if name is not None:
            self._moves.append((name, Position(index, whole=True, cut=cut, until=until)))

    def _apply_held(self) -> None:
        """Apply what was read, and then move the positions that it was read up to."""
        held, self._held = self._held.decoded, Held()
        self._pipeline.feed(held)
        for name, position in self._moves:
            self._state.move(name, position.pack())
        self._moves.clear()
        self._opened.rejects.note(self._pipeline.intake.rejects)
        self._pipeline.intake.rejects.clear()

    async def _flush_if_due(self) -> None:
        uses = self._pipeline.tally.classes["use"]
        now = time.monotonic()
        await asyncio.sleep(0)  # as above
        if now - self._flushed_at < FLUSH_SECONDS and uses - self._uses_at_flush < FLUSH_USES:
            return
        await self._state.flush()
        self._flushed_at = time.monotonic()
        self._uses_at_flush = uses
