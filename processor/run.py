"""`gapwatch run`: follow sources, keep the gap by the clock, serve metrics, until told to stop."""

import asyncio
import sys
from collections.abc import Callable

from prometheus_client import Histogram

from processor.collecting import collect_the_young
from processor.core.tally import Tally
from processor.notify import notify_people
from processor.opening import Place, load_loops, open_store
from processor.page.reading import Look, Reader
from processor.page.site import open_pages
from processor.runner import Held, Runner, RunOrder
from processor.shell.channels import check_channels
from processor.shell.ending import end_tasks
from processor.shell.http import Server
from processor.shell.metrics import Health, PipelineCollector, make_registry, render_pipeline
from processor.shell.redis import Store, StoreLost
from processor.stopping import Warn, end_in_time

SWITCH_SECONDS = 0.001


async def run_forever(
    order: RunOrder, place: Place, warn: Warn, started: Callable[[str], None], stopping: asyncio.Event
) -> int:
    """Run until `stopping` is set. A store that is lost is claimed again, and read again from what it holds."""
    check_channels(order.settings.notify)
    # A thread that reckons (a policy, an inventory that is read) gives way after so long: at 5 ms, Python's own, the loop waits for
    # it at each of its calls of the system, and stands still for 50 ms and more.
    sys.setswitchinterval(SWITCH_SECONDS)
    load_loops(warn)
    health, held = Health(), order.held
    server, flush_seconds = make_server(order, health, held)
    await server.start(order.settings.run.host, order.settings.run.port)
    started(server.url)
    if order.pusher is not None:
        health.pushed = order.pusher.counts
        order.pusher.start()

    def wait(text: str) -> None:
        if not health.waiting:
            warn(text)
        health.waiting = True

    async def hold() -> None:
        async with open_store(place, wait) as store:
            while not stopping.is_set():
                try:
                    await hold_once(order, store, place, health, held, stopping, flush_seconds, warn)
                except StoreLost as error:
                    warn(f"{error}; starting again from what it holds")
                    health.ready, health.why_not, health.as_of = False, "the store was lost: starting again", 0

    try:
        await end_in_time(asyncio.ensure_future(hold()), stopping, warn)
    finally:
        if order.pusher is not None:
            await order.pusher.stop()
        await server.stop()
    return 0


async def hold_once(
    order: RunOrder,
    store: Store,
    place: Place,
    health: Health,
    held: Held,
    stopping: asyncio.Event,
    flush_seconds: Histogram,
    warn: Warn,
) -> None:
    """Claim the store and run on it. Returns when `stopping` is set; raises StoreLost when the hold is gone."""
    health.why_not = "standby: another gapwatch holds the store"
    claim = asyncio.ensure_future(store.claim(exclusive=place.url is None, standby=True))
    stop = asyncio.ensure_future(stopping.wait())
    await asyncio.wait((claim, stop), return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    if not claim.done():
        await end_tasks(claim)
        return
    claim.result()
    health.why_not = "loading"
    runner = Runner(order, store, health, warn)
    try:
        with collect_the_young() as collecting:
            async with store.beating():
                await runner.load()
            collecting.note_loaded()
            held.runner = runner
            async with notify_people(order.settings.notify, runner.look(), store, order.clock, warn) as channels:
                health.channels = channels
                await runner.follow(stopping, flush_seconds, collecting)
    finally:
        if runner.live is not None:
            runner.live.stop()


def make_server(order: RunOrder, health: Health, held: Held) -> tuple[Server, Histogram]:
    """The HTTP server over whatever runner holds the store at the time."""
    from processor.shell.tables import load_catalogue

    empty = Tally()

    def tally() -> Tally:
        opened = held.runner.opened if held.runner is not None else None
        return empty if opened is None else opened.pipeline.tally

    registry, flush_seconds = make_registry(PipelineCollector(tally, health, order.clock, load_catalogue().version))

    def members() -> list[bytes]:
        return [render_pipeline(registry), *(held.runner.members() if held.runner is not None else [])]

    def look() -> Look | None:
        return None if held.runner is None else held.runner.look()

    pages = open_pages(order.settings, Reader(look, health, order.clock), order.pages, order.links)
    return Server(members, lambda: None if health.ready else health.why_not, pages), flush_seconds
