"""The page over 10,000 principals and three windows: how long its answers take, and for how long each holds up the event loop.

python -m tests.bench.page [--principals N] [--rounds N]

One process serves, asks and watches: a task that sleeps 1 ms at a time sees for how long nothing else could run, by the
clock and in CPU time of the loop's thread (on a busy machine the clock also has what others took). Clients share that loop,
so the figures are above what a client elsewhere sees.
"""

import argparse
import asyncio
import gc
import json
import random
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp

from processor.core.board import Board
from processor.core.catalogue import mask_of_ids
from processor.core.fleet import Coverage, Fleet
from processor.core.gap import Window
from processor.core.horizon import Horizon
from processor.core.inventory import Granting, Grants, InventoryPrincipal
from processor.core.principals import Principal
from processor.core.sessions import Scope, key_of
from processor.core.tracker import Tracker
from processor.core.usage import Cell
from processor.opening import Opened, Place, load_loops, load_opened, open_store
from processor.page.reading import Look, Reader
from processor.page.site import open_pages
from processor.settings import Settings
from processor.shell.gap_text import GapText
from processor.shell.http import Server
from processor.shell.metrics import Health, PipelineCollector, make_registry, render_pipeline
from tests.bench.measure import print_table, summarise

NOW = 1_790_000_000
DAY = 86_400
GRANTS = (20, 60, 200, 22_000)
"""Grants of a principal; one in a hundred is an administrator."""


def quiet(text: str) -> None:
    """Nobody reads warnings here."""


@dataclass
class Lag:
    """For how long the loop was held up, at most, since `start`."""

    worst: float = 0.0
    worst_cpu: float = 0.0

    def start(self) -> None:
        self.worst = self.worst_cpu = 0.0

    def show(self) -> str:
        return f"{self.worst * 1e3:.1f} / {self.worst_cpu * 1e3:.1f}"

    async def watch(self) -> None:
        while True:
            begun, cpu = time.perf_counter(), time.thread_time()
            await asyncio.sleep(0.001)
            self.worst = max(self.worst, time.perf_counter() - begun - 0.001)
            self.worst_cpu = max(self.worst_cpu, time.thread_time() - cpu)


def fill(opened: Opened, count: int) -> None:
    """Made-up principals with grants and uses, straight in memory: nothing of that is measured."""
    rng = random.Random(7)
    size = opened.catalogue.size
    for number in range(count):
        account = f"{100_000_000_000 + number % 40}"
        principal = Principal(
            f"arn:aws:iam::{account}:role/team-{number % 97}/role-{number:05}", f"AROA{number:017}", account, "role"
        )
        wide = GRANTS[3] if number % 100 == 0 else GRANTS[number % 3]
        granted = mask_of_ids(rng.sample(range(size), min(wide, size)))
        grants = Grants(granted, 0, (), (Granting("all", None, None, "1", granted, False, ("*",)),), ())
        opened.inventory[key_of(principal)] = InventoryPrincipal(
            principal.arn, principal.unique_id or "", account, "role", f"role-{number:05}", 1, grants, {}, None, False
        )
        usage = opened.ledger.open_usage(principal)
        for action in rng.sample(range(size), 12):
            cell = usage.cells[action] = Cell(action)
            cell.count, cell.first = 3, NOW - 200 * DAY
            cell.last = cell.last_success = NOW - rng.randrange(100 * DAY)
        opened.pipeline.tally.log_of(account, NOW - 400 * DAY)
    opened.ledger.dirty.clear()


async def measure(work: Callable[[], Awaitable[int]], rounds: int, lag: Lag) -> tuple[str, str, str]:
    """Milliseconds, how long the loop was held up at most, and bytes."""
    size = await work()
    lag.start()
    taken = []
    for _ in range(rounds):
        begun = time.perf_counter()
        size = await work()
        taken.append((time.perf_counter() - begun) * 1e3)
    return summarise(taken).show(1), lag.show(), f"{size:,}"


async def run(count: int, rounds: int) -> dict[str, tuple[str, str, str]]:
    """All figures by name."""
    load_loops(quiet)
    async with open_store(Place(), quiet) as store:
        await store.claim(exclusive=True)
        opened = await load_opened(store, Settings(), Horizon())
        fill(opened, count)
        coverage = Coverage(opened.pipeline.tally.accounts)
        windows = [Window(days) for days in (7, 30, 90)]
        fleet = Fleet(opened.catalogue, windows, opened.ledger.principals, opened.inventory, coverage, {}, Scope())
        tracker = Tracker(fleet, [], NOW)
        board = Board(window.label for window in windows)
        text = GapText(tracker, note=board.note)
        lag = Lag()
        watching = asyncio.create_task(lag.watch())
        found = {}

        async def refresh() -> int:
            tracker.changed.update(list(opened.inventory))
            for _ in text.refresh():
                await asyncio.sleep(0)
            return count

        found["all counts anew (start, or a new inventory)"] = await measure(refresh, 1, lag)
        gc.collect()
        gc.freeze()  # As a run does once it is loaded.
        health = Health(ready=True, as_of=NOW)
        registry, _ = make_registry(PipelineCollector(lambda: opened.pipeline.tally, health, lambda: NOW, "bench"))
        reader = Reader(lambda: Look(tracker, opened, board), health, lambda: float(NOW))
        server = Server(
            lambda: [render_pipeline(registry), *text.members()], lambda: None, open_pages(Settings(), reader, {}, {})
        )
        await server.start("127.0.0.1", 0)
        try:
            found |= await ask_all(server.url, opened, rounds, lag)
        finally:
            await server.stop()
            watching.cancel()
        return found


async def ask_all(url: str, opened: Opened, rounds: int, lag: Lag) -> dict[str, tuple[str, str, str]]:
    """The figures of each kind of request, one at a time and eight at once."""
    admin = next(key for key, found in opened.inventory.items() if found.grants.granted.bit_count() > 20_000)
    plain = next(key for key, found in opened.inventory.items() if found.grants.granted.bit_count() < 100)
    paths = {
        "the fleet by gap, first page": "/",
        "the same as JSON": "/api/principals",
        "the fleet by name, page 150": "/?sort=name&page=150",
        "the fleet, searched": "/?q=role-00123",
        "an administrator's page": f"/principals/{admin:016x}",
        "an administrator's page, all actions": f"/principals/{admin:016x}?show=all&size=200",
        "an administrator's policy": f"/api/principals/{admin:016x}/policy",
        "a plain role's page": f"/principals/{plain:016x}",
        "/metrics, gzip": "/metrics",
    }
    found = {}
    async with aiohttp.ClientSession(url, auto_decompress=False) as client:

        async def ask(path: str) -> int:
            async with client.get(path, headers={"Accept-Encoding": "gzip"}) as answer:
                body = await answer.read()
                if answer.status != 200:
                    sys.exit(f"{path} answers {answer.status}")
                return len(body)

        for name, path in paths.items():
            found[name] = await measure(lambda path=path: ask(path), rounds, lag)  # type: ignore[misc]  # mypy infers no type for it

        async def ask_many() -> int:
            return sum(await asyncio.gather(*(ask(path) for path in list(paths.values())[:8])))

        found["eight of these at once"] = await measure(ask_many, rounds, lag)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--principals", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found: dict[str, Any] = asyncio.run(run(options.principals, options.rounds))
    if options.json:
        print(json.dumps(found))
        return
    headings = ("answer", "ms, median [lowest .. highest]", "loop held up at most, ms: clock / CPU", "bytes")
    print_table(f"The page, {options.principals:,} principals", headings, [(name, *row) for name, row in found.items()])


if __name__ == "__main__":
    main()
