"""How several intakes share streams and queues: which shards and files this one reads, and up to when all of them are sent.

    P:reached   hash    16-byte id of a shard -> up to when its records are sent (seconds since 1970, by arrival)
    P:queues    hash    16-byte id of a queue, intake -> until when that counts (Redis' clock), up to when the intake has sent what
                        it received: an intake that died still counts while what it had received is invisible to the others

Both say what is in Kafka, and stay true when Redis comes back older: it only says less then. A shard's time is written by who has
its lease, after its records are acknowledged; the mark of all is the least time of all shards that have not ended, whoever reads
them.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from xxhash import xxh3_128_digest

from processor.shell.feeds import Lineage
from processor.shell.leases import Leases, Move
from processor.shell.objects import find_forgettable, unpack_place
from processor.shell.redis import Store, StoreLost
from processor.shell.stream_places import END

QUEUE_SECONDS = 140
"""Longer than a queue hides what a dead intake had received (sqs.VISIBILITY_SECONDS, 120)."""

GIVEN_BACK_SECONDS = 20
"""What an intake gives back at its end is with another one by then."""

SCAN_COUNT = 1_000
FILES_MAX = 10_000
"""Files whose positions are remembered here; the store has them all."""


class Shared:
    """The sharing of one intake. `digest` stands for all the sources that it reads: intakes that read others cannot say how far
    all is read, and wait. `positions` are of what this intake has looked at."""

    is_shared = True

    def __init__(self, store: Store, leases: Leases, digest: bytes) -> None:
        self.positions: dict[bytes, bytes] = {}
        self.differs = False
        self._store = store
        self._leases = leases
        self._digest = digest
        self._lineages: dict[str, Lineage | None] = {}
        self._reached: dict[bytes, int] = {}
        self._shards: set[bytes] = set()
        self._leaving: dict[bytes, bytes | None] = {}
        self._handed: dict[bytes, bytes] = {}
        self._files: dict[bytes, bool] = {}
        self._queues: dict[bytes, Callable[[], int]] = {}
        self._reads_files = False
        self._forgot_day = 0

    @property
    def held(self) -> list[bytes]:
        """The leases that this intake has."""
        return [*self._shards, *(name for name, is_held in self._files.items() if is_held)]

    # --- what feeds ask

    def add_stream(self, stream: str) -> None:
        """As Sharing.add_stream."""
        self._lineages[stream] = None

    def add_queue(self, url: str, find_watermark: Callable[[], int]) -> None:
        """As Sharing.add_queue."""
        self._queues[xxh3_128_digest(f"sqs\0{url}".encode())] = find_watermark
        self._reads_files = True

    def add_bucket(self) -> None:
        """As Sharing.add_bucket."""
        self._reads_files = True

    async def choose(
        self, stream: str, lineage: Lineage, ready: Sequence[bytes], reached: Mapping[bytes, float]
    ) -> set[bytes]:
        """As Sharing.choose. Raises StoreLost where another intake took a shard that this one was reading."""
        share = await self._leases.share(self._digest, ready)
        self.differs = share.differs
        leased = {name for name, is_ours in zip(ready, share.ours, strict=True) if is_ours}
        await self._look(lineage, reached)
        lost = [name for name in set(ready) - leased if name in self._shards and self.positions.get(name) != END]
        if lost:
            raise StoreLost(f"{stream}: another intake has taken {len(lost)} shards: reading on from what is stored")
        self._lineages[stream] = lineage
        self._leaving = {
            name: handed for name, handed in self._leaving.items() if name not in lineage or name in leased
        }
        ended = {name for name in leased if self.positions.get(name) == END}
        left = {name for name, handed in self._leaving.items() if handed == self.positions.get(name, b"")}
        await self._give_up([*ended, *left & leased])
        ours = leased - ended - self._leaving.keys()
        for name in sorted(ours)[share.fair :]:
            self._leaving[name] = None if name in self._shards else self.positions.get(name, b"")
            ours.discard(name)
        self._shards |= ours
        return ours

    async def _look(self, lineage: Lineage, reached: Mapping[bytes, float]) -> None:
        """Read how far everybody is, and write how far this intake is."""
        names = list(lineage)
        for name, position in zip(names, await self._leases.read_positions(names), strict=True):
            self.positions[name] = position
        if not names:
            return
        key = self._store.key(b"reached")
        (stored,) = await self._store.read_many([("HMGET", key, *names)])
        self._reached |= {name: int(at) for name, at in zip(names, stored, strict=True) if at}
        more = {name: int(at) for name, at in reached.items() if int(at) > self._reached.get(name, 0)}
        if more:
            await self._store.read_many([("HSET", key, *(part for pair in more.items() for part in pair))])
            self._reached |= more

    async def _give_up(self, names: Sequence[bytes]) -> None:
        await self._leases.give_up(names)
        for name in names:
            self._shards.discard(name)
            self._leaving.pop(name, None)
            self._handed.pop(name, None)

    async def leave(self, shard: bytes, handed: bytes) -> None:
        """As Sharing.leave: the lease is given up once all that was handed out is stored."""
        if shard in self._leaving:
            self._leaving[shard] = handed

    async def take(self, file: bytes) -> bool:
        """As Sharing.take."""
        (is_ours,) = await self._leases.take([file])
        if is_ours:
            (self.positions[file],) = await self._leases.read_positions([file])
            self._files[file] = not unpack_place(self.positions[file]).whole
            if not self._files[file]:
                await self._leases.give_up([file])
            while len(self._files) > FILES_MAX:
                oldest = next(iter(self._files))
                if self._files.pop(oldest):
                    await self._leases.give_up([oldest])
                self.positions.pop(oldest, None)
        return is_ours

    async def find_unread(self, files: Sequence[bytes]) -> set[bytes]:
        """As Sharing.find_unread."""
        unread = set()
        for at in range(0, len(files), SCAN_COUNT):
            part = files[at : at + SCAN_COUNT]
            for name, position in zip(part, await self._leases.read_positions(part), strict=True):
                if not unpack_place(position).whole:
                    unread.add(name)
        return unread

    # --- what the intake does

    async def forget_files(self, day: int) -> None:
        """Forget the positions of log files that were read FORGET_DAYS before a day (since 1970), or earlier."""
        key, cursor = self._store.key(b"files"), 0
        if not self._reads_files or day <= self._forgot_day:
            return
        self._forgot_day = day
        while True:
            scan = partial(self._store.client.hscan, key, cursor, count=SCAN_COUNT)
            cursor, found = await self._store.persist(scan, "forget log files")
            gone = find_forgettable(found, day)
            if gone:
                await self._store.read_many([("HDEL", key, *gone)])
            if not int(cursor):
                return

    def find_before(self, name: bytes, position: bytes) -> bytes:
        """The position that a source had before a slice that goes up to `position`, which is taken notice of."""
        before = self._handed.get(name)
        self._handed[name] = position
        return self.positions.get(name, b"") if before is None else before

    def note_stored(self, moves: Sequence[Move]) -> None:
        """Take notice of what was stored."""
        for move in moves:
            self.positions[move.name] = move.position
            if move.ends:
                self._handed.pop(move.name, None)
                self._shards.discard(move.name)
                if move.name in self._files:
                    self._files[move.name] = False

    async def renew_files(self) -> None:
        """Keep the leases of files that are on their way."""
        await self._leases.take([name for name, is_held in self._files.items() if is_held])

    async def open(self) -> None:
        """Say that this intake begins: nothing that it may receive from now on is sent."""
        await self._tell_queues(0, QUEUE_SECONDS)

    async def close(self) -> None:
        """Say that this intake ends; its leases are given up by who closes `Leases`."""
        await self._tell_queues(None, GIVEN_BACK_SECONDS)

    async def find_watermark(self, most: int) -> int:
        """Up to when all that arrived at streams and queues is sent, by whichever intake, but no later than `most`; 0 where that is
        not known."""
        if not self._lineages:
            self.differs = (await self._leases.share(self._digest, ())).differs
        times = [most, *(self._find_reached(lineage) for lineage in self._lineages.values())]
        if self._queues:
            times.append(await self._tell_queues(None, QUEUE_SECONDS))
        return 0 if self.differs else min(times)

    def _find_reached(self, lineage: Lineage | None) -> int:
        """Of one stream. A shard that has ended says nothing once its children are known: they say what comes after it. A child of
        which nothing is known yet is where its parents are."""
        if not lineage:
            return 0
        parents = {parent for listed in lineage.values() for parent in listed}
        times = []
        for name, its_parents in lineage.items():
            if self.positions.get(name) == END and name in parents:
                continue
            known = self._reached.get(name, 0)
            times.append(known or min((self._reached.get(parent, 0) for parent in its_parents), default=0))
        return min(times, default=0)

    async def _tell_queues(self, watermark: int | None, seconds: int) -> int:
        """Write up to when this intake has sent what it received; None: as the feeds say. Returns that of all intakes."""
        if not self._queues:
            return 0
        key, member = self._store.key(b"queues"), self._store.member.encode()
        ((now, _),) = await self._store.read_many([("TIME",)])
        until = int(now) + seconds
        own = {
            queue + member: f"{until} {find() if watermark is None else watermark}"
            for queue, find in self._queues.items()
        }
        _, found = await self._store.read_many(
            [("HSET", key, *(part for pair in own.items() for part in pair)), ("HGETALL", key)]
        )
        told = {name: tuple(map(int, value.split())) for name, value in dict(found).items()}
        gone = [name for name, (end, _) in told.items() if end < int(now)]
        if gone:
            await self._store.read_many([("HDEL", key, *gone)])
        return min(
            (at for name, (_, at) in told.items() if name[:16] in self._queues and name not in gone),
            default=0,
        )
