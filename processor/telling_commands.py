"""`gapwatch page` and `gapwatch notify`: what one process tells people of a whole fleet."""

import asyncio
from pathlib import Path
from typing import Any

import click

from processor.__main__ import choose_place, choose_store, explain_failure, gather_settings
from processor.fleet_commands import choose_process, end_at_once, take_connection
from processor.saying import warn
from processor.topic_commands import choose_brokers, gather_brokers


@click.command()
@click.option("--config", type=click.Path(dir_okay=False), metavar="FILE", help="Settings (TOML): [page] and [run].")
@click.option("--host", metavar="ADDRESS", help="Where to serve. Default: 127.0.0.1.")
@click.option("--port", type=click.IntRange(0, 65535), help="Its port; 0 takes a free one. Default: 9464.")
@click.option("--token-file", metavar="PATH", help="A file with the token that the page asks for, for a wider --host.")
@click.option(
    "--every",
    type=click.FloatRange(1, 3_600),
    default=15.0,
    show_default=True,
    metavar="SECONDS",
    help="How often the store is read at most.",
)
@choose_store
@explain_failure
def page(
    config: str | None, host: str | None, port: int | None, token_file: str | None, every: float, url: str | None,
    folder: Path | None,
) -> int:  # fmt: skip
    """Serve the page and /api over a store that others write: of a whole fleet.

    Reads the store and changes nothing there. Start as many as you like. Serves /healthz and /readyz, too.
    """
    from processor.page_run import PageOrder, run_page
    from processor.stopping import stop_on_signals

    settings = gather_settings(config, run={"host": host, "port": port}, page={"token_file": token_file})
    order = PageOrder(choose_place(url, folder, needed=True), settings, every)

    async def run_here() -> int:
        return await run_page(order, warn, lambda at: warn(f"serving the page at {at}/"), stop_on_signals())

    return asyncio.run(run_here())


@click.command()
@click.option(
    "--group",
    envvar="GAPWATCH_KAFKA_NOTIFY_GROUP",
    default="gapwatch-notify",
    show_default=True,
    metavar="NAME",
    help="The consumer group of those that tell: one of them does, the others stand by.",
)
@click.option("--config", type=click.Path(dir_okay=False), metavar="FILE", help="Settings (TOML), with [notify].")
@choose_brokers
@choose_process
@end_at_once
@explain_failure
def notify(
    group: str, config: str | None, url: str, host: str | None, port: int | None, prefix: str, **options: Any
) -> int:
    """Tell people by webhook or SNS what topic alerts says, as [notify] in --config has it.

    What is told by all of a fleet comes as one message at most so often, each thing once. Serves /metrics, /healthz and /readyz.
    """
    from processor.notify_run import NotifyOrder, run_notify
    from processor.stopping import stop_on_signals

    brokers = gather_brokers(**take_connection(options))
    order = NotifyOrder(brokers, prefix, group, url, gather_settings(config, run={"host": host, "port": port}))

    async def run_here() -> int:
        return await run_notify(order, warn, lambda at: warn(f"serving {at}/metrics"), stop_on_signals())

    return asyncio.run(run_here())
