"""`gapwatch intake` and `gapwatch ledger`: the two kinds of process of Kafka mode."""

import asyncio
import functools
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import click

from processor.__main__ import (
    choose_inventory,
    choose_settings,
    explain_failure,
    gather_settings,
)
from processor.inventory_commands import GivenPlan, choose_aws_inventory, open_plan
from processor.saying import warn
from processor.source_options import SourceOrder, choose_sources
from processor.topic_commands import choose_brokers, gather_brokers

CONNECTION = ("brokers", "security", "mechanism", "user", "password_file", "ca", "certificate", "key")
Command = Callable[..., Any]


def choose_process(command: Command) -> Command:
    """The options that both kinds of process have."""
    for option in reversed(
        (
            click.option("--redis", "url", envvar="GAPWATCH_REDIS", required=True, metavar="URL",
                         help="The store: redis://, rediss:// (TLS), unix://."),
            click.option("--host", metavar="ADDRESS", help="Where to serve /metrics. Default: 127.0.0.1."),
            click.option("--port", type=click.IntRange(0, 65535), help="Its port; 0 takes a free one. Default: 9464."),
        )
    ):  # fmt: skip
        command = option(command)
    return command


def end_at_once(command: Callable[..., NoReturn]) -> Callable[..., NoReturn]:
    """End the process when a command has: Faust's consumer may leave a thread that goes on, and keeps its partitions."""

    @functools.wraps(command)
    def run(**options: Any) -> NoReturn:
        try:
            command(**options)
        except SystemExit as end:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(end.code if isinstance(end.code, int) else 1)

    return run


def take_connection(options: dict[str, Any]) -> dict[str, Any]:
    """The options of `choose_brokers`, taken out of all of a command's."""
    return {name: options.pop(name) for name in CONNECTION}


@click.command()
@choose_sources
@click.option("--once", is_flag=True, help="End when all files are read and sent, by this intake or another.")
@choose_inventory
@choose_aws_inventory
@choose_settings
@choose_brokers
@choose_process
@explain_failure
def intake(
    paths: Sequence[str],
    streams: Sequence[str],
    queues: Sequence[str],
    buckets: Sequence[str],
    endpoint_url: str | None,
    once: bool,
    inventories: Sequence[str],
    organizations: Sequence[str],
    inventory_plan: GivenPlan | None,
    url: str,
    host: str | None,
    port: int | None,
    prefix: str,
    **options: Any,
) -> int:  # fmt: skip
    """Read sources, and write what was done to Kafka for the ledgers.

    Start as many as you like, all with the same sources: each file and each shard of a stream is read by one of them at a time.
    With --inventory it writes the grants to Kafka, too; with --inventory-from aws one of them does, and another when that one
    ends. Serves /metrics, /healthz and /readyz.
    """
    from processor.batch import read_inventories
    from processor.intake_run import run_intake
    from processor.intake_runner import IntakeOrder
    from processor.stopping import stop_on_signals
    from processor.watching import find_inventory_time

    brokers = gather_brokers(**take_connection(options))
    settings = gather_settings(**options, run={"host": host, "port": port})
    sources = SourceOrder(tuple(paths), tuple(streams), tuple(queues), tuple(buckets), endpoint_url)
    sources.check_given()
    if once and (streams or queues):
        raise click.UsageError("--once ends when all files are read: streams and queues have no end")
    inventory = read_inventories(inventories, organizations, warn)
    order = IntakeOrder(brokers, prefix, url, tuple(paths), settings, inventory, once, names=(*streams, *queues))
    order.inventory_time = find_inventory_time(inventories)
    order.plan = open_plan(inventory_plan, tuple(organizations))

    async def run_here() -> int:
        order.feeds = await sources.open(settings, warn)
        return await run_intake(order, warn, lambda at: warn(f"serving {at}/metrics"), stop_on_signals())

    return asyncio.run(run_here())


@click.command()
@click.option(
    "--group",
    envvar="GAPWATCH_KAFKA_GROUP",
    default="gapwatch-ledger",
    show_default=True,
    metavar="NAME",
    help="The consumer group in which ledgers share the shards.",
)
@click.option("--exemptions", metavar="FILE", help="Who has answered for what, and the break-glass principals (TOML).")
@click.option("--alertmanager", metavar="URL", help="Push first uses to this Alertmanager at once, besides the rules.")
@choose_settings
@choose_brokers
@choose_process
@end_at_once
@explain_failure
def ledger(
    group: str, exemptions: str | None, alertmanager: str | None, url: str, host: str | None, port: int | None,
    prefix: str, **options: Any,
) -> int:  # fmt: skip
    """Count what Kafka brings, keep the gaps, serve them as metrics, and tell topics gap-changes and alerts.

    Start as many as you like: they share the 64 shards, and take over from one that ends. Serves /metrics, /healthz and
    /readyz.
    """
    from processor.ledger_run import LedgerOrder, run_ledger
    from processor.shell.push import build_pusher
    from processor.stopping import stop_on_signals

    brokers = gather_brokers(**take_connection(options))
    alerts = {"exemptions": exemptions, "alertmanager": alertmanager}
    settings = gather_settings(**options, run={"host": host, "port": port}, alerts=alerts)
    if settings.notify.webhook_url_file or settings.notify.sns_topic_arn:
        warn("[notify] in --config is for `gapwatch notify`, which tells for all ledgers: a ledger sends no messages")
    order = LedgerOrder(brokers, prefix, group, url, settings, pusher=build_pusher(settings.alerts, warn))

    async def run_here() -> int:
        return await run_ledger(order, warn, lambda at: warn(f"serving {at}/metrics"), stop_on_signals())

    # Not asyncio.run: it would wait for tasks of Faust's that a cancellation does not end.
    return asyncio.new_event_loop().run_until_complete(run_here())
