"""A fleet under fire: intakes and ledgers as processes of their own on a real Kafka and a real Redis, and what befalls them.

    python tests/fleet.py --records 1000000 [--seed N] [--seconds 240]

feeds a generated corpus (and half a percent of duplicates beside its own) into a folder that two intakes follow; three ledgers
count. Each of the five is killed -9 twice and frozen for 20 s once, Redis and the broker are killed once, and Redis is set back by
a second once. In the end all must be as `gapwatch replay` of the same files says, and topic `gap-changes` must build the gaps
that Redis holds. The seed is printed; it decides what happens when. Exits with 0 where all is equal.
"""

import argparse
import asyncio
import gzip
import json
import os
import random
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Self

from brokers import ApacheKafka, find_ports, start_guard
from redis_server import RedisServer

ROOT = Path(__file__).parent.parent
SETTLE_SECONDS_MAX = 420.0
FROZEN_SECONDS = 20.0
BEFALLING_MAX = 32
TOLD = ("gapwatch_as_of", "gapwatch_lag", "gapwatch_log_lag", "gapwatch_shards", "gapwatch_store_waiting")
CONFIG = "[run]\nhorizon_hours = 9600\npoll_seconds = 0.2\n"


class FleetFailure(Exception):
    """The fleet did not end where it should; the text says what differs."""


