"""How several intakes share sources: leases, and how far each source is sent.

    P:leases    hash    16-byte id of a source -> when it was renewed (Redis' clock), who has it
    P:members   hash    intake -> when it said that it is there (Redis' clock), a digest of what it reads
    P:files     hash    16-byte id of a source's content -> how far it is sent; in embedded mode, how far it is applied
    P:intakes   hash    intake -> mark of what it stored last; # -> the newest 512 marks of all. By them each intake notices a
                        Redis that came back older, also where only others had stored something since

A source moves on (lua/advance.lua) only after the broker has acknowledged its uses, in one step with what was counted on the
way: classes 1 to 6, rejects by reason, names without action, first records of accounts.
"""

import asyncio
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from processor.core.tally import Tally
from processor.shell.commands import pack_commands
from processor.shell.redis import Store, StoreLost

LEASE_SECONDS = 8
"""A lease that was not renewed for so long is free: a killed intake's sources are read on within 15 s."""

RENEW_SECONDS = 2.0
MARK_BYTES = 8

ENDS_HERE = ("not_iam", "no_principal", "out_of_scope", "unmapped", "rejected")
"""The classes that an intake decides; the others are a ledger's."""


@dataclass(frozen=True, slots=True)
class Move:
    """A source's step: from the position that was stored (empty for none) to another; `ends`: its lease is given up."""

    lease: bytes
    name: bytes
    before: bytes
    position: bytes
    ends: bool


@dataclass(frozen=True, slots=True)
class Counted:
    """What an intake had counted at a time, by the key that it is stored in, and the newest two times of records."""

    counts: Mapping[str, Mapping[str, int]]
    newest: tuple[int, int] = (0, 0)


def count_now(tally: Tally) -> Counted:
    """What a tally says now of the classes that an intake decides."""
    return Counted(
        {
            "meta": {f"class:{name}": tally.classes[name] for name in ENDS_HERE},
            "rejected": dict(tally.rejected),
            "unmapped": dict(tally.unmapped),
            "accounts": tally.accounts,
        },
        (tally.newest, tally.second_newest),
    )


@dataclass(frozen=True, slots=True)
class Share:
    """What an intake has of the sources that may be read: whether each is `ours`, and how many are a fair share. `differs`: another
    intake reads other sources."""

    differs: bool
    fair: int
    ours: tuple[bool, ...]


class Leases:
    """One intake's hold of its sources."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._member = store.member.encode()
        self._mark = b""
        self._seen = b""
        self._keys = [store.key(name) for name in (b"leases", b"files", b"intakes", b"meta", b"accounts")]
        self._counted = count_now(Tally())
        # A mark is read and compared while no other step is between its writing and the taking notice of it.
        self._step = asyncio.Lock()

    async def take(self, sources: Sequence[bytes]) -> list[bool]:
        """Take or renew leases; which of them are ours now."""
        if not sources:
            return []
        args = [self._member, LEASE_SECONDS, *sources]
        lease = partial(self._store.scripts["lease"], keys=[self._keys[0]], args=args)
        return [bool(each) for each in await self._store.persist(lease, "take a lease")]

    async def share(self, digest: bytes, sources: Sequence[bytes]) -> Share:
        """Say that this intake is there, and take or renew leases of its fair share of sources that may be read now."""
        keys = [self._keys[0], self._store.key(b"members")]
        args = [self._member, LEASE_SECONDS, digest, *sources]
        share = partial(self._store.scripts["share"], keys=keys, args=args)
        differs, fair, *ours = await self._store.persist(share, "share sources")
        return Share(bool(differs), int(fair), tuple(map(bool, ours)))

    async def read_positions(self, names: Sequence[bytes]) -> list[bytes]:
        """How far sources are sent, empty for those of which nothing is. Raises StoreLost as `check` does."""
        if not names:
            return []
        # What is seen of others' work must be noticed when it is lost again: the marks are read with it, and after it.
        async with self._step:
            found, (mark, marks) = await self._store.read_many(
                [("HMGET", self._keys[1], *names), ("HMGET", self._keys[2], self._member, "#")]
            )
            self._look_at(mark or b"", marks or b"")
        return [position or b"" for position in found]

    async def read_accounts(self) -> dict[str, int]:
        """Since when the logs of accounts are known."""
        (found,) = await self._store.read_many([("HGETALL", self._keys[4])])
        return {account.decode(): int(first) for account, first in dict(found).items()}

    async def advance(self, moves: Iterable[Move], now: Counted) -> None:
        """Store moves, and what was counted since the last time. Raises StoreLost where something is no longer ours:
        nothing is stored then, and all must be read again from what is."""
        mark = secrets.token_bytes(MARK_BYTES)
        packed = [(move.lease, move.name, move.before, move.position, b"1" if move.ends else b"0") for move in moves]
        known = self._counted.counts["accounts"]
        firsts = [
            (account, str(first)) for account, first in now.counts["accounts"].items() if known.get(account) != first
        ]
        args = [
            self._member, self._mark, mark, pack_commands(packed), pack_commands(list(self._count(now))),
            pack_commands(firsts), pack_commands([tuple(map(str, now.newest))])[5:],
            self._seen,
        ]  # fmt: skip
        advance = partial(self._store.scripts["advance"], keys=self._keys, args=args)
        async with self._step:
            said, *why = await self._store.persist(advance, "store positions")
            if said == b"lost":
                raise StoreLost(f"{why[0].decode()}: reading on from what {self._store.where} holds")
            self._mark = self._seen = mark
            self._counted = now

    def _count(self, now: Counted) -> Iterable[tuple[bytes | str, ...]]:
        for name in ("meta", "rejected", "unmapped"):
            before, counts = self._counted.counts[name], now.counts[name]
            key = self._store.key(name.encode())
            for place, count in counts.items():
                if more := count - before.get(place, 0):
                    yield "HINCRBY", key, place, str(more)

    async def check(self) -> None:
        """See whether what was stored last is still there, though nothing moves. Raises StoreLost."""
        async with self._step:
            self._look_at(*await self._read_marks())

    def _look_at(self, mark: bytes, marks: bytes) -> None:
        if mark != self._mark or self._seen not in marks:
            raise StoreLost(f"Redis at {self._store.where} came back older: reading on from what it holds")
        self._seen = marks[:MARK_BYTES]

    async def _read_marks(self) -> tuple[bytes, bytes]:
        ((mark, marks),) = await self._store.read_many([("HMGET", self._keys[2], self._member, "#")])
        return mark or b"", marks or b""

    async def restart(self, tally: Tally) -> None:
        """After a loss: what was counted and not stored is counted again when it is read again."""
        self._mark, marks = await self._read_marks()
        self._seen = marks[:MARK_BYTES]
        # First records of accounts are told anew: telling one twice changes nothing, and the store may have lost them.
        self._counted = Counted({**count_now(tally).counts, "accounts": {}})

    async def give_up(self, sources: Sequence[bytes]) -> None:
        """End leases that are ours."""
        if sources:
            await self._store.read_many([("HDEL", self._keys[0], *sources)])

    async def close(self, sources: Iterable[bytes]) -> None:
        """Give up all leases, so that others need not wait."""
        listed = list(sources)
        mine = [source for source, ours in zip(listed, await self.take(listed), strict=True) if ours]
        commands = [("HDEL", self._keys[0], *mine)] if mine else []
        gone = [("HDEL", key, self._member) for key in (self._keys[2], self._store.key(b"members"))]
        await self._store.read_many([*commands, *gone])
