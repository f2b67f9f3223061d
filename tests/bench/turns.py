"""For how long the event loop of `gapwatch run` stands still at most: 10,000 principals in three windows, while records come in,
/metrics is scraped, pages are asked for, and the inventory of one of the two accounts is read anew, with other grants for all.

python -m tests.bench.turns [--principals N] [--seconds N]

The whole run is the real one, in this process; records and requests come from another. A turn is what lies between two
moments at which others could run. It is told by the clock; as gapwatch's own part of that: CPU time, and what the thread slept
for (files, locks, other threads of its own), but not the time that it was ready and waited for a core
(/proc/thread-self/schedstat) or that the host gave the machine's cores to others (it neither slept, nor waited, nor ran); and in
CPU time. On a quiet machine the first two are the same.
"""

import argparse
import asyncio
import json
import random
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp

from processor.core.catalogue import mask_of_ids
from processor.core.fresh import Fresh
from processor.core.inventory import Granting, Grants, InventoryPrincipal
from processor.core.principals import Principal
from processor.core.sessions import key_of
from processor.live_inventory import LiveInventory
from processor.opening import Opened, Place
from processor.refresh import Found
from processor.run import run_forever
from processor.runner import RunOrder
from processor.settings import RunSettings, Settings
from processor.shell.scans import InventoryPlan
from processor.shell.tables import load_catalogue
from processor.taking import Taking
from tests.bench.measure import print_table

ROOT = Path(__file__).resolve().parents[2]
PRINCIPALS = 10_000
SECONDS = 25.0
RECORDS_A_SECOND = 500
SCRAPE_SECONDS = 0.5
ACCOUNTS = ("111122223333", "444455556666")
GRANTS = (20, 60, 200, 22_000)
"""Grants of a principal; one in a hundred is an administrator."""

CALLS = (
    ("ec2.amazonaws.com", "DescribeInstances"), ("s3.amazonaws.com", "CreateBucket"), ("iam.amazonaws.com", "CreateRole"),
    ("sqs.amazonaws.com", "CreateQueue"), ("lambda.amazonaws.com", "ListFunctions20150331"),
)  # fmt: skip


@dataclass(slots=True)
class Turns:
    """The longest turn in seconds: by the clock, our own part of it, in CPU time; and how many were longer than 50 ms by the first
    two."""

    clock: float = 0.0
    own: float = 0.0
    cpu: float = 0.0
    over: list[int] = field(default_factory=lambda: [0, 0])

    async def watch(self) -> None:
        with Path("/proc/thread-self/schedstat").open("rb", buffering=0) as stat:  # noqa: ASYNC230 - of no disk

            def waited() -> float:
                stat.seek(0)
                return int(stat.read().split()[1]) / 1e9

            while True:
                clock, cpu, wait, slept = time.perf_counter(), time.thread_time(), waited(), count_sleeps()
                await asyncio.sleep(0)
                took, ran = time.perf_counter() - clock, time.thread_time() - cpu
                own = took - (waited() - wait) if count_sleeps() > slept else ran
                # A loop with nothing to do goes round at once: what this task itself takes is not in it.
                self.clock, self.own = max(self.clock, took), max(self.own, own)
                self.cpu = max(self.cpu, ran)
                self.over[0] += took > 0.05
                self.over[1] += own > 0.05
                await asyncio.sleep(0.001 if took < 0.001 else 0)

    def take(self) -> "Turns":
        found = replace(self, over=list(self.over))
        self.clock = self.own = self.cpu = 0.0
        self.over = [0, 0]
        return found

    def show(self) -> tuple[str, str, str, str]:
        clock, own, cpu = (f"{seconds * 1e3:.1f}" for seconds in (self.clock, self.own, self.cpu))
        return clock, own, cpu, f"{self.over[0]} / {self.over[1]}"


