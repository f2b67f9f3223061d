"""Files and folders that grow -> decoded slices with their positions.

A file of lines is read on from where the last whole line ended, by bytes; it is known by device, inode and its first
line, so that one that was rotated away keeps its position and a new one in its place starts anew. Every other file (gzip,
one JSON document) is read when it is whole: its size has not changed between two looks.
"""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from struct import Struct as Packer

from xxhash import xxh3_128

from processor.core.batches import Decoded, add_decoded
from processor.core.records import Rejected
from processor.core.stream import decode_stream, scan_value
from processor.shell.feeds import FeedHealth, Slice
from processor.shell.files import Source, SourceError, SourceReader, find_sources
from processor.shell.layout import Position, unpack_position

FIRST_LINE_MAX = 1024 * 1024
READ_BYTES = 1024 * 1024
LINE_MAX = 32 * 1024 * 1024

_OFFSET = Packer("<cQQ")
_LINES = b"l"
_BEGINNING = _OFFSET.pack(_LINES, 0, 0)
"""How far a source of lines is read: bytes, and rows of records in them."""


@dataclass(slots=True)
class _Followed:
    """What is known of a path: its size when last looked at, and how its lines are read on."""

    size: int = -1
    stamp: tuple[int, int, int] = (0, 0, 0)
    name: bytes = b""
    offset: int = 0
    rows: int = 0
    done: bool = False
    lines: bool = False


@dataclass(frozen=True, slots=True)
class Reading:
    """A source that has something new, known by the `name` that its position is kept under."""

    source: Source
    name: bytes
    followed: _Followed
    reader: SourceReader | None


