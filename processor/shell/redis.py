"""The store: what a ledger keeps in Redis, how it is laid out, and how a flush stays whole.

Keys, all below a prefix (`gapwatch` by default); `{N}` is the shard, 0 to 63, so that a shard lies on one node of a
cluster; KEY is a principal's 8-byte key, ACTION an action's 5-byte stable hash, both raw:

    P:meta                hash    layout, owner, flush, mark; counters of records; times
    P:rejected P:unmapped hash    reason / source:eventName -> count
    P:accounts            hash    account -> time of its first record
    P:inventories         hash    account -> when its inventory was taken
    P:files               hash    16-byte id of a source -> position in it
    P:told:CHANNEL        hash    notice that was sent -> time (notify.py, beside the flush)
    P:names               hash    ACTION -> name, so that an action that leaves the catalogue keeps it
    P:inventory P:logging hash    account -> what is known of it by reading it from AWS (shell/inventory_store.py)
    P:seen:SPAN           string  hashes of events, 8 bytes each: the duplicates' horizon, one key a span of event time
    P:{N}:p               hash    KEY -> principal
    P:{N}:u:KEY           hash    ACTION -> cell: at most 64 bytes a pair with its share of all the above
    P:{N}:d:DAY:KEY       hash    ACTION -> uses on that day, for days that are over; as many as the longest window + 1
    P:{N}:f:KEY           hash    ACTION -> facets: operators, regions, resources, services
    P:{N}:g               hash    KEY -> grants
    P:{N}:a               hash    id of an alert -> what was told of it on topic alerts (alerting.py)

In Kafka mode P:meta says so (`mode`), and what is above is counted and seen is kept by shard: `meta`, `accounts`, `files`, `names`
and `seen:SPAN` below P:{N} (holds.py). Intakes count classes 1 to 6 in P:meta, and keep their positions in P:files (leases.py).

A flush is one script (lua/flush.lua): it goes through only if owner, flush number and mark are what this writer wrote
last. It holds positions and the state that they produced, so that the store is always a whole prefix of its input.
"""

import asyncio
import os
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from importlib.resources import files
from typing import Any, NamedTuple, Protocol, TypeVar

import redis.asyncio as aioredis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ExecAbortError,
    MasterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from processor.core.sessions import SHARDS
from processor.shell.commands import Command, Packed, pack_in_turns
from processor.shell.ending import end_tasks, within
from processor.shell.owners import is_dead_here, name_host, name_owner

EMBEDDED = "embedded"
SCRIPTS = ("claim", "flush", "beat", "release", "claim_shard", "lease", "share", "advance")

LAYOUT = "3"
"""1 and 2 hashed the ids of events otherwise: what they have seen would not be known again."""

OWNER_SILENT_SECONDS = 10.0
"""An owner of a whole store that has not renewed for so long, by Redis' clock, is held to be dead: with what a claim and a load
take, a standby on another host has taken over within 15 s. `run` renews each second; what flushes seldom beats (`beating`)."""

AWAY_SECONDS = 1.0
"""An answer that took longer: Redis was away, or this process was, and an owner may have had no chance to renew."""

RENEW_SECONDS = 5.0
BEAT_SECONDS = 1.0
WAIT_SECONDS_MAX = 1.0
RELEASE_SECONDS_MAX = 1.5

Result = TypeVar("Result")


class StoreError(Exception):
    """The store cannot be used; the text says why and what to do."""


class StoreBusy(StoreError):
    """Another writer holds the store."""


class StoreRefused(StoreError):
    """What was asked for is no store, or not one to use so: nothing to wait for."""


class StoreLost(StoreError):
    """This writer no longer holds the store, or the store came back older: what is in memory must be dropped."""


def read_script(name: str) -> str:
    """One of the scripts in lua/."""
    return files("processor.shell").joinpath("lua", f"{name}.lua").read_text("utf-8")


class Hold(Protocol):
    """What a state is written to: a whole store, or one shard of it."""

    @property
    def shards(self) -> Sequence[int]: ...

    def key(self, *parts: bytes) -> bytes: ...

    def shard_key(self, shard: int, *parts: bytes) -> bytes: ...

    async def read_many(self, commands: list[Command]) -> list[Any]: ...

    async def flush(self, commands: list[Command], more: Sequence[Packed] = ()) -> None: ...


class Last(NamedTuple):
    """What a writer wrote last: a flush goes through only where the store still has it."""

    owner: bytes = b""
    flush: int = 0
    mark: bytes = b""


