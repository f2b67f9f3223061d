"""`gapwatch backfill`: its options."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from processor.__main__ import (
    TimeType,
    choose_format,
    choose_inventory,
    choose_place,
    choose_settings,
    choose_store,
    explain_failure,
    gather_settings,
)
from processor.saying import warn
from processor.source_options import choose_endpoint

DAY = click.DateTime(("%Y-%m-%d",))


@click.command()
@click.option("--from", "first", type=DAY, required=True, metavar="DAY", help="The first day, such as 2026-11-01.")
@click.option("--to", "last", type=DAY, metavar="DAY", help="The last day, read whole. Default: today (UTC).")
@click.option(
    "--verify",
    is_flag=True,
    help="Check the files that are read against CloudTrail's signed digests; exit with 1 where one was changed or deleted.",
)
@choose_inventory
@choose_settings
@click.option(
    "--covered-since", type=TimeType(), help="Since when the logs are complete. Default: each account's first record."
)
@choose_format
@choose_store
@choose_endpoint
@click.argument("place", metavar="s3://BUCKET/PREFIX")
@explain_failure
def backfill(
    place: str,
    first: datetime,
    last: datetime | None,
    verify: bool,
    inventories: Sequence[str],
    organizations: Sequence[str],
    covered_since: int | None,
    with_actions: bool,
    style: str,
    fail_on: str | None,
    url: str | None,
    folder: Path | None,
    endpoint_url: str | None,
    **narrowing: Any,
) -> int:
    """Read the log files of some days from S3 into a store, print the report and end.

    PREFIX is where AWSLogs/ lies, or a folder below it: one account's, an organization's, or a region's. The days are
    those of the files' folders. Killed at any moment, it goes on where it was when it is started again.
    """
    from processor.backfill import BackfillOrder, run_backfill

    until = (last or datetime.now(UTC)).date()
    if until < first.date():
        raise click.UsageError(f"--to {until} is before --from {first.date()}")
    order = BackfillOrder(
        place,
        first.date(),
        until,
        tuple(inventories),
        tuple(organizations),
        gather_settings(**narrowing),
        covered_since,
        endpoint_url,
        verify,
    )
    return asyncio.run(run_backfill(order, choose_place(url, folder), (style, with_actions, fail_on), warn))