class Member:
    """An intake or a ledger: a process that is started again when it ends."""

    def __init__(self, name: str, folder: Path, *args: object, environment: dict[str, str] | None = None) -> None:
        self.name = name
        self._environment = environment or {}
        (self.port,) = find_ports(1)
        self._log = folder / f"{name}.log"
        self._args = [*map(str, args), "--port", str(self.port)]
        self._stopping = False
        self._lock = threading.Lock()
        self._process = self._start()
        self._supervisor = threading.Thread(target=self._supervise, daemon=True)
        self._supervisor.start()
        self.starts = 1

    def _start(self) -> subprocess.Popen[bytes]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GAPWATCH_")}
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "processor", *self._args],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                env={**environment, **self._environment, "PYTHONPATH": str(ROOT)},
            )  # fmt: skip
        self._guard = start_guard(process.pid)
        return process

    def _supervise(self) -> None:
        while not self._stopping:
            self._process.wait()
            with self._lock:
                if self._stopping:
                    return
                time.sleep(0.5)
                self._guard.kill()
                self._guard.communicate()
                self._process = self._start()
                self.starts += 1

    def kill(self) -> None:
        """End it as a crash does; it comes back."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def end(self, how: signal.Signals) -> None:
        """End it for good."""
        with self._lock:
            self._stopping = True
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, how)

    @property
    def pid(self) -> int:
        return self._process.pid

    def freeze(self, seconds: float) -> None:
        """Stop it where it stands, and let it go on."""
        frozen = self._process.pid
        with suppress(ProcessLookupError):
            os.killpg(frozen, signal.SIGSTOP)
            time.sleep(seconds)
            os.killpg(frozen, signal.SIGCONT)

    def stop(self) -> int:
        """End it in order; its exit code."""
        self.end(signal.SIGTERM)
        try:
            return self._process.wait(30)
        except subprocess.TimeoutExpired:
            self.kill()
            return -9
        finally:
            if self._guard.poll() is None:
                self._guard.kill()
                self._guard.communicate()

    def read_metrics(self) -> dict[str, float]:
        """The plain metrics that it serves; none where it does not answer."""
        try:
            lines = self._scrape().splitlines()
        except OSError:
            return {}
        pairs = [line.rsplit(" ", 1) for line in lines if line and not line.startswith("#") and "{" not in line]
        return {name: float(value) for name, value in pairs}

    def _scrape(self) -> str:
        """What Prometheus would get: compressed, as it is kept."""
        asked = urllib.request.Request(f"http://127.0.0.1:{self.port}/metrics", headers={"Accept-Encoding": "gzip"})
        with urllib.request.urlopen(asked, timeout=5) as answer:  # noqa: S310 - of a process of our own
            raw: bytes = answer.read()
            return (gzip.decompress(raw) if answer.headers["Content-Encoding"] == "gzip" else raw).decode()

    def read_labelled(self, name: str, label: str) -> float:
        """The value of one metric with one label, 0 where there is none."""
        try:
            text = self._scrape()
        except OSError:
            return 0.0
        found = re.search(rf'^{name}{{[a-z]+="{label}"}} ([0-9.e+]+)$', text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def read_log(self) -> str:
        return self._log.read_text(errors="replace")


@dataclass(frozen=True, slots=True)
class Event:
    """Something that befalls the fleet, so many seconds after its start."""

    at: float
    what: str
    do: Callable[[], None]


class Fleet:
    """Kafka, Redis, intakes and ledgers in a folder of their own; `source` is what the intakes follow."""

    def __init__(self, folder: Path, inventories: list[Path], intakes: int = 2, ledgers: int = 3) -> None:
        self.folder = folder
        self.source = folder / "source"
        self.source.mkdir(parents=True)
        self._inventories = inventories
        self._counts = intakes, ledgers
        self._added = 0
        self.members: list[Member] = []

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.kafka = stack.enter_context(ApacheKafka(self.folder / "kafka"))
            self.redis = RedisServer(self.folder / "redis").start()
            stack.callback(self.redis.kill)
            run_gapwatch("topics", "create", "--brokers", self.kafka.address, "--replication", 1)
            self._stack = stack.pop_all()
        return self

    def start(self) -> None:
        """Start all members, their duplicates' horizon longer than any corpus."""
        config = self.folder / "gapwatch.toml"
        config.write_text(CONFIG)
        for side, count in zip(("intake", "ledger"), self._counts, strict=True):
            for _ in range(count):
                self.add(side, "--config", config)

    def add(self, side: str, *more: object) -> Member:
        """Start one more intake or ledger."""
        args: list[object] = [side, "--brokers", self.kafka.address, "--redis", self.redis.url, *more]
        if side == "intake":
            args += ["--source", self.source]
            args += [part for path in self._inventories for part in ("--inventory", path)]
        self._added += 1
        member = Member(f"{side}-{self._added}", self.folder, *args)
        self.members.append(member)
        self._stack.callback(member.stop)
        return member

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    @property
    def ledgers(self) -> list[Member]:
        return [member for member in self.members if member.name.startswith("ledger")]

    @property
    def intakes(self) -> list[Member]:
        return [member for member in self.members if member.name.startswith("intake")]

    def wait_until_drained(self, seconds_max: float = SETTLE_SECONDS_MAX) -> None:
        """Wait until all that lies in the source is applied and told. Raises FleetFailure."""
        deadline = time.monotonic() + seconds_max
        since = int(time.time())
        state = "nothing answers"
        while time.monotonic() < deadline:
            ledgers = [member.read_metrics() for member in self.ledgers]
            intakes = [member.read_metrics() for member in self.intakes]
            shards = sum(each.get("gapwatch_shards", 0) for each in ledgers)
            lag = sum(each.get("gapwatch_log_lag_messages", 1e9) for each in ledgers)
            # A mark of after now, applied by every shard: all that was there now was applied before it.
            as_of = min([each.get("gapwatch_as_of_timestamp_seconds", 0) for each in [*ledgers, *intakes]])
            state = f"{shards:.0f} shards owned, {lag:.0f} messages behind, as of {since - as_of:.0f} s before"
            untold = sum(each.get("gapwatch_shards_untold", 1) for each in ledgers)
            if shards == 64 and lag == untold == 0 and as_of > since:
                return
            time.sleep(0.5)
        raise FleetFailure(f"not drained after {seconds_max:.0f} s: {state}\n{self.describe()}")

    def describe(self) -> str:
        """What each process says of itself, for who looks for the reason of a failure."""
        parts = [f"--- Redis\n{self.redis.read_log()[-500:]}", f"--- Kafka\n{self.kafka.read_last_words()[-500:]}"]
        for member in self.members:
            found = {name: value for name, value in member.read_metrics().items() if name.startswith(TOLD)}
            parts.append(
                f"--- {member.name}, {member.starts} starts: {found or 'does not answer'}\n{member.read_log()[-1_500:]}"
            )
        return "\n".join(parts)

    def stop(self) -> list[int]:
        """Stop intakes, then ledgers, in order; their exit codes."""
        return [member.stop() for member in (*self.intakes, *self.ledgers)]


