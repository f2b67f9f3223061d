"""Intakes and ledgers in one process, over a simulated broker, store and clock: the pipeline's own code, thousands of seeds.

    python tests/simulation.py [--seeds 1000] [--first 0] [--fault NAME]

One seed is one run: records appear in files, and in half of the seeds in a stream that splits and merges, two intakes send
them, up to three ledgers count them, and everything that may happen does: kill -9, freezes, rebalances at any time, messages
given twice or beyond the next one, a Redis or a broker that is away, a Redis that comes back older, clocks that jump, copies of
events, files of lines that grow. In the end the store must say what a naive reading of the records says, and the gaps that were
told must be the store's. A planted fault must be found.
"""

import argparse
import asyncio
import gzip
import json
import random
import shutil
import sys
import tempfile
import traceback
from collections.abc import Awaitable, Iterable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from aws_servers import wrap_event, wrap_logs
from building import ACCOUNT, build_holding, build_record, build_small_catalogue
from faults import FAULTS
from simulated import EPOCH, Process, ProcessEndedError, RedisClient, SimulatedLog, SimulatedRedis, VirtualLoop
from simulated_stream import STREAM, SimulatedStream, VirtualTime, make_opener, virtual_time

from processor.core.actions import ActionMap, ActionRules
from processor.core.catalogue import Catalogue, ids_in, stable_hash
from processor.core.fleet import Coverage, Fleet
from processor.core.horizon import Horizon
from processor.core.intake import Intake
from processor.core.ledger import Ledger
from processor.core.principals import Principal
from processor.core.sessions import Scope, key_of, shard_of
from processor.core.tally import Tally
from processor.intake_runner import IntakeOrder, IntakeRunner
from processor.settings import RunSettings, Settings
from processor.shard_parts import ShardParts
from processor.shards import Shards
from processor.shell.brokers import BrokerError, BrokerSettings
from processor.shell.ending import end_tasks
from processor.shell.grants import load_grants, pack_grants
from processor.shell.holds import Member
from processor.shell.modes import enter_kafka_mode
from processor.shell.redis import Store, StoreError
from processor.shell.state import State
from topics import gap_changes, grants

CALLS = (
    ("ec2.amazonaws.com", "DescribeInstances", "ec2:DescribeInstances"),
    ("ec2.amazonaws.com", "RunInstances", "ec2:RunInstances"),
    ("iam.amazonaws.com", "CreateAccessKey", "iam:CreateAccessKey"),
    ("s3.amazonaws.com", "CreateBucket", "s3:CreateBucket"),
    ("s3.amazonaws.com", "GetObject", "s3:GetObject"),
)
ROLES = ("alpha", "bravo", "delta", "gamma")
SETTINGS = Settings(windows=(7, 30), run=RunSettings(horizon_hours=2_000, flush_seconds=0.25, poll_seconds=1.0))
SECONDS = 16.0
"""How long things befall the fleet; afterwards it is left alone until all is applied."""

SETTLE_SECONDS_MAX = 400.0
LATE_WRITES = 0.2
SETTLED_SECONDS = 20
"""Longer than what is written late takes, and a ledger to see that another one wrote over what it had told."""


class SimulationFailure(Exception):
    """A run that did not end where it should; the text says what differs."""


@cache
def find_catalogue() -> Catalogue:
    return build_small_catalogue()


@cache
def find_actions() -> ActionMap:
    return ActionMap(find_catalogue(), ActionRules({}, (), ()))


def build_role(name: str) -> Principal:
    return Principal(f"arn:aws:iam::{ACCOUNT}:role/{name}", f"AROAEXAMPLE{name.upper()}", ACCOUNT, "role")


@cache
def find_roles() -> dict[str, Principal]:
    return {name: build_role(name) for name in ROLES}


@cache
def find_shards() -> tuple[int, ...]:
    return tuple(sorted({shard_of(key_of(role)) for role in find_roles().values()}))


