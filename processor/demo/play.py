"""`gapwatch demo`: the made-up company's log is written into a file, and the real `run` follows it."""

import asyncio
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

from processor.core.exemptions import Exemption, Exemptions
from processor.core.fleet import inventory_by_key
from processor.core.inventory import read_inventory
from processor.core.organizations import read_organization
from processor.core.watch import Watching
from processor.demo.company import Company, build_company
from processor.demo.page import POLICY, render_page
from processor.demo.stories import Story
from processor.demo.view import Shower, build_view
from processor.opening import Place, load_loops
from processor.run import run_forever
from processor.runner import Held, RunOrder
from processor.settings import LoggingSettings, RunSettings, Settings
from processor.shell.ending import rest_until
from processor.shell.tables import load_catalogue
from processor.stopping import stop_on_signals

SEED = 7
WEEK_SECONDS = 7 * 86_400
WRITE_RECORDS = 1_000
STORIES_PATH = "/stories"

Warn = Callable[[str], None]


async def play_demo(seconds: int | None, weeks: int, port: int, warn: Warn) -> int:
    """Play until `seconds` are over or a signal comes. Returns the exit code."""
    stopping = stop_on_signals()
    begun = int(time.time())
    company = build_company(SEED, begun)
    with tempfile.TemporaryDirectory(prefix="gapwatch-demo-") as folder:
        log = make_log(folder)
        order = make_order(company, log, port)
        shower = Shower(company, order.held)
        tasks = [
            asyncio.create_task(write_log(company, log, (begun - weeks * WEEK_SECONDS, begun), stopping)),
            asyncio.create_task(shower.show(stopping)),
        ]
        load_loops(warn)  # Before the clock runs: it takes its time where it is the first time.
        if seconds is not None:
            asyncio.get_running_loop().call_later(seconds, stopping.set)
        try:
            return await run_forever(order, Place(), warn, shower.note_url, stopping)
        finally:
            stopping.set()
            await asyncio.gather(*tasks)


def make_log(folder: str) -> Path:
    """The file that the company's log is written into."""
    log = Path(folder, "cloudtrail.ndjson")
    log.touch()
    return log


def make_order(company: Company, log: Path, port: int) -> RunOrder:
    """The run that follows the company's log, with its inventory and its settings."""
    tree = read_organization(orjson.dumps(company.organization()))
    documents = [(f"account {at}", orjson.dumps(found)) for at, found in enumerate(company.inventory(), 1)]
    settings = Settings(
        logging={account: LoggingSettings(data_events=found) for account, found in company.data_events.items()},
        run=RunSettings(port=port, poll_seconds=0.1, flush_seconds=0.1),
    )
    inventory = inventory_by_key(read_inventory(documents, load_catalogue(), [tree]))
    held = Held()
    watching = Watching(Exemptions((make_exemption(company.until),), ("arn:aws:iam::*:role/break-glass",)))
    pages = make_pages(held, company.stories())
    return RunOrder((str(log),), settings, inventory, watching, pages=pages, links={"Stories": STORIES_PATH}, held=held)


def make_exemption(now: int) -> Exemption:
    """What somebody at the company has answered for."""
    return Exemption(
        name="quarterly-restore",
        principal="arn:aws:iam::*:role/service-role/backup-service-role",
        action="*",
        owner="platform@harbourlight.example",
        reason="Restores are rehearsed once a quarter.",
        expires=now + 40 * 86_400,
    )


def make_pages(held: Held, stories: list[Story]) -> dict[str, Callable[[web.Request], Any]]:
    """The page that shows the fleet and the stories."""

    async def show_page(request: web.Request) -> web.Response:
        text = render_page(build_view(held.runner, stories, time.time()))
        return web.Response(text=text, content_type="text/html", headers={"Content-Security-Policy": POLICY})

    return {STORIES_PATH: show_page}


async def write_log(company: Company, log: Path, history: tuple[int, int], stopping: asyncio.Event) -> None:
    """Write the history as fast as it is made, then live records when their time has come."""
    with log.open("ab", buffering=0) as file:
        for lines in batch_lines(company.history(*history)):
            if stopping.is_set():
                return
            file.write(lines)
            await asyncio.sleep(0)
        for at, record in company.live():
            await rest_until(stopping, max(0.0, at - time.time()))
            if stopping.is_set():
                return
            file.write(orjson.dumps(record) + b"\n")


def batch_lines(history: Iterable[tuple[int, dict[str, Any]]]) -> Iterator[bytes]:
    """Records as lines, many at a time."""
    lines: list[bytes] = []
    for _, record in history:
        lines.append(orjson.dumps(record) + b"\n")
        if len(lines) >= WRITE_RECORDS:
            yield b"".join(lines)
            lines = []
    yield b"".join(lines)
