"""A Redis, a Kafka and a clock for the simulation: all in one process, in virtual time, and as bad as they may be.

The Redis runs the store's own Lua scripts. Both may be away, slow, answer to nobody, and the Redis may come back older.
"""

import asyncio
import copy
import random
import selectors
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from lupa import lua51
from redis.exceptions import ConnectionError as RedisConnectionError

EPOCH = 1_780_000_000
"""When a simulation begins, in seconds since 1970."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose time passes only when nothing can be done now."""

    def __init__(self) -> None:
        super().__init__(_Selector(self))
        self.now = 0.0

    def time(self) -> float:
        return self.now


class _Selector(selectors.SelectSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise RuntimeError("everything waits, and nothing will happen")
        self._loop.now += max(0.0, timeout)
        return []  # There is nothing real to wait for.


class ProcessEndedError(BaseException):
    """The process that asked is dead."""


class Process:
    """What a simulated process is to the world: it lives or not, stands still or not, and has a clock of its own."""

    def __init__(self, name: str, chance: random.Random) -> None:
        self.name = name
        self.chance = chance
        self.is_alive = True
        self.clock_off = 0.0
        self._going = asyncio.Event()
        self._going.set()

    def freeze(self) -> None:
        self._going.clear()

    def resume(self) -> None:
        self._going.set()

    def clock(self) -> float:
        return EPOCH + asyncio.get_running_loop().time() + self.clock_off

    async def pause(self, seconds_max: float = 0.02) -> None:
        """A moment passes, or longer where the process stands still."""
        await asyncio.sleep(self.chance.random() * seconds_max)
        await self._going.wait()
        if not self.is_alive:
            raise ProcessEndedError


def _bytes(part: Any) -> bytes:
    return part if isinstance(part, bytes) else str(part).encode()


class SimulatedRedis:
    """The commands that the store uses, on dicts. `keys` maps a key to bytes, a dict of bytes, or a set of bytes."""

    def __init__(self) -> None:
        self.keys: dict[bytes, Any] = {}
        self.is_away = False
        self._lua = lua51.LuaRuntime(encoding=None)
        self._scripts: dict[str, Any] = {}
        self._redis = self._lua.table()
        self._redis[b"call"] = self._call_from_lua
        self._pack = self._lua.table()
        self._pack[b"unpack"] = lambda packed: self._to_lua(_unpack(packed))

    def snapshot(self) -> dict[bytes, Any]:
        return copy.deepcopy(self.keys)

    def run(self, text: str, keys: Iterable[Any], args: Iterable[Any]) -> Any:
        """What a script answers."""
        script = self._scripts.get(text)
        if script is None:
            source = b"return function(KEYS, ARGV, redis, cmsgpack)\n" + text.encode() + b"\nend"
            script = self._scripts[text] = self._lua.execute(source)
        table = self._lua.table
        answer = script(table(*map(_bytes, keys)), table(*map(_bytes, args)), self._redis, self._pack)
        return self._from_lua(answer)

    def _call_from_lua(self, *command: Any) -> Any:
        found = self.execute(*command)
        # A hash is a list of fields and values to a script.
        return self._to_lua([part for pair in found.items() for part in pair] if isinstance(found, dict) else found)

    def _to_lua(self, found: Any) -> Any:
        if isinstance(found, (list, tuple)):
            return self._lua.table(*(self._to_lua(each) for each in found))
        return False if found is None else found

    def _from_lua(self, found: Any) -> Any:
        if lua51.lua_type(found) == "table":
            return [self._from_lua(found[place]) for place in range(1, len(found) + 1)]
        return int(found) if isinstance(found, (int, float)) and not isinstance(found, bool) else found

    def execute(self, name: Any, *args: Any) -> Any:
        """What a command answers."""
        parts = [_bytes(each) for each in args]
        return getattr(self, f"_{_bytes(name).decode().lower()}")(*parts)

    def _time(self) -> list[bytes]:
        now = EPOCH + asyncio.get_running_loop().time()
        return [b"%d" % int(now), b"%d" % int(now % 1 * 1e6)]

    def _hash(self, key: bytes) -> dict[bytes, bytes]:
        found: dict[bytes, bytes] = self.keys.setdefault(key, {})
        return found

    def _hset(self, key: bytes, *pairs: bytes) -> int:
        self._hash(key).update(zip(pairs[::2], pairs[1::2], strict=True))
        return 1

    def _hsetnx(self, key: bytes, field: bytes, value: bytes) -> int:
        self._hash(key).setdefault(field, value)
        return 1

    def _hget(self, key: bytes, field: bytes) -> bytes | None:
        return self.keys.get(key, {}).get(field)

    def _hmget(self, key: bytes, *fields: bytes) -> list[bytes | None]:
        found = self.keys.get(key, {})
        return [found.get(field) for field in fields]

    def _hgetall(self, key: bytes) -> dict[bytes, bytes]:
        return dict(self.keys.get(key, {}))

    def _hdel(self, key: bytes, *fields: bytes) -> int:
        found = self.keys.get(key, {})
        gone = [found.pop(field, None) for field in fields]
        if key in self.keys and not found:
            del self.keys[key]
        return len(gone)

    def _hincrby(self, key: bytes, field: bytes, more: bytes) -> int:
        found = self._hash(key)
        found[field] = b"%d" % (int(found.get(field, 0)) + int(more))
        return int(found[field])

    def _get(self, key: bytes) -> bytes | None:
        return self.keys.get(key)

    def _set(self, key: bytes, value: bytes) -> bytes:
        self.keys[key] = value
        return b"OK"

    def _append(self, key: bytes, value: bytes) -> int:
        self.keys[key] = self.keys.get(key, b"") + value
        return len(self.keys[key])

    def _unlink(self, *keys: bytes) -> int:
        return sum(self.keys.pop(key, None) is not None for key in keys)

    def _sadd(self, key: bytes, *members: bytes) -> int:
        self.keys.setdefault(key, set()).update(members)
        return 1

    def _scard(self, key: bytes) -> int:
        return len(self.keys.get(key, ()))

    def _smembers(self, key: bytes) -> set[bytes]:
        return set(self.keys.get(key, ()))


def _unpack(packed: bytes) -> Any:
    """msgpack as cmsgpack reads it: raw strings are bytes."""
    items, at = _read(packed, 0)
    assert at == len(packed), "what is packed has an end"
    return items


def _read(packed: bytes, at: int) -> tuple[Any, int]:
    kind = packed[at]
    if kind == 0xDD:
        count, at = int.from_bytes(packed[at + 1 : at + 5], "big"), at + 5
        items = []
        for _ in range(count):
            item, at = _read(packed, at)
            items.append(item)
        return items, at
    if kind & 0xE0 == 0xA0:
        size, at = kind & 31, at + 1
    elif kind == 0xDA:
        size, at = int.from_bytes(packed[at + 1 : at + 3], "big"), at + 3
    else:
        assert kind == 0xDB, f"the store packs no {kind:#x}"
        size, at = int.from_bytes(packed[at + 1 : at + 5], "big"), at + 5
    return packed[at : at + size], at + size


class RedisClient:
    """The client of one process, as far as the store uses it."""

    def __init__(self, redis: SimulatedRedis, process: Process) -> None:
        self._redis = redis
        self._process = process

    async def _ask(self, do: Callable[[], Any]) -> Any:
        await self._process.pause()
        if self._redis.is_away:
            raise RedisConnectionError("it is away")
        answer = do()
        await self._process.pause()
        if self._redis.is_away or self._process.chance.random() < 0.002:
            raise RedisConnectionError("its answer got lost")
        return answer

    def register_script(self, text: str) -> Callable[..., Awaitable[Any]]:
        async def run(keys: Iterable[Any], args: Iterable[Any]) -> Any:
            return await self._ask(lambda: self._redis.run(text, keys, args))

        return run

    async def script_load(self, text: str) -> None:
        await self._ask(lambda: self._redis.execute("TIME"))  # It knows every script.

    def pipeline(self, transaction: bool) -> "_Pipeline":
        assert not transaction
        return _Pipeline(self)

    async def run_all(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        return list(await self._ask(lambda: [self._redis.execute(*command) for command in commands]))

    async def time(self) -> tuple[int, int]:
        seconds, micros = await self._ask(lambda: self._redis.execute("TIME"))
        return int(seconds), int(micros)

    async def hgetall(self, key: bytes) -> Any:
        return await self._ask(lambda: self._redis.execute("HGETALL", key))

    async def hmget(self, key: bytes, *fields: str) -> Any:
        return await self._ask(lambda: self._redis.execute("HMGET", key, *fields))


class _Pipeline:
    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._commands: list[tuple[Any, ...]] = []

    async def __aenter__(self) -> "_Pipeline":
        return self

    async def __aexit__(self, *exception: object) -> None:
        pass

    def execute_command(self, *command: Any) -> None:
        self._commands.append(command)

    async def execute(self) -> list[Any]:
        return await self._client.run_all(self._commands)


class SimulatedLog:
    """Topic `uses` as partitions in memory, and the group of ledgers that reads it."""

    def __init__(self, partitions: Iterable[int]) -> None:
        self.partitions: dict[int, list[bytes]] = {number: [] for number in partitions}
        self.changes: dict[bytes, bytes | None] = {}
        self.told_ends: Counter[int] = Counter()
        self.alerts: dict[bytes, bytes | None] = {}
        self.is_away = False
        self.generation = 0
        self.members: dict[str, list[int]] = {}

    def assign(self, alive: list[str]) -> Mapping[str, list[int]]:
        """Divide the partitions among members, in a new generation."""
        self.generation += 1
        self.members = {name: list(self.partitions)[place :: len(alive)] for place, name in enumerate(sorted(alive))}
        return self.members