def run_gapwatch(*args: object) -> bytes:
    """The output of `gapwatch ARGS`. Raises FleetFailure where it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "processor", *map(str, args)],
        capture_output=True, check=False, timeout=1_200, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    if done.returncode:
        raise FleetFailure(f"gapwatch {args[0]} ended with {done.returncode}: {done.stderr.decode()[-2_000:]}")
    return done.stdout


def plan_events(fleet: Fleet, chance: random.Random, seconds: float, *, heavy: bool) -> list[Event]:
    """What befalls the fleet while it is fed. Not `heavy`: each once, and nobody is frozen but one ledger."""

    def when() -> float:
        return chance.uniform(0.05, 0.95) * seconds

    events = [Event(when(), f"kill -9 {each.name}", each.kill) for each in fleet.members for _ in range(1 + heavy)]
    frozen = fleet.members if heavy else chance.sample(fleet.ledgers, 1)
    events += [Event(when(), f"freeze {each.name} for 20 s", partial(each.freeze, FROZEN_SECONDS)) for each in frozen]

    def restart_broker() -> None:
        fleet.kafka.kill()
        fleet.kafka.start()

    early, late = sorted((chance.uniform(0.1, 0.5) * seconds, chance.uniform(0.55, 0.95) * seconds))
    back, crash = chance.sample([early, late], 2)
    events.append(Event(back, "Redis is set back by a second", lambda: fleet.redis.set_back(1.0)))
    events.append(Event(crash, "kill -9 Redis", fleet.redis.restart))
    events.append(Event(when(), "kill -9 the broker", restart_broker))
    return sorted(events, key=lambda event: event.at)


def feed(files: list[Path], source: Path, seconds: float) -> None:
    """Let files appear in a folder, spread over some seconds, each whole at once."""
    began = time.monotonic()
    for number, path in enumerate(files):
        time.sleep(max(0.0, began + seconds * number / len(files) - time.monotonic()))
        target = source / f"{number:05d}-{path.name}"
        with suppress(FileExistsError):
            os.link(path, target)


def write_duplicates(files: list[Path], folder: Path, share: float, chance: random.Random) -> list[Path]:
    """Files of lines with records that are in the given ones, too: a share of them all."""
    chosen = chance.sample(files, max(1, round(len(files) * share)))
    written = []
    for number, path in enumerate(chosen):
        target = folder / f"again-{number}.ndjson"
        records = json.loads(gzip.decompress(path.read_bytes()))["Records"]
        target.write_bytes(b"".join(json.dumps(record).encode() + b"\n" for record in records))
        written.append(target)
    return written


async def read_gap_changes(address: str) -> dict[bytes, Any]:
    """Topic `gap-changes` from its start, as the newest message of each key."""
    from aiokafka import AIOKafkaConsumer, TopicPartition

    from topics import gap_changes

    consumer = AIOKafkaConsumer(bootstrap_servers=address, enable_auto_commit=False, auto_offset_reset="earliest")
    await consumer.start()
    found: dict[bytes, Any] = {}
    try:
        partitions = [TopicPartition("gapwatch.gap-changes", number) for number in range(64)]
        ends = await consumer.end_offsets(partitions)
        consumer.assign(partitions)
        while any([await consumer.position(each) < ends[each] for each in partitions]):
            for messages in (await consumer.getmany(timeout_ms=1_000)).values():
                for message in messages:
                    if message.value is None:
                        found.pop(message.key, None)
                    else:
                        found[message.key] = gap_changes.CODEC.decode(message.value)
    finally:
        await consumer.stop()
    return found


def find_differences(expected: Any, found: Any) -> Iterator[str]:
    """How a report differs from the one that it should equal, in words."""
    for part in ("records", "rejected", "unmapped"):
        if expected[part] != found[part]:
            yield f"{part}: {expected[part]} != {found[part]}"
    by_key = [{(each["arn"], each["unique_id"]): each for each in report["principals"]} for report in (expected, found)]
    for key in sorted(by_key[0].keys() ^ by_key[1].keys(), key=str)[:5]:
        yield f"{key} is in one of them only"
    for key in sorted(by_key[0].keys() & by_key[1].keys(), key=str):
        one, other = by_key[0][key], by_key[1][key]
        if one != other:
            parts = [name for name in one if one[name] != other.get(name)]
            names = [
                name
                for part in parts
                if isinstance(one[part], dict)
                for name in one[part]
                if one[part][name] != other[part].get(name)
            ]
            yield f"{key}: {parts} {[(name, one['usage'].get(name), other['usage'].get(name)) for name in names[:3]]}"


def find_gap_differences(report: Any, changes: dict[bytes, Any]) -> Iterator[str]:
    """Where the gaps of `gap-changes` are others than those of a report with all actions."""
    from processor.core.catalogue import stable_hash
    from topics.contract import principal_key
    from topics.gap_changes import unpack_hashes

    keys = set()
    for each in report["principals"]:
        for window in each["windows"] or ():
            key = principal_key(each["arn"], each["unique_id"]) + window.encode()
            keys.add(key)
            unused = {
                stable_hash(name) for name, grant in each["grants"].items() if grant["verdict"][window] == "unused"
            }
            told = changes.get(key)
            if told is None:
                yield f"{each['arn']} {window} was never told"
            elif unpack_hashes(told.unused) != unused:
                yield f"{each['arn']} {window}: {len(unused)} unused, {told.counts.unused} told"
    for key in changes.keys() - keys:
        yield f"{key!r} was told, and is in no report"


@contextmanager
def make_corpus(records: int, folder: Path | None) -> Iterator[Path]:
    """A corpus of that many records, in a folder that is gone afterwards, unless it was given."""
    if folder is not None:
        yield folder
        return
    with tempfile.TemporaryDirectory() as made:
        target = Path(made) / "corpus"
        size = ["--principals", str(max(50, min(2_000, records // 200)))]
        subprocess.run(
            [sys.executable, "-m", "tests.bench.corpus", "--records", str(records), "--out", str(target), *size],
            check=True, cwd=ROOT, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        yield target


def run_under_fire(corpus: Path, seed: int, seconds: float, *, heavy: bool, say: Callable[[str], None]) -> None:
    """The whole of it. Raises FleetFailure with what differs."""
    chance = random.Random(seed)
    inventories = sorted(corpus.glob("inventory-*.json"))
    files = sorted((corpus / "AWSLogs").rglob("*.json.gz"), key=lambda path: path.name)
    with tempfile.TemporaryDirectory(dir=corpus.parent) as made:
        folder = Path(made)
        again = write_duplicates(files, folder, 0.005, chance)
        given = [*files]
        for path in again:
            given.insert(chance.randrange(len(given)), path)
        with Fleet(folder / "fleet", inventories) as fleet:
            fleet.start()
            began = time.monotonic()
            with ThreadPoolExecutor(BEFALLING_MAX) as befalling:
                done = [befalling.submit(feed, given, fleet.source, seconds)]
                for event in plan_events(fleet, chance, seconds, heavy=heavy):
                    time.sleep(max(0.0, began + event.at - time.monotonic()))
                    say(f"{time.monotonic() - began:6.1f} s  {event.what}")
                    done.append(befalling.submit(event.do))
                for each in done:
                    each.result()
            fleet.wait_until_drained()
            say(f"{time.monotonic() - began:6.1f} s  all is applied")
            as_of = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            changes = asyncio.run(read_gap_changes(fleet.kafka.address))
            codes = fleet.stop()
            if any(codes):
                raise FleetFailure(f"the members ended with {codes}\n{fleet.members[0].read_log()[-2_000:]}")
            report = ("report", "--redis", fleet.redis.url, "--as-of", as_of, "--format", "json", "--actions")
            found = json.loads(run_gapwatch(*report))
            inventory = [part for path in inventories for part in ("--inventory", path)]
            expected = json.loads(
                run_gapwatch("replay", *inventory, "--as-of", as_of, "--format", "json", "--actions", fleet.source)
            )
            say(f"records {found['records']}")
            say(f"{len(changes)} gaps told; starts: " + ", ".join(f"{m.name} {m.starts}" for m in fleet.members))
            differences = [*find_differences(expected, found), *find_gap_differences(found, changes)]
            if differences:
                raise FleetFailure(f"{len(differences)} differences:\n" + "\n".join(differences[:20]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--corpus", type=Path, help="a corpus that tests.bench.corpus wrote")
    parser.add_argument("--seconds", type=float, default=240.0, help="how long the fleet is fed")
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    parser.add_argument("--light", action="store_true", help="each kill once, and one freeze")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    print(f"seed {options.seed}", flush=True)
    with make_corpus(options.records, options.corpus) as corpus:
        try:
            run_under_fire(
                corpus, options.seed, options.seconds, heavy=not options.light, say=lambda text: print(text, flush=True)
            )
        except FleetFailure as failure:
            sys.exit(f"seed {options.seed}: {failure}")
    print("all is as `gapwatch replay` says")


if __name__ == "__main__":
    main()