@dataclass(slots=True)
class Expected:
    """The naive reading: by (role, action) the uses, and by class the records."""

    counts: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    classes: dict[str, int] = field(default_factory=dict)
    seen: set[tuple[str, str]] = field(default_factory=set)
    first: int = 2**40
    arrived: list[tuple[float, str, str]] = field(default_factory=list)

    def read(self, record: dict[str, Any], role: str, action: str, time: int, at: float) -> None:
        self.first = min(self.first, time)
        key = (role, record["eventID"])
        denied = record.get("errorCode") == "AccessDenied"
        name = "duplicate" if key in self.seen else "denied" if denied else "use"
        self.classes[name] = self.classes.get(name, 0) + 1
        if key in self.seen:
            return
        self.seen.add(key)
        self.arrived.append((at, role, record["eventID"]))
        count = self.counts.setdefault((role, action), [0, 0, 2**40, 0])
        if denied:
            count[1] += 1
        else:
            count[0] += 1
            count[2], count[3] = min(count[2], time), max(count[3], time)


class Simulation:
    """One run of one seed."""

    def __init__(self, seed: int, folder: Path, time: VirtualTime) -> None:
        self.chance = random.Random(seed)
        self.folder = folder
        self.redis = SimulatedRedis()
        self.log = SimulatedLog(find_shards())
        self.expected = Expected()
        self.jumps = self.chance.random() < 0.3
        self._time = time
        self.stream = SimulatedStream(self.chance) if seed % 2 else None
        self.intakes: dict[str, SimulatedIntake] = {}
        self.ledgers: dict[str, SimulatedLedger] = {}
        self.troubles: list[str] = []
        self._number = 0
        self._births = 0
        self._grants = {
            number: [
                (key_of(role).to_bytes(8, "big"), _write_grants(role))
                for role in find_roles().values()
                if shard_of(key_of(role)) == number
            ]
            for number in find_shards()
        }

    def read_grants(self, shard: int) -> list[tuple[bytes, bytes]]:
        return self._grants[shard]

    def look(self) -> None:
        """Coverage must not be ahead of uses: what lay in files before the watermark that a shard stores, it has stored, too."""
        if self.jumps:
            return
        for number in find_shards():
            watermarks = self.redis.execute("HGET", b"gapwatch:{%d}:meta" % number, "watermarks")
            if not watermarks:
                continue
            until = min(msgspec.msgpack.decode(watermarks).values(), default=0) - EPOCH
            wanted = {
                (role, event) for at, role, event in self.expected.arrived
                if at < until and shard_of(key_of(find_roles()[role])) == number
            }  # fmt: skip
            prefix = b"gapwatch:{%d}:seen:" % number
            held = sum(len(value) for key, value in self.redis.keys.items() if key.startswith(prefix)) // 8
            if held < len(wanted):
                raise SimulationFailure(f"shard {number} vouches for {len(wanted)} uses, and has {held}")

    def warn(self, text: str) -> None:
        self.troubles.append(text)

    # --- what is done, and where it appears

    def write_file(self) -> None:
        """A file appears, one of lines grows, or records come by the stream."""
        chance = self.chance
        at = asyncio.get_running_loop().time()
        records = [self._make_record(at) for _ in range(chance.randint(1, 5))]
        if self.stream is not None and chance.random() < 0.6:
            batched = chance.random() < 0.5
            for payload in [wrap_logs(records)] if batched else map(wrap_event, records):
                self.stream.put(payload)
            if chance.random() < 0.2:
                self.stream.reshard()
            return
        if chance.random() < 0.4:
            with (self.folder / "growing.ndjson").open("ab") as file:
                file.write(b"".join(json.dumps(record).encode() + b"\n" for record in records))
            return
        self._number += 1
        whole = json.dumps({"Records": records}).encode()
        if chance.random() < 0.5:
            (self.folder / f"{self._number:04d}.json").write_bytes(whole)
        else:
            (self.folder / f"{self._number:04d}.json.gz").write_bytes(gzip.compress(whole, 1))

    def _make_record(self, at: float) -> dict[str, Any]:
        chance = self.chance
        role = chance.choice(ROLES)
        source, name, action = chance.choice(CALLS)
        time = int(EPOCH + at) - chance.choice((0, 1, 60, 86_400 * chance.randint(1, 40)))
        number = chance.randint(1, 400)
        time -= time % 400 - number  # Copies of an event bear its time, or one in another hour: another event to us.
        principal = find_roles()[role]
        record = build_record(number * 1_000_003 + time, time, eventSource=source, eventName=name)
        record["userIdentity"]["sessionContext"]["sessionIssuer"] = {
            "type": "Role", "principalId": principal.unique_id, "arn": principal.arn,
        }  # fmt: skip
        record["userIdentity"]["principalId"] = f"{principal.unique_id}:{chance.choice(('ann', 'bob'))}"
        # One event of one role is one call, however often it is logged.
        source, name, action = CALLS[number % len(CALLS)]
        record |= {"eventSource": source, "eventName": name}
        if number % 11 == 0:
            record["errorCode"] = "AccessDenied"
        self.expected.read(record, role, action, time, at)
        return record

    # --- processes

    def start_intake(self, slot: str) -> None:
        self._births += 1
        self.intakes[slot] = SimulatedIntake(self, Process(f"simulated:{self._births}:{slot}", self.chance))

    def start_ledger(self, slot: str) -> None:
        self._births += 1
        self.ledgers[slot] = SimulatedLedger(self, Process(f"simulated:{self._births}:{slot}", self.chance))
        self.rebalance()

    def rebalance(self) -> None:
        """The group notices who lives; a frozen member is not told before it goes on."""
        alive = {each.process.name: each for each in self.ledgers.values() if each.process.is_alive}
        if not alive:
            return
        for name, numbers in self.log.assign(list(alive)).items():
            alive[name].assigned.put_nowait((list(numbers), self.log.generation))

    # --- what befalls them

    async def befall(self) -> None:
        """Files appear and things happen, until time is up."""
        loop, chance = asyncio.get_running_loop(), self.chance
        tasks = []
        while loop.time() < SECONDS:
            await asyncio.sleep(chance.random() * 1.5)
            self.write_file()
            self.look()
            if chance.random() < 0.35:
                tasks.append(asyncio.ensure_future(self._happen()))
        for task in tasks:
            await task

    async def _happen(self) -> None:
        chance = self.chance
        what = chance.choice(
            (
                self._kill,
                self._kill,
                self._freeze,
                self._stop_redis,
                self._set_back,
                self._stop_broker,
                self._rebalance_often,
            )
        )
        await what()

    async def _kill(self) -> None:
        slots: Mapping[str, Any] = self.chance.choice((self.intakes, self.ledgers))
        slot = self.chance.choice(sorted(slots))
        await slots[slot].kill()
        await asyncio.sleep(self.chance.random() * 3)
        (self.start_intake if slots is self.intakes else self.start_ledger)(slot)

    async def _freeze(self) -> None:
        slots: Mapping[str, Any] = self.chance.choice((self.intakes, self.ledgers))
        frozen = slots[self.chance.choice(sorted(slots))]
        frozen.process.freeze()
        seconds = self.chance.choice((1, 5, 20))
        await asyncio.sleep(seconds)
        if seconds > 6 and frozen in self.ledgers.values():
            others = [each for each in self.ledgers.values() if each is not frozen and each.process.is_alive]
            for name, numbers in self.log.assign([each.process.name for each in others]).items() if others else ():
                next(each for each in others if each.process.name == name).assigned.put_nowait(
                    (list(numbers), self.log.generation)
                )
            await asyncio.sleep(self.chance.random() * 3)
        if self.jumps:
            frozen.process.clock_off += self.chance.uniform(-400, 3_600)
        frozen.process.resume()
        self.rebalance()

    async def _stop_redis(self) -> None:
        self.redis.is_away = True
        await asyncio.sleep(self.chance.random() * 4)
        self.redis.is_away = False

    async def _set_back(self) -> None:
        kept = self.redis.snapshot()
        await asyncio.sleep(self.chance.random() * 1.5)
        self.redis.is_away = True
        self.redis.keys = kept
        await asyncio.sleep(self.chance.random())
        self.redis.is_away = False

    async def _stop_broker(self) -> None:
        self.log.is_away = True
        await asyncio.sleep(self.chance.random() * 4)
        self.log.is_away = False

    async def _rebalance_often(self) -> None:
        for _ in range(4):
            self.rebalance()
            await asyncio.sleep(self.chance.random())

    # --- the run

    async def run(self) -> None:
        """All of it. Raises SimulationFailure."""
        for slot in ("intake-0", "intake-1"):
            self.start_intake(slot)
        for slot in ("ledger-0", "ledger-1", "ledger-2")[: self.chance.randint(1, 3)]:
            self.start_ledger(slot)
        try:
            await self.befall()
            await self._settle()
            for intake in self.intakes.values():
                await intake.kill()
            for ledger in self.ledgers.values():
                await ledger.stop()
            await self._compare()
        finally:
            for each in [*self.intakes.values(), *self.ledgers.values()]:
                await each.kill()

    async def _settle(self) -> None:
        """Wait until every shard has a mark of after the last file, and has applied all."""
        since = asyncio.get_running_loop().time() + EPOCH + (7_200 if self.jumps else 0)
        for each in [*self.intakes.values(), *self.ledgers.values()]:
            each.process.clock_off = self._time.off = 7_201.0 if self.jumps else 0.0
        deadline = asyncio.get_running_loop().time() + SETTLE_SECONDS_MAX
        settled_at = 1e18
        while asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(1)
            self.look()
            shards = {
                number: shard
                for ledger in self.ledgers.values()
                for number, shard in ledger.shards.owned.items()
                if min(shard.watermarks.values(), default=0) > since and shard.dirty_since is None
                if shard.is_told and not shard.telling
            }
            if shards.keys() == set(find_shards()):
                settled_at = min(settled_at, asyncio.get_running_loop().time())
                if asyncio.get_running_loop().time() > settled_at + SETTLED_SECONDS:
                    return
        raise SimulationFailure(f"not settled: {len(shards)} shards are; {self.troubles[-3:]}")

    async def _compare(self) -> None:
        process = Process("reader", self.chance)
        store = Store(RedisClient(self.redis, process), "simulated")
        catalogue = find_catalogue()
        ledger = Ledger(Horizon(), Tally())
        state = State(store, ledger, catalogue, 31)
        await state.load()
        found = {
            (usage.principal.arn.rpartition("/")[2], state.names.names[action]): [
                cell.count, cell.denied, cell.first if cell.last else 2**40, cell.last,
            ]
            for usage in ledger.principals.values()
            for action, cell in usage.cells.items()
        }  # fmt: skip
        for key in found.keys() | self.expected.counts.keys():
            if found.get(key) != self.expected.counts.get(key):
                raise SimulationFailure(f"{key}: {found.get(key)} found, {self.expected.counts.get(key)} expected")
        classes = {name: count for name, count in ledger.tally.classes.items() if count}
        if classes != self.expected.classes:
            raise SimulationFailure(f"{classes} found, {self.expected.classes} expected")
        for part in state.parts:
            if part.accounts and part.accounts != {ACCOUNT: self.expected.first}:
                raise SimulationFailure(f"shard {part.number} covers {part.accounts}, {self.expected.first} expected")
        await self._compare_gaps(store, state, ledger)

    async def _compare_gaps(self, store: Store, state: State, ledger: Ledger) -> None:
        catalogue = find_catalogue()
        inventory = await load_grants(store, catalogue, find_shards())
        coverage = Coverage(
            {}, None, {p.number: p.accounts for p in state.parts}, {p.number: p.hole_end for p in state.parts}
        )
        fleet = Fleet(catalogue, SETTINGS.gap_windows, ledger.principals, inventory, coverage, {}, Scope())
        # What was told is as of the shard's own time, which its watermark holds back.
        times = {part.number: int(part.meta[b"as_of"]) for part in state.parts if b"as_of" in part.meta}
        for member in fleet.members():
            as_of = times[shard_of(key_of(member.principal))]
            judged = fleet.verdicts_of(member, fleet.gap_of(member, as_of), as_of)
            for window, verdicts in zip(fleet.windows, judged, strict=True):
                key = key_of(member.principal).to_bytes(8, "big") + window.label.encode()
                told = self.log.changes.get(key)
                unused = {stable_hash(catalogue.names[action]) for action in ids_in(verdicts.unused)}
                if told is None or gap_changes.unpack_hashes(gap_changes.CODEC.decode(told).unused) != unused:
                    raise SimulationFailure(
                        f"{member.principal.arn} {window.label}: the gap that was told is another one"
                    )