class Follower:
    """Looks at paths again and again. `positions` is the store's memory of what is applied."""

    def __init__(self, paths: Iterable[str], positions: Mapping[bytes, bytes]) -> None:
        self._paths = tuple(paths)
        self._positions = positions
        self._followed: dict[str, _Followed] = {}
        self.caught_up = False
        find_sources(self._paths)

    def poll(self) -> Iterator[Slice]:
        """Everything that is there now and not yet applied; afterwards `caught_up` says whether that was all."""
        pending = False
        for source in self.find():
            try:
                yield from self._read(source)
            except (SourceError, OSError):
                self._followed.pop(source.path, None)  # Moved away meanwhile: it is looked for anew.
            followed = self._followed.get(source.path)
            pending = pending or (followed is not None and not followed.done)
        self.caught_up = not pending

    def find(self) -> list[Source]:
        """All files that are there."""
        try:
            sources, _ = find_sources(path for path in self._paths if Path(path).exists())
        except SourceError:
            return []
        present = {source.path for source in sources}
        for gone in self._followed.keys() - present:
            del self._followed[gone]
        return sources

    def _read(self, source: Source) -> Iterator[Slice]:
        reading = self.open(source)
        if reading is not None:
            yield from self.read(reading, self._positions.get(reading.name))

    def open(self, source: Source) -> Reading | None:
        """A source that has changed since it was read last, and, where it is read whole, is the same as when it was looked at
        last. Raises SourceError or OSError."""
        status = os.stat(source.path)  # noqa: PTH116 - looked at twice a second for every file
        stamp = (status.st_dev, status.st_ino, status.st_mtime_ns)
        followed = self._followed.setdefault(source.path, _Followed())
        if followed.done and followed.size == status.st_size and followed.stamp == stamp:
            return None
        if followed.stamp[:2] != stamp[:2] or status.st_size < followed.offset:
            followed = self._followed[source.path] = _Followed()
        settled = followed.size == status.st_size and followed.stamp == stamp
        followed.size, followed.stamp = status.st_size, stamp
        followed.done = False
        if not followed.lines and not self._recognise(source, followed):
            if not settled:
                return None
            reader = SourceReader(source)
            return Reading(source, reader.identify() or b"", followed, reader)
        return Reading(source, followed.name, followed, None)

    def read(self, reading: Reading, position: bytes | None) -> Iterator[Slice]:
        """What of a source lies beyond a position (None: the beginning)."""
        if reading.reader is not None:
            yield from self._read_whole(reading, reading.reader, position)
        else:
            _, offset, rows = _OFFSET.unpack(position or _BEGINNING)
            if offset > reading.followed.size:
                offset = rows = 0
            reading.followed.offset, reading.followed.rows = offset, rows
            yield from self._read_lines(reading.source, reading.followed)

    def is_done(self, source: Source) -> bool:
        """Whether all was read of a source that has not changed since."""
        followed = self._followed.get(source.path)
        return followed is not None and followed.done

    def is_complete(self, reading: Reading, position: bytes | None) -> bool:
        """Whether a position is the end of what there is of a source now; then it is done until it changes."""
        if reading.reader is not None:
            found = unpack_position(position)
            done = found.whole and not found.cut
            if done:
                reading.reader.close()
        else:
            _, offset, _ = _OFFSET.unpack(position or _BEGINNING)
            done = offset >= reading.followed.size
        reading.followed.done = done
        return done

    def _recognise(self, source: Source, followed: _Followed) -> bool:
        """Whether a file is one of lines; if so, find where to read on."""
        with open(source.path, "rb") as file:  # noqa: PTH123 - a source's path is text, "-" too
            first = file.readline(FIRST_LINE_MAX)
        if not first.endswith(b"\n") or first[:1] not in b"{" or scan_value(first, 0) != len(first.rstrip()):
            return False
        if first.lstrip().startswith((b'{"Records"', b'{"Events"')):
            return False
        followed.lines = True
        followed.name = xxh3_128(b"%d %d " % followed.stamp[:2] + first).digest()
        return True

    def _read_lines(self, source: Source, followed: _Followed) -> Iterator[Slice]:
        """Whole lines from the offset on; an unfinished last line waits until it is finished."""
        with open(source.path, "rb") as file:  # noqa: PTH123 - as above
            file.seek(followed.offset)
            while chunk := file.read(READ_BYTES):
                while (
                    (end := chunk.rfind(b"\n") + 1) == 0 and len(chunk) <= LINE_MAX and (more := file.read(READ_BYTES))
                ):
                    chunk += more
                if end == 0 and len(chunk) <= LINE_MAX:
                    break
                lines = chunk[: end or len(chunk)]
                decoded = _decode_lines(lines)
                start, followed.rows = followed.rows, followed.rows + count_rows(decoded)
                followed.offset += len(lines)
                position = _OFFSET.pack(_LINES, followed.offset, followed.rows)
                yield Slice(source.name, decoded, followed.name, position, start=start)
                file.seek(followed.offset)
        followed.done = True

    def _read_whole(self, reading: Reading, reader: SourceReader, packed: bytes | None) -> Iterator[Slice]:
        source, name = reading.source, reading.name
        before = unpack_position(packed)
        index = rows = 0
        if not before.whole or before.cut:
            for decoded in decode_stream(reader):
                index += decoded.read
                start, rows = rows, rows + count_rows(decoded)
                if index > before.index or before.cut:
                    yield Slice(source.name, decoded, name, Position(index, whole=False).pack(), start=start)
            damage = [Rejected("damaged_file", b"")] if reader.damage else []
            position = Position(index, whole=True).pack()
            yield Slice(source.name, Decoded([], [], damage), name, position, reader.damage, start=rows, ends=True)
        reader.close()
        reading.followed.done = True


def count_rows(decoded: Decoded) -> int:
    """The rows of a slice: what it has of records, and neither rejects nor what is no IAM call."""
    return sum(len(batch.rows.places) for batch in decoded.batches)


class FileFeed:
    """A follower as a feed: looks every `poll_seconds`."""

    def __init__(
        self,
        paths: Iterable[str],
        positions: Mapping[bytes, bytes],
        poll_seconds: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._follower = Follower(paths, positions)
        self._poll_seconds = poll_seconds
        self._clock = clock
        self.health = FeedHealth("files")

    @property
    def caught_up(self) -> bool:
        return self._follower.caught_up

    @property
    def watermark(self) -> int:
        return int(self._clock()) if self._follower.caught_up else 0

    async def check(self) -> None:
        """Nothing: paths that are not there were refused when the feed was made."""

    async def slices(self) -> AsyncGenerator[Slice, None]:
        while True:
            for found in self._follower.poll():
                yield found
                await asyncio.sleep(0)
            await asyncio.sleep(self._poll_seconds)

    async def acknowledge(self, receipts: Sequence[object]) -> None:
        """Nothing: files stay."""

    async def close(self) -> None:
        """Nothing is held."""


def _decode_lines(lines: bytes) -> Decoded:
    """All records of some whole lines, as one: a position that is stored between two of its slices would be a wrong one."""
    whole = Decoded([], [], [])
    for decoded in decode_stream([lines]):
        add_decoded(whole, decoded)
    return whole