class Store:
    """One Redis and this writer's hold of it.

    `wait` is told what is waited for while Redis is away, full or read-only; `alive` is asked then whether waiting
    makes sense (an embedded server that has ended will not come back) and returns why not.
    """

    def __init__(
        self,
        client: Any,
        where: str,
        prefix: str = "gapwatch",
        wait: Callable[[str], None] = lambda text: None,
        alive: Callable[[], str | None] = lambda: None,
    ) -> None:
        self.client = client
        self.where = where
        self.prefix = prefix.encode()
        self._wait = wait
        self._alive = alive
        self._meta = self.key(b"meta")
        self.member = f"{name_host()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._last = Last()
        self._lock = asyncio.Lock()
        self.scripts = {name: client.register_script(read_script(name)) for name in SCRIPTS}
        self._knows_flush = False

    @classmethod
    async def connect(cls, url: str, **options: Any) -> "Store":
        """A store at a redis://, rediss:// or unix:// URL. Raises StoreError for one that refuses us or is no URL."""
        try:
            client: Any = aioredis.Redis.from_url(
                url,
                socket_connect_timeout=5,
                socket_timeout=60,
                retry=Retry(NoBackoff(), 0),
                decode_responses=False,
            )
        except ValueError as error:
            raise StoreRefused(f"--redis {hide_password(url)}: {error}") from error
        store = cls(client, hide_password(url), **options)
        try:
            await store.client.ping()
        except (AuthenticationError, ResponseError) as error:
            await client.aclose()
            raise StoreRefused(
                f"Redis at {store.where} refuses the connection: {error}. Put user and password into the URL."
            ) from error
        except (RedisConnectionError, RedisTimeoutError):
            try:
                await store.persist(store.client.ping, "connect")
            except BaseException:
                await client.aclose()
                raise
        return store

    @property
    def shards(self) -> range:
        """The shards that a writer of the whole store writes."""
        return range(SHARDS)

    def key(self, *parts: bytes) -> bytes:
        return b":".join((self.prefix, *parts))

    def shard_key(self, shard: int, *parts: bytes) -> bytes:
        return self.key(b"{%d}" % shard, *parts)

    async def close(self) -> None:
        """Give up the hold, so that the next writer need not wait, and disconnect."""
        try:
            if self._last.owner:
                await within(RELEASE_SECONDS_MAX, self.release())
        except (RedisError, StoreError, TimeoutError, OSError):
            pass  # The next writer finds an owner that no longer renews.
        finally:
            await self.client.aclose()

    async def release(self) -> None:
        """Give up the hold, and stay connected."""
        async with self._lock:
            await self.scripts["release"](keys=[self._meta], args=[self._last.owner])
            self._last = Last()

    async def persist(self, attempt: Callable[[], Awaitable[Result]], what: str) -> Result:
        """Do something on Redis, waiting as long as it is away, loading, full or read-only."""
        delay = 0.02
        while True:
            try:
                return await attempt()
            except AuthenticationError:
                raise
            except (RedisConnectionError, RedisTimeoutError, BusyLoadingError, ReadOnlyError, ResponseError) as error:
                if isinstance(error, ResponseError) and not _is_passing(error):
                    raise StoreError(f"Redis at {self.where} refuses to {what}: {error}") from error
                if (why := self._alive()) is not None:
                    raise StoreError(f"cannot {what}: {why}") from error
                self._wait(f"waiting for Redis at {self.where} to {what}: {error}")
            await asyncio.sleep(delay)
            delay = min(WAIT_SECONDS_MAX, delay * 2)

    async def claim(self, *, exclusive: bool = False, standby: bool = False, mode: str = EMBEDDED) -> None:
        """Become the store's one writer; `mode` says what for.

        `exclusive`: the caller knows that no other writer lives (it holds the folder's lock). A living owner is seen
        by its renewing: then StoreBusy is raised, or with `standby` it is waited for. One that is silent is waited
        out, and one whose process on this host is gone is replaced at once.
        """
        seen: tuple[bytes, bytes] | None = None
        waited = patient_until = 0.0
        while True:
            asked_at = time.monotonic()
            owner, renewed, age = await self.persist(self._read_owner, "read the owner")
            if (now := time.monotonic()) - asked_at > AWAY_SECONDS:
                patient_until = now + OWNER_SILENT_SECONDS
            silent = age > OWNER_SILENT_SECONDS and now >= patient_until
            if owner is None or exclusive or silent or self._is_gone(owner):
                if await self.persist(partial(self._take, owner, renewed, mode), "claim"):
                    return
                continue
            if not standby and seen is not None and seen != (owner, renewed):
                raise StoreBusy(
                    f"the store at {self.where} is held by another gapwatch ({name_owner(owner)}), which renewed its hold just "
                    "now: one writer a store. Stop it, or use another --redis database or --state folder."
                )
            if waited == 0:
                self._wait(f"the store at {self.where} is held by {name_owner(owner)}: waiting to see whether it lives")
            seen = seen or (owner, renewed)
            await asyncio.sleep(0.5)
            waited += 0.5

    def _is_gone(self, owner: bytes) -> bool:
        """Whether an owner is a dead process of this host, or this writer itself, before Redis came back older."""
        return owner.endswith(b" " + self.member.encode()) or is_dead_here(owner)

    async def _read_owner(self) -> tuple[bytes | None, bytes, float]:
        owner, renewed = await self.client.hmget(self._meta, "owner", "renewed")
        seconds, micros = await self.client.time()
        age = seconds + micros / 1e6 - float(renewed or 0)
        return owner, renewed or b"", age

    async def _take(self, owner: bytes | None, renewed: bytes, mode: str) -> bool:
        """Put this writer in the place of `owner`; False where another one was faster."""
        said, *rest = await self.scripts["claim"](
            keys=[self._meta], args=[owner or b"", renewed, LAYOUT, mode, self.member]
        )
        if said == b"layout":
            raise StoreRefused(
                f"the store at {self.where} has layout {rest[0].decode()}, this gapwatch writes {LAYOUT}: use the gapwatch "
                "that wrote it, or another store"
            )
        if said != b"ok":
            return False
        self._last = Last(rest[0], int(rest[1]), rest[2])
        return True

    async def renew(self) -> None:
        """Show that this writer lives, and see whether the store is still the one that it wrote. Raises StoreLost."""
        await self.flush([])

    @asynccontextmanager
    async def beating(self) -> AsyncIterator[None]:
        """Renew the hold while something goes on that flushes seldom, or not yet. Nothing is raised where the hold is lost: the
        next flush says so."""

        async def beat() -> None:
            while True:
                await asyncio.sleep(BEAT_SECONDS)
                with suppress(RedisError, OSError):
                    await self.scripts["beat"](keys=[self._meta], args=[self._last.owner])

        task = asyncio.create_task(beat())
        try:
            yield
        finally:
            await end_tasks(task)

    async def flush(self, commands: list[Command], more: Sequence[Packed] = ()) -> None:
        """Write all commands, then `more`, or none of them. Raises StoreLost where the store is no longer this writer's.

        Waits while Redis is away or full. A flush whose answer got lost is recognised by its mark.
        """
        async with self._lock:
            self._last = await self.write(self._meta, self._last, commands, more)

    async def write(self, meta: bytes, last: Last, commands: list[Command], more: Sequence[Packed] = ()) -> Last:
        """As `flush`, by the hold whose owner, flush number and mark stand in the hash `meta`."""
        if not self._knows_flush:  # The error of a Redis that does not would hold on to what is to be written.
            await self.persist(partial(self.client.script_load, read_script("flush")), "flush")
            self._knows_flush = True
        mark = secrets.token_bytes(8)
        packed = await pack_in_turns(commands, more)
        args = [last.owner, str(last.flush), last.mark, mark, packed]
        said, *rest = await self.persist(partial(self.scripts["flush"], keys=[meta], args=args), "flush")
        if said == b"lost":
            raise StoreLost(self.say_lost(last, *rest))
        return Last(last.owner, last.flush + 1, mark)

    def say_lost(self, last: Last, owner: bytes, flush: bytes) -> str:
        """Why a flush was refused, in words."""
        if owner and owner != last.owner:
            return f"the store at {self.where} was taken by {name_owner(owner)}"
        return (
            f"Redis at {self.where} came back older (flush {flush.decode()} where {last.flush} was written): what it lost is "
            "read again from its sources"
        )

    async def read_many(self, commands: list[Command]) -> list[Any]:
        """The answers to many reading commands."""

        async def attempt() -> list[Any]:
            pipe = self.client.pipeline(transaction=False)
            async with pipe:
                for command in commands:
                    pipe.execute_command(*command)
                return list(await pipe.execute())

        return await self.persist(attempt, "read") if commands else []

    async def read_meta(self) -> Mapping[str, str]:
        """P:meta but for its raw bytes."""
        found = await self.persist(lambda: self.client.hgetall(self._meta), "read")
        return {key.decode(): value.decode(errors="replace") for key, value in found.items() if key != b"mark"}


def _is_passing(error: ResponseError) -> bool:
    """Whether Redis may stop refusing by itself: it is full, loading, or cannot write its files.

    redis-py takes the code off the text of errors that it has a class for.
    """
    if isinstance(error, (OutOfMemoryError, ExecAbortError, MasterDownError)):
        return True
    return str(error).startswith(("OOM", "EXECABORT", "MISCONF", "LOADING", "MASTERDOWN", "NOREPLICAS", "BUSY"))


def hide_password(url: str) -> str:
    """A URL that may be shown."""
    scheme, mark, rest = url.partition("://")
    credentials, at, host = rest.rpartition("@")
    return f"{scheme}{mark}***@{host}" if at and credentials else url