def _write_grants(role: Principal) -> bytes:
    catalogue = find_catalogue()
    packed = pack_grants(build_holding(role, catalogue.all_mask, created=1), catalogue.version)
    value = grants.PrincipalGrants(
        as_of=1, arn=role.arn, unique_id=role.unique_id, account_id=role.account_id, kind="role",
        catalogue=catalogue.version, packed=packed,
    )  # fmt: skip
    return grants.CODEC.encode(value)


class SimulatedIntake:
    """One intake process."""

    def __init__(self, world: Simulation, process: Process) -> None:
        self.process = process
        self._world = world
        self._tasks = [asyncio.ensure_future(self._run())]

    async def _run(self) -> None:
        world, process = self._world, self.process
        store = Store(RedisClient(world.redis, process), "simulated")
        store.member = process.name
        with suppress(ProcessEndedError):
            await enter_kafka_mode(store)
            order = IntakeOrder(
                BrokerSettings(hosts=("simulated:1",)), "", "", (str(world.folder),), SETTINGS, {}, clock=process.clock
            )
            if world.stream is not None:
                order.feeds, order.names = (make_opener(world.stream, process, world.warn),), (STREAM,)
            intake = Intake(find_actions(), Scope(), {}, Tally(), seed=world.chance.getrandbits(64))
            runner = IntakeRunner(order, store, self, intake, find_catalogue().names, world.warn)
            await runner.run(asyncio.Event())

    async def send(self, shard: int, value: bytes) -> Awaitable[object]:
        """As UsesLog.send: a message may get there and its acknowledgement not, or neither."""
        if shard not in self._world.log.partitions:  # Nobody is there: nothing but marks goes that way.
            return asyncio.sleep(0)
        await self.process.pause(0.001)
        return asyncio.ensure_future(self._deliver(shard, value))

    async def _deliver(self, shard: int, value: bytes) -> None:
        world, chance = self._world, self._world.chance
        await self.process.pause(0.05)
        if world.log.is_away or chance.random() < 0.01:
            raise BrokerError("the broker is away")
        world.log.partitions[shard].append(value)
        await self.process.pause(0.05)
        if world.log.is_away or chance.random() < 0.01:
            raise BrokerError("the acknowledgement got lost")

    async def reject(self, rejects: Iterable[Any]) -> None:
        assert not (found := list(rejects)), found

    async def cover(self, accounts: Mapping[str, int], watermark: int) -> None:
        await self.process.pause()

    async def kill(self) -> None:
        await _kill(self.process, self._tasks)


