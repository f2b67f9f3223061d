"""gapwatch's side of the benchmark: one hop a process, its figures as one line of JSON.

python -m tests.bench.hops HOP CORPUS
"""

import asyncio
import resource
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import deflate
import msgspec

from processor.batch import ReplayOrder, collect_seldom, finish, read_inventories
from processor.core.catalogue import mask_of_ids
from processor.core.gap import Granted, Logging, judge, observable_mask
from processor.core.horizon import Horizon
from processor.opening import Opened, Place, load_loops, load_opened, open_store
from processor.replay import Replay
from processor.settings import Settings
from processor.shell.files import find_sources
from processor.shell.redis import Store
from processor.shell.shelf import FileShelf
from processor.shell.tables import load_catalogue
from tests.bench.measure import read_memory

PAYLOADS = 2_000
BATCHES = 8
"""As many events, and batches of some 250 records, as a backlog's answer to GetRecords holds. They are flushed when all are
read, as so many records of S3 are: it is the framings that are compared."""

UNZIPS = 4


def quiet(text: str) -> None:
    """Nobody reads warnings here."""


def order_of(corpus: Path, accounts: Container[str] | None = None) -> ReplayOrder:
    found = sorted(corpus.glob("inventory-*.json"))
    inventories = tuple(str(path) for path in found if accounts is None or path.stem.partition("-")[2] in accounts)
    return ReplayOrder((str(corpus / "AWSLogs"),), inventories, (), Settings(), None, None)


async def server_seconds(store: Store) -> float:
    """CPU that the Redis server has used, in microseconds' precision."""
    found = await store.client.info("cpu")
    return float(found["used_cpu_user"]) + float(found["used_cpu_sys"])


async def measure(
    corpus: Path,
    work: Callable[[Opened, ReplayOrder], Any],
    accounts: Container[str] | None = None,
    held: Iterable[bytes] = (),
) -> dict[str, Any]:
    """Run `work` on a fresh store with the inventory (of `accounts`, of all) known, up to the gap in Redis; count its CPU and the
    server's. What is `held` in memory is there when it begins: a system may put away what was not touched for a second."""
    order = order_of(corpus, accounts)
    fresh = read_inventories(order.inventories, (), quiet)
    async with open_store(Place(), quiet) as store:
        await store.claim(exclusive=True)
        opened = await load_opened(store, order.settings, Horizon(shelf=FileShelf()), fresh=fresh)
        load_loops(quiet)
        with collect_seldom():
            sum(each[0] for each in held)
            begun, server = time.process_time(), await server_seconds(store)
            clock = time.perf_counter()
            await work(opened, order)
            await finish(opened, order, fresh, opened.pipeline.tally.newest)
            count_gaps(opened, order)
            cpu = time.process_time() - begun + await server_seconds(store) - server
        wall = time.perf_counter() - clock
        return {"records": opened.pipeline.tally.read, "cpu_seconds": cpu, "wall_seconds": wall}


def count_gaps(opened: Opened, order: ReplayOrder) -> int:
    """The gap of every principal in every window."""
    fleet = opened.build_fleet(order.settings, None)
    as_of = opened.pipeline.tally.newest
    return sum(
        verdicts.unused.bit_count()
        for member in fleet.members()
        if member.granted is not None
        for verdicts in fleet.verdicts_of(member, fleet.gap_of(member, as_of), as_of)
    )


async def run_s3(corpus: Path, part: slice = slice(None), accounts: Container[str] | None = None) -> dict[str, Any]:
    async def work(opened: Opened, order: ReplayOrder) -> None:
        sources, _ = find_sources(order.paths)
        chosen = [source for source in sources if accounts is None or account_of(source.path) in accounts]
        await Replay(opened, quiet).read(chosen[part])

    return await measure(corpus, work, accounts)


def account_of(path: str) -> str:
    """The account of a log file: .../AWSLogs/ACCOUNT/CloudTrail/..."""
    return path.partition("/AWSLogs/")[2].partition("/")[0]


def take_half(corpus: Path, half: int) -> list[str]:
    """Accounts with half of the log's bytes. Stores share no principal, or neither would have all of its uses."""
    sizes = {
        folder.name: sum(file.stat().st_size for file in folder.rglob("*.gz"))
        for folder in (corpus / "AWSLogs").iterdir()
    }
    halves: tuple[list[str], list[str]] = ([], [])
    for account in sorted(sizes, key=sizes.__getitem__, reverse=True):
        min(halves, key=lambda taken: sum(map(sizes.__getitem__, taken))).append(account)
    return halves[half]