def count_sleeps() -> int:
    """How often this thread has given up its core by itself."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


class Still(Taking):
    """Reads nothing of AWS: `found` is what it is given as read."""

    def __init__(self, opened: Opened, warn: Any, clock: Any) -> None:
        super().__init__(InventoryPlan(()), opened.catalogue, opened.inventory, {}, {}, warn, clock)
        self.found: list[Found] = []
        self._refresher.take = self._hand_over  # type: ignore[method-assign]  # what is read of AWS is not measured here

    def _hand_over(self) -> list[Found]:
        found, self.found = self.found, []
        return found

    def start(self) -> None:
        """Nothing to read."""

    def stop(self) -> None:
        """Nothing runs."""


def build_inventory(count: int) -> dict[int, InventoryPrincipal]:
    """Principals of two accounts."""
    rng = random.Random(7)
    size = load_catalogue().size
    inventory = {}
    for number in range(count):
        arn = f"arn:aws:iam::{ACCOUNTS[number % 2]}:role/team-{number % 97}/role-{number:05}"
        principal = Principal(arn, f"AROA{number:017}", ACCOUNTS[number % 2], "role")
        wide = GRANTS[3] if number % 100 == 0 else GRANTS[number % 3]
        granted = mask_of_ids(rng.sample(range(size), min(wide, size)))
        grants = Grants(granted, 0, (), (Granting("all", None, None, "1", granted, False, ("*",)),), ())
        inventory[key_of(principal)] = InventoryPrincipal(
            arn,
            principal.unique_id or "",
            principal.account_id,
            "role",
            f"role-{number:05}",
            1,
            grants,
            {},
            None,
            False,
        )
    return inventory


def write_record(number: int, at: float, rng: random.Random) -> str:
    """One call of one principal, as CloudTrail writes it."""
    source, name = rng.choice(CALLS)
    account, arn = ACCOUNTS[number % 2], f"arn:aws:iam::{ACCOUNTS[number % 2]}:role/team-{number % 97}/role-{number:05}"
    issuer = {"type": "Role", "principalId": f"AROA{number:017}", "arn": arn, "accountId": account}
    record = {
        "eventVersion": "1.08", "eventID": f"{rng.getrandbits(64):016x}", "eventSource": source, "eventName": name,
        "eventTime": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at)), "awsRegion": "eu-west-1",
        "eventType": "AwsApiCall", "recipientAccountId": account, "requestParameters": {}, "sourceIPAddress": "192.0.2.1",
        "userIdentity": {
            "type": "AssumedRole", "accountId": account, "sessionContext": {"sessionIssuer": issuer},
            "principalId": f"AROA{number:017}:worker", "arn": arn.replace(":iam:", ":sts:").replace(":role/", ":assumed-role/"),
        },
    }  # fmt: skip
    return json.dumps(record) + "\n"


async def ask_on(url: str, log: str, count: int, seconds: float) -> dict[str, float]:
    """The other process: records into the log, scrapes and pages, for so long. Seconds of scrapes and of the fleet's list."""
    rng = random.Random(1)
    until = time.monotonic() + seconds
    scrapes: list[float] = []
    lists: list[float] = []
    inventory = build_inventory(count)
    admin, plain, *_ = inventory
    paths = [
        "/", "/?sort=name&page=20", "/?q=role-00123", "/api/principals?size=200", f"/principals/{admin:016x}",
        f"/principals/{admin:016x}?show=all&size=200", f"/api/principals/{admin:016x}/policy", f"/principals/{plain:016x}",
    ]  # fmt: skip
    async with aiohttp.ClientSession(url, auto_decompress=False) as client:

        async def ask(path: str, encoding: str = "gzip") -> float:
            began = time.perf_counter()
            async with client.get(path, headers={"Accept-Encoding": encoding}) as answer:
                await answer.read()
                if answer.status != 200:
                    raise RuntimeError(f"{path} answers {answer.status}")
            return time.perf_counter() - began

        async def write() -> None:
            with Path(log).open("a") as file:  # noqa: ASYNC230 - nobody else is on this loop
                while time.monotonic() < until:
                    now = time.time()
                    file.writelines(write_record(rng.randrange(count), now, rng) for _ in range(RECORDS_A_SECOND // 10))
                    file.flush()
                    await asyncio.sleep(0.1)

        async def scrape() -> None:
            while time.monotonic() < until:
                scrapes.append(await ask("/metrics"))
                await asyncio.sleep(SCRAPE_SECONDS)

        async def scrape_plain() -> None:
            while time.monotonic() < until:
                await ask("/metrics", "identity")
                await asyncio.sleep(5)

        async def look() -> None:
            while time.monotonic() < until:
                path = rng.choice(paths)
                took = await ask(path)
                if path == "/":
                    lists.append(took)
                await asyncio.sleep(0.1)

        await asyncio.gather(write(), scrape(), scrape_plain(), look(), look())
    scrapes.sort()
    lists.sort()
    return {
        "scrapes": len(scrapes), "least": scrapes[0], "median": scrapes[len(scrapes) // 2], "longest": scrapes[-1],
        "list least": lists[0], "list median": lists[len(lists) // 2],
    }  # fmt: skip


def widen(inventory: dict[int, InventoryPrincipal], account: str) -> dict[int, InventoryPrincipal]:
    """An account's principals, each with the same few grants more."""
    more = mask_of_ids(random.Random(3).sample(range(load_catalogue().size), 50))
    return {
        key: replace(found, grants=replace(found.grants, granted=found.grants.granted | more))
        for key, found in inventory.items()
        if found.account_id == account
    }


async def measure_turns(count: int, seconds: float) -> dict[str, Any]:
    """Turns by phase, and what scrapes took."""
    with tempfile.TemporaryDirectory() as name:
        log = Path(name) / "log.ndjson"
        log.write_text("".join(write_record(0, time.time() - ago, random.Random(ago)) for ago in (40 * 86_400, 1)))
        inventory = build_inventory(count)
        fresh = widen(inventory, ACCOUNTS[0])
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        order = RunOrder((str(log),), Settings(run=RunSettings(port=port)), inventory)
        stills: list[Still] = []

        async def start(opened: Opened, warn: Any, clock: Any) -> LiveInventory:
            stills.append(Still(opened, warn, clock))
            return LiveInventory(opened, stills[0])

        order.start_inventory = start
        turns, stopping = Turns(), asyncio.Event()
        watching = asyncio.create_task(turns.watch())
        url = f"http://127.0.0.1:{port}"
        running = asyncio.create_task(run_forever(order, Place(), print, lambda _: None, stopping))
        found: dict[str, Any] = {}
        try:
            while not await is_ready(f"{url}/healthz"):  # noqa: ASYNC110 - another socket is waited for
                await asyncio.sleep(0)
            turns.take()  # Nobody asked anything before.
            while not await is_ready(f"{url}/readyz"):
                if running.done():
                    running.result()
                await asyncio.sleep(0.1)
            await asyncio.sleep(3)  # What is there already is read.
            found["start"] = turns.take()
            asking = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tests.bench.turns", "--ask", url, "--log", str(log), "--principals", str(count),
                "--seconds", str(seconds), stdout=subprocess.PIPE, cwd=ROOT,
            )  # fmt: skip
            await asyncio.sleep(seconds * 0.4)
            found["records, scrapes and pages"] = turns.take()
            stills[0].found.append(Fresh(ACCOUNTS[0], int(time.time()), True, fresh))
            said, _ = await asking.communicate()
            found["with a new inventory of half of them"] = turns.take()
            if asking.returncode:
                sys.exit("the other process failed")
            assert order.held.runner is not None
            assert order.held.runner.opened is not None
            stored = order.held.runner.opened.inventory
            found["taken"] = sum(
                stored[key].grants.granted == each.grants.granted for key, each in fresh.items()
            ) / len(fresh)
            found["scrapes"] = json.loads(said)
        finally:
            stopping.set()
            with suppress(asyncio.CancelledError):
                await running
            watching.cancel()
        return found


async def is_ready(url: str) -> bool:
    try:
        async with aiohttp.ClientSession() as client, client.get(url) as answer:
            return answer.status == 200
    except OSError:
        return False


def list_rows(found: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for name, turns in found.items():
        if isinstance(turns, Turns):
            yield (name, *turns.show())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--principals", type=int, default=PRINCIPALS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--ask", metavar="URL", help=argparse.SUPPRESS)
    parser.add_argument("--log", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ask:
        print(json.dumps(asyncio.run(ask_on(options.ask, options.log, options.principals, options.seconds))))
        return
    found = asyncio.run(measure_turns(options.principals, options.seconds))
    headings = (
        "meanwhile",
        "longest turn, ms: clock",
        "of that gapwatch's",
        "CPU",
        "over 50 ms: clock / gapwatch's",
    )
    print_table(
        f"Turns of the loop, {options.principals:,} principals in three windows", headings, list(list_rows(found))
    )
    scrapes = found["scrapes"]
    print(
        f"scrapes: {scrapes['scrapes']}, median {scrapes['median'] * 1e3:.0f} ms, longest {scrapes['longest'] * 1e3:.0f} ms"
    )
    print(f"the fleet's list: median {scrapes['list median'] * 1e3:.0f} ms, least {scrapes['list least'] * 1e3:.0f} ms")
    print(f"of the new inventory {found['taken']:.0%} was taken by the end")


if __name__ == "__main__":
    main()