async def _kill(process: Process, tasks: list[asyncio.Task[None]]) -> None:
    """End tasks, and raise what one failed with: once, as asyncio tells where that was only who asks first."""
    process.is_alive = False
    process.resume()
    while tasks:
        task = tasks.pop(0)
        task.cancel()
        with suppress(asyncio.CancelledError, ProcessEndedError, StoreError, BrokerError):
            await task


class SimulatedLedger:
    """One ledger process: the shards, and in place of Faust a reader that gives messages twice, or too early."""

    def __init__(self, world: Simulation, process: Process) -> None:
        self.process = process
        self.assigned: asyncio.Queue[tuple[list[int], int]] = asyncio.Queue()
        self._world = world
        self._at: dict[int, int] = {}
        self._grants_at: dict[int, int] = {}
        self._orders: dict[int, asyncio.Lock] = {}
        self._writing: set[asyncio.Future[tuple[int, int]]] = set()
        store = Store(RedisClient(world.redis, process), "simulated")
        member = Member("cluster", "group", process.name)
        parts = ShardParts(find_catalogue(), SETTINGS, process.clock, world.warn, {})
        self.shards = Shards(store, member, parts, self)
        self._store = store
        self._tasks = [asyncio.ensure_future(each) for each in (self._run(), self._tick(), self._look())]

    async def _run(self) -> None:
        with suppress(ProcessEndedError):
            await enter_kafka_mode(self._store)
            while True:
                await self._read_some()
                with suppress(asyncio.QueueEmpty):
                    numbers, generation = self.assigned.get_nowait()
                    while not self.assigned.empty():
                        numbers, generation = self.assigned.get_nowait()
                    await self.shards.revoke([number for number in self.shards.owned if number not in numbers])
                    for number, offset in (await self.shards.claim(numbers, generation)).items():
                        self._at[number] = offset
                    for number in self._at.keys() - set(numbers):
                        del self._at[number]

    async def _read_some(self) -> None:
        world, chance = self._world, self._world.chance
        await self.process.pause(0.6)
        if world.log.is_away:
            return
        for number in list(self._at):
            messages = world.log.partitions[number]
            if chance.random() < 0.02:
                self._at[number] = max(0, min(len(messages), self._at[number] + chance.randint(-2, 3)))
            while number in self._at and self._at[number] < len(messages):
                offset = self._at[number]
                self._at[number] = offset + 1
                await self.shards.take(number, offset, messages[offset])
            for place, (key, value) in enumerate(world.read_grants(number)):
                if number in self._grants_at and place > self._grants_at[number]:
                    self._grants_at[number] = place
                    await self.shards.take_grants(number, place, key, value)

    async def _tick(self) -> None:
        with suppress(ProcessEndedError):
            while True:
                await self.process.pause(0.8)
                await self.shards.tick()

    async def seek(self, shard: int, offset: int) -> None:
        await self.process.pause()
        if shard in self.shards.owned:
            self._at[shard] = offset

    async def find_bounds(self, shards: Iterable[int]) -> dict[int, tuple[int, int]]:
        await self.process.pause()
        if self._world.log.is_away:
            raise BrokerError("the broker is away")
        return {number: (0, len(self._world.log.partitions[number])) for number in shards}

    async def publish(self, shard: int, messages: Iterable[tuple[bytes, bytes | None]]) -> tuple[int, int]:
        await self.process.pause()
        if self._world.log.is_away:
            raise BrokerError("the broker is away")
        # What was sent may arrive though nobody waits for it any more, behind what another ledger tells.
        writing = asyncio.ensure_future(self._write_changes(shard, list(messages)))
        self._writing.add(writing)
        writing.add_done_callback(self._end_writing)
        return await asyncio.shield(writing)

    def _end_writing(self, writing: "asyncio.Future[tuple[int, int]]") -> None:
        self._writing.discard(writing)
        with suppress(asyncio.CancelledError):
            writing.exception()  # A process that ended: nobody waits for it.

    async def _write_changes(self, shard: int, messages: list[tuple[bytes, bytes | None]]) -> tuple[int, int]:
        log = self._world.log
        async with self._orders.setdefault(shard, asyncio.Lock()):
            await self.process.pause(12.0 if self._world.chance.random() < LATE_WRITES else 0.02)
        log.changes.update(messages)
        log.told_ends[shard] += len(messages)
        return log.told_ends[shard] - len(messages), log.told_ends[shard]

    async def find_told_ends(self, shards: Iterable[int]) -> dict[int, int]:
        await self.process.pause()
        if self._world.log.is_away:
            raise BrokerError("the broker is away")
        return {number: self._world.log.told_ends[number] for number in shards}

    async def _look(self) -> None:
        with suppress(ProcessEndedError):
            while True:
                await self.process.pause(3.0)
                await self.shards.look_at_told()

    async def alert(self, messages: Iterable[tuple[bytes, bytes | None]]) -> None:
        await self.process.pause()
        if self._world.log.is_away:
            raise BrokerError("the broker is away")
        self._world.log.alerts.update(messages)

    async def follow_grants(self, offsets: Mapping[int, int]) -> None:
        self._grants_at = dict(offsets)

    async def stop(self) -> None:
        await self.shards.stop()
        await self.kill()

    async def kill(self) -> None:
        await _kill(self.process, self._tasks)


def run_seed(seed: int, fault: str | None = None) -> str | None:
    """What differs after a run of a seed, with a fault planted or none; None where all is as it should be."""
    folder = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    loop = VirtualLoop()
    random.seed(seed)  # of waits
    try:
        with FAULTS[fault]() if fault else nullcontext(), virtual_time() as time:
            loop.run_until_complete(Simulation(seed, folder, time).run())
    except (SimulationFailure, StoreError) as failure:
        return str(failure)
    except Exception:
        return traceback.format_exc()
    finally:
        with suppress(RuntimeError):
            loop.run_until_complete(end_tasks(*asyncio.all_tasks(loop), seconds=60))
        loop.close()
        shutil.rmtree(folder, ignore_errors=True)
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--fault", choices=sorted(FAULTS))
    parser.add_argument("--stop", action="store_true", help="end at the first seed that fails")
    options = parser.parse_args()
    failures = 0
    for seed in range(options.first, options.first + options.seeds):
        found = run_seed(seed, options.fault)
        if found is not None:
            failures += 1
            print(f"seed {seed}: {found}", flush=True)
            if options.stop:
                break
    print(f"{options.seeds} seeds, {failures} failed")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