def count_framed_files(corpus: Path) -> int:
    """How many log files hold about as many records as the framings: what is met for the first time costs the same."""
    manifest = msgspec.json.decode((corpus / "manifest.json").read_bytes())
    return int(manifest["files"] * manifest["framed_records"] / manifest["records"])


async def run_eventbridge(corpus: Path) -> dict[str, Any]:
    payloads = list(read_payloads((corpus / "eventbridge.lp").read_bytes()))

    async def work(opened: Opened, order: ReplayOrder) -> None:
        for at in range(0, len(payloads), PAYLOADS):
            opened.pipeline.feed_payloads(payloads[at : at + PAYLOADS])

    return await measure(corpus, work, held=payloads)


def read_payloads(framed: bytes) -> Iterator[bytes]:
    """The EventBridge events of a file of length-prefixed ones."""
    at = 0
    while at < len(framed):
        (size,) = struct.unpack_from("<I", framed, at)
        yield framed[at + 4 : at + 4 + size]
        at += 4 + size


async def run_log_batches(corpus: Path) -> dict[str, Any]:
    framed = (corpus / "cwl.lp").read_bytes()
    batches: list[bytes] = []
    at = 0
    while at < len(framed):
        _, size = struct.unpack_from("<II", framed, at)
        batches.append(framed[at + 8 : at + 8 + size])
        at += 8 + size

    async def work(opened: Opened, order: ReplayOrder) -> None:
        for at in range(0, len(batches), BATCHES):
            opened.pipeline.feed_log_batches([deflate.gzip_decompress(batch) for batch in batches[at : at + BATCHES]])

    return await measure(corpus, work)


def run_replay(corpus: Path) -> dict[str, Any]:
    """The whole command as a process, its Redis included."""
    order = order_of(corpus)
    named = [part for path in order.inventories for part in ("--inventory", path)]
    command = [sys.executable, "-m", "processor", "replay", "--format", "json", *named, *order.paths]
    begun = time.perf_counter()
    found = subprocess.run(command, capture_output=True, check=True)
    wall = time.perf_counter() - begun
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    records = msgspec.json.decode(found.stdout)["records"]["read"]
    return {
        "records": records,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "wall_seconds": wall,
        "peak_rss": used.ru_maxrss * 1024,
    }


