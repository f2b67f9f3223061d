"""What a scrape costs: 10,000 principals in three windows, through the real server; and for how long the loop stands still.

python -m tests.bench.scrape [--principals N]
"""

import argparse
import asyncio
import itertools
import random
import time
from collections.abc import Callable
from typing import Any

import aiohttp

from processor.core.exemptions import Exemptions
from processor.core.fleet import Coverage, Fleet
from processor.core.gap import Window
from processor.core.inventory import Granting, Grants, InventoryPrincipal
from processor.core.principals import Principal
from processor.core.sessions import Scope, key_of, shard_of
from processor.core.tracker import Tracker
from processor.core.usage import Cell, PrincipalUsage
from processor.core.watch import Watch, Watching
from processor.shell.gap_text import GapText
from processor.shell.http import Server
from processor.shell.tables import load_catalogue
from processor.shell.watch_text import WatchText
from tests.bench.measure import print_table

PRINCIPALS = 10_000
ACCOUNTS = 50
SCRAPES = 20
NOW = 20_000 * 86_400
WATCHING = Watching(Exemptions(break_glass=("*:role/break-glass-*",)))


def build_fleet(size: int) -> tuple[Fleet, list[PrincipalUsage]]:
    """Principals with some 100 to 2,000 grants each, every hundredth an administrator; half of what is used is privileged."""
    rng = random.Random(7)
    catalogue = load_catalogue()
    inventory, usages = {}, {}
    for number in range(size):
        account = f"{100000000000 + number % ACCOUNTS}"
        name = "break-glass" if number % 500 == 0 else "service"
        arn = f"arn:aws:iam::{account}:role/team-{number % 97}/{name}-{number:05d}"
        principal = Principal(arn, f"AROA{number:017d}", account, "role")
        granted = catalogue.all_mask
        if number % 100:
            granted = 0
            for _ in range(rng.randrange(2, 12)):
                granted |= rng.choice(list(catalogue.service_masks.values()))
        key = key_of(principal)
        grants = Grants(granted, 0, (), (Granting("all", None, None, "0", granted, False, ("*",)),), ())
        created = NOW - rng.randrange(1, 900) * 86_400
        inventory[key] = InventoryPrincipal(
            arn, principal.unique_id or "", account, "role", name, created, grants, {}, None, False
        )
        cells = {}
        for action in rng.sample(range(catalogue.size), 30):
            cell = cells[action] = Cell(action)
            cell.first = cell.first_success = NOW - rng.randrange(1, 100 * 86_400)
            cell.last = cell.last_success = NOW - rng.randrange(1, 40 * 86_400)
            cell.count, cell.denied = 5, number % 3
        usages[key] = PrincipalUsage(principal, key.to_bytes(8, "big"), shard_of(key), cells, [], number)
    covered = {f"{100000000000 + number}": NOW - 400 * 86_400 for number in range(ACCOUNTS)}
    windows = [Window(days) for days in (7, 30, 90)]
    fleet = Fleet(catalogue, windows, usages, inventory, Coverage(covered), {}, Scope())
    return fleet, list(usages.values())


async def watch_loop(seconds: list[float]) -> None:
    """Note the CPU that the loop's thread took between two turns: for so long others would have waited on a quiet machine."""
    while True:
        before = time.thread_time()
        await asyncio.sleep(0)
        seconds.append(time.thread_time() - before)


async def refresh(text: GapText, watch_text: WatchText) -> None:
    for _ in itertools.chain(text.refresh(), watch_text.refresh(NOW)):
        await asyncio.sleep(0)


async def measure_stalls(work: Callable[[], Any]) -> tuple[float, float]:
    """Seconds that some work took by the clock, and the longest turn of the loop meanwhile in CPU seconds."""
    stalls: list[float] = [0.0]
    watcher = asyncio.create_task(watch_loop(stalls))
    await asyncio.sleep(0)
    began = time.perf_counter()
    await work()
    took = time.perf_counter() - began
    await asyncio.sleep(0)
    watcher.cancel()
    return took, max(stalls)


async def measure_scrapes(size: int) -> dict[str, float]:
    """Seconds by what was done; bytes and series of one answer."""
    fleet, usages = build_fleet(size)
    tracker = Tracker(fleet, usages, NOW, WATCHING)
    watch = Watch(fleet, usages, WATCHING, NOW)
    text = GapText(tracker)
    watch_text = WatchText(WATCHING, fleet.windows, dict.fromkeys(fleet.coverage.accounts, NOW))
    watch_text.add(tracker, watch)
    found: dict[str, float] = {}
    took, stall = await measure_stalls(lambda: refresh(text, watch_text))
    found["first rendering"], found["first rendering: longest turn, CPU"] = took, stall

    def members() -> list[bytes]:
        return [*text.members(), *watch_text.members(NOW)]

    server = Server(members, lambda: None)
    await server.start("127.0.0.1", 0)
    async with aiohttp.ClientSession(server.url, auto_decompress=False) as client:

        async def scrape() -> None:
            async with client.get("/metrics", headers={"Accept-Encoding": "gzip"}) as answer:
                await answer.read()

        scrapes = [await measure_stalls(scrape) for _ in range(SCRAPES)]
        found["scrape, median"] = sorted(took for took, _ in scrapes)[SCRAPES // 2]
        found["scrape, longest"] = max(took for took, _ in scrapes)
        found["scrape: longest turn, CPU"] = max(stall for _, stall in scrapes)
        watch.denied_changed.update(list(watch.denied)[: size // 100])
        tracker.changed = {int.from_bytes(usage.key, "big") for usage in usages[: size // 100]}
        took, stall = await measure_stalls(lambda: refresh(text, watch_text))
        found["rendering 1% of them anew"], found["rendering 1%: longest turn, CPU"] = took, stall
        async with client.get("/metrics", headers={"Accept-Encoding": "gzip"}) as answer:
            found["bytes"] = len(await answer.read())
        async with client.get("/metrics", headers={"Accept-Encoding": "identity"}) as answer:
            found["series"] = sum(not line.startswith(b"#") for line in (await answer.read()).splitlines())
    await server.stop()
    return found


def show_scrapes(size: int) -> None:
    found = asyncio.run(measure_scrapes(size))
    rows = [
        (name, f"{value:,.0f}" if name in ("bytes", "series") else f"{value * 1000:,.1f} ms")
        for name, value in found.items()
    ]
    print_table(f"Scrapes of {size:,} principals in three windows", ("figure", "value"), rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--principals", type=int, default=PRINCIPALS)
    show_scrapes(parser.parse_args().principals)
