"""An intake's way from slices to topic `uses`: group by group, each stored as sent before the next one is on its way.

A group is sent while the next one is being read. What it moved and counted is stored in one step once all of it is acknowledged;
whatever goes wrong, the intake reads on from what is stored, and the ledgers skip what they have.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from processor.core.held import Held
from processor.core.intake import Intake
from processor.core.records import Rejected
from processor.core.uses_writer import SliceRows, UsesWriter
from processor.shell.ending import end_tasks
from processor.shell.feeds import Feed, Slice
from processor.shell.follow import count_rows
from processor.shell.leases import Leases, Move, count_now
from topics.contract import SHARDS
from topics.uses import CODEC, NO_ORDER, Mark, Message

GROUP_RECORDS = 32_768
"""Records of a group: some 512 uses a message, which makes Faust's costs of each one small."""


class UsesLog(Protocol):
    """Topic `uses`, as an intake writes it."""

    async def send(self, shard: int, value: bytes) -> Awaitable[object]:
        """Start sending; the answer is done once it is acknowledged, or raises BrokerError or StalledError."""

    async def reject(self, rejects: Sequence[Rejected]) -> None:
        """Write to topic `rejected`."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What was sent and stored: how far sources moved, and the receipts of what has no position."""

    moves: Sequence[Move]
    receipts: Sequence[tuple[Feed, tuple[object, ...]]]


@dataclass(slots=True)
class _Group:
    held: Held = field(default_factory=lambda: Held(GROUP_RECORDS))
    slices: list[SliceRows] = field(default_factory=list)
    moves: dict[bytes, Move] = field(default_factory=dict)
    receipts: list[tuple[Feed, tuple[object, ...]]] = field(default_factory=list)
    rows: int = 0


NoteChanges = Callable[[Sequence[bytes]], Awaitable[None]]
"""Told of the records that changed what somebody may do, before they are stored as sent."""


async def ignore_changes(records: Sequence[bytes]) -> None:
    """Where nobody reads what may be done from AWS."""


class Sender:
    """Sends one intake's groups. `note_rejects` is told of what was rejected, before it is counted as stored; `note_sent` of what
    is stored."""

    def __init__(
        self,
        intake: Intake,
        writer: UsesWriter,
        leases: Leases,
        log: UsesLog,
        note_rejects: Callable[[list[Rejected]], None],
        note_sent: Callable[[Sent], None] = lambda sent: None,
        note_changes: NoteChanges = ignore_changes,
    ) -> None:
        self.intake = intake
        self._writer = writer
        self._leases = leases
        self._log = log
        self._note_rejects = note_rejects
        self._note_sent = note_sent
        self._note_changes = note_changes
        self._group = _Group()
        self._sent: dict[bytes, bytes] = {}
        self._sending: asyncio.Future[None] | None = None

    @property
    def is_full(self) -> bool:
        """Whether the group should be sent before more is added."""
        return self._group.held.is_full

    def add(self, lease: bytes, before: bytes, found: Slice) -> None:
        """Put a slice into the group; `before` is the source's position as it was read from the store, before which the
        last group may have moved it on."""
        self._add_rows(found)
        group = self._group
        earlier = group.moves.get(found.name)
        before = earlier.before if earlier is not None else self._sent.pop(found.name, before)
        group.moves[found.name] = Move(lease, found.name, before, found.position, found.ends)

    def add_unplaced(self, feed: Feed, found: Slice) -> None:
        """Put a slice into the group that moves no source, as a queue's; its receipts are acknowledged once it is stored."""
        self._add_rows(found)
        if found.receipts:
            self._group.receipts.append((feed, found.receipts))

    def _add_rows(self, found: Slice) -> None:
        group = self._group
        found.decoded.name_origin((found.origin, found.start))
        source = found.name or NO_ORDER
        group.slices.append(
            SliceRows(group.rows, source, found.start, found.ends, found.base, found.places, found.compared)
        )
        group.rows += count_rows(found.decoded)
        group.held.add(found.decoded)

    async def send(self) -> None:
        """Send the group, once the one before it is stored. Raises StoreLost or BrokerError: then `reset`, and read again."""
        group, self._group = self._group, _Group()
        if not group.slices:
            return
        self._sent = {move.name: move.position for move in group.moves.values() if not move.ends}
        messages = [
            message
            for uses in self.intake.resolve(group.held.decoded)
            for message in self._writer.write(uses, group.slices)
        ]
        rejects, self.intake.rejects = self.intake.rejects, []
        changes, self.intake.changes = self.intake.changes, []
        self._note_rejects(rejects)
        counted = count_now(self.intake.tally)
        await self.settle()

        async def finish() -> None:
            await self._send_all(messages)
            await self._log.reject(rejects)
            await self._note_changes(changes)
            moves = list(group.moves.values())
            await self._leases.advance(moves, counted)
            self._note_sent(Sent(moves, group.receipts))

        self._sending = asyncio.ensure_future(finish())
        await asyncio.sleep(0)

    async def _send_all(self, messages: Iterable[tuple[int, bytes]]) -> None:
        sent = [await self._log.send(shard, value) for shard, value in messages]
        # All are waited for, though one fails: nothing of this group may arrive behind what is sent next.
        for answer in await asyncio.gather(*sent, return_exceptions=True):
            if isinstance(answer, BaseException):
                raise answer

    async def settle(self) -> None:
        """Wait until what was sent is acknowledged and stored. Raises StoreLost or BrokerError."""
        sending, self._sending = self._sending, None
        if sending is not None:
            await sending

    async def mark(self, mark: Mark) -> None:
        """Send every shard a mark, behind all that was sent before. Raises StoreLost or BrokerError."""
        await self.settle()
        value = CODEC.encode(Message(mark=mark))
        await self._send_all((shard, value) for shard in range(SHARDS))

    async def reset(self) -> None:
        """Forget what is not stored."""
        sending, self._sending = self._sending, None
        if sending is not None:
            await end_tasks(sending)
        self._group = _Group()
        self._sent = {}
        self.intake.changes.clear()
        await self._leases.restart(self.intake.tally)