async def run_tenths(corpus: Path) -> dict[str, Any]:
    rates: list[float] = []
    memory: list[int] = []

    async def work(opened: Opened, order: ReplayOrder) -> None:
        sources, _ = find_sources(order.paths)
        replay = Replay(opened, quiet)
        for at in range(10):
            part = sources[len(sources) * at // 10 : len(sources) * (at + 1) // 10]
            before, begun = opened.pipeline.tally.read, time.process_time()
            await replay.read(part)
            rates.append((opened.pipeline.tally.read - before) / (time.process_time() - begun))
            memory.append(read_memory().anonymous_bytes)

    return await measure(corpus, work) | {"rates": rates, "memory": memory}


def run_unzip(corpus: Path, part: slice = slice(None)) -> dict[str, Any]:
    """Only unzip files, over and over: what shares nothing with another process but the machine."""
    zipped = [path.read_bytes() for path in sorted((corpus / "AWSLogs").rglob("*.json.gz"))[part]]
    begun = time.perf_counter()
    for _ in range(UNZIPS):
        for each in zipped:
            deflate.gzip_decompress(each)
    return {"records": len(zipped), "wall_seconds": time.perf_counter() - begun}


def run_two(corpus: Path, hops: Sequence[str]) -> dict[str, Any]:
    """Two processes at once, each on its half, with a store of its own."""
    halves = [
        subprocess.Popen([sys.executable, "-m", "tests.bench.hops", half, str(corpus)], stdout=subprocess.PIPE)
        for half in hops
    ]
    found = [msgspec.json.decode(half.communicate()[0]) for half in halves]
    return {
        "records": sum(each["records"] for each in found),
        "wall_seconds": max(each["wall_seconds"] for each in found),
    }


async def run_store(corpus: Path) -> dict[str, Any]:
    """Bytes a pair, the time to load 10,000 principals, and one gap over all actions."""
    order = order_of(corpus)
    figures: dict[str, Any] = {}
    async with open_store(Place(), quiet) as store:
        await store.claim(exclusive=True)
        opened = await load_opened(store, order.settings, Horizon())
        await Replay(opened, quiet).read(find_sources(order.paths)[0])
        pairs = sum(len(usage.cells) for usage in opened.ledger.principals.values())
        sizes = await weigh_keys(store)
        figures["pairs"] = float(pairs)
        figures["bytes a pair: cells and principals"] = (sizes["u"] + sizes["p"]) / pairs
        figures["bytes a pair: day buckets of 30 days"] = sizes["d"] / pairs
        figures["bytes a pair: operators, regions, resources"] = sizes["f"] / pairs
        figures["bytes a use: duplicates' horizon"] = sizes["seen"] / opened.pipeline.tally.classes["use"]
    figures |= await measure_restart(order)
    figures["one gap over all actions, us"] = measure_gap()
    return figures


async def weigh_keys(store: Store) -> dict[str, int]:
    """What Redis says that the keys of each kind take, key and all."""
    sizes: dict[str, int] = {}
    keys = [key async for key in store.client.scan_iter(count=10_000)]
    for at in range(0, len(keys), 5_000):
        part = keys[at : at + 5_000]
        for key, size in zip(
            part, await store.read_many([("MEMORY", "USAGE", key, "SAMPLES", "0") for key in part]), strict=True
        ):
            kind = key.split(b":")[2 if b"{" in key else 1].decode()
            sizes[kind] = sizes.get(kind, 0) + size
    return sizes


async def measure_restart(order: ReplayOrder) -> dict[str, Any]:
    """Fill a store with 10,000 principals by copies of the corpus' under other account ids, then load it."""
    from processor.core.principals import Principal

    with tempfile.TemporaryDirectory() as folder:
        place = Place(folder=Path(folder, "store"))
        async with open_store(place, quiet) as store:
            await store.claim(exclusive=True)
            fresh = read_inventories(order.inventories, (), quiet)
            opened = await load_opened(store, order.settings, Horizon(), fresh=fresh)
            await Replay(opened, quiet).read(find_sources(order.paths)[0][:400])
            await finish(opened, order, fresh, opened.pipeline.tally.newest)
            for copy in range(1, 5):
                for usage in list(opened.ledger.principals.values())[:2_000]:
                    arn = usage.principal.arn.replace("::", f"::{copy}", 1)
                    account = f"{copy}{usage.principal.account_id}"
                    copied = opened.ledger.open_usage(Principal(arn, usage.principal.unique_id, account, "role"))
                    copied.cells = dict(usage.cells)
                    copied.dirty = list(usage.cells)
            await opened.state.flush()
        begun = time.perf_counter()
        async with open_store(place, quiet) as store:
            await store.claim(exclusive=True)
            opened = await load_opened(store, order.settings, Horizon())
            count_gaps(opened, order)
            ready = time.perf_counter() - begun
        principals = len(opened.ledger.principals)
    return {"principals of the restart": float(principals), "restart to ready, seconds": ready}


def measure_gap() -> float:
    """Microseconds of one window's verdicts over an administrator's grants."""
    catalogue = load_catalogue()
    granted = Granted(catalogue.all_mask, 0, 1, ())
    observable = observable_mask(catalogue, Logging(), 0)
    used = mask_of_ids(range(0, catalogue.size, 97))
    times = []
    for _ in range(2_000):
        begun = time.perf_counter_ns()
        judge(granted, used, observable, 1, 2**31, 86_400)
        times.append(time.perf_counter_ns() - begun)
    return sorted(times)[len(times) // 2] / 1_000


RUNS: dict[str, Callable[[Path], Any]] = {
    "s3": run_s3,
    "one": run_s3,
    "s3-framed": lambda corpus: run_s3(corpus, slice(0, count_framed_files(corpus))),
    "first-half": lambda corpus: run_s3(corpus, accounts=take_half(corpus, 0)),
    "second-half": lambda corpus: run_s3(corpus, accounts=take_half(corpus, 1)),
    "eventbridge": run_eventbridge,
    "cloudwatch-logs": run_log_batches,
    "replay": run_replay,
    "tenths": run_tenths,
    "two": lambda corpus: run_two(corpus, ("first-half", "second-half")),
    "unzip": run_unzip,
    "unzip-even": lambda corpus: run_unzip(corpus, slice(0, None, 2)),
    "unzip-odd": lambda corpus: run_unzip(corpus, slice(1, None, 2)),
    "unzip-two": lambda corpus: run_two(corpus, ("unzip-even", "unzip-odd")),
    "store": run_store,
}


def main(arguments: Sequence[str]) -> None:
    hop, corpus = arguments
    found = RUNS[hop](Path(corpus))
    if asyncio.iscoroutine(found):
        found = asyncio.run(found)
    sys.stdout.write(msgspec.json.encode(found).decode() + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
