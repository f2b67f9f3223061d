"""Rows of an export as items of a DynamoDB table of yours: partition key `pk` and sort key `sk`, both text.

    pk    ARN#UNIQUE_ID
    sk    principal, grants#WINDOW_DAYS#ACTION, or usage#ACTION
    and the columns of the schema (core/export.py); times are numbers, seconds since 1970; what is null is left out

An item is put whole, so that a run that was cut off may be repeated. What is gone meanwhile is not deleted: its `as_of` is old.
"""

import asyncio
import random
from collections.abc import Iterable
from typing import Any

from processor.core.export import Row
from processor.shell.aws_accounts import AwsClient
from processor.shell.aws_errors import AwsError

ITEMS_A_CALL = 25
"""What BatchWriteItem takes."""

TRIES = 10
WAIT_SECONDS_MAX = 20.0


async def write_items(client: AwsClient, table: str, rows: Iterable[tuple[str, list[Row]]]) -> int:
    """Put all rows; returns how many. Raises AwsError, also where the table takes no more for long."""
    held: list[Any] = []
    count = 0
    for kind, more in rows:
        for row in more:
            held.append({"PutRequest": {"Item": build_item(kind, row)}})
            if len(held) == ITEMS_A_CALL:
                await _put(client, table, held)
                count += len(held)
                held = []
    if held:
        await _put(client, table, held)
    return count + len(held)


def build_item(kind: str, row: Row) -> dict[str, Any]:
    """A row in DynamoDB's own JSON."""
    sort = {
        "principals": "principal",
        "grants": f"grants#{row.get('window_days')}#{row.get('action')}",
        "usage": f"usage#{row.get('action')}",
    }[kind]
    item: dict[str, Any] = {"pk": {"S": f"{row['principal']}#{row['unique_id']}"}, "sk": {"S": sort}}
    for name, value in row.items():
        if value is None:
            continue
        item[name] = _pack(value)
    return item


def _pack(value: object) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"BOOL": value}
    if isinstance(value, int):
        return {"N": str(value)}
    if isinstance(value, list):
        return {"L": [{"S": str(each)} for each in value]}
    return {"S": str(value)}


async def _put(client: AwsClient, table: str, requests: list[Any]) -> None:
    left: dict[str, Any] = {table: requests}
    for tried in range(TRIES):
        left = (await client.call("BatchWriteItem", RequestItems=left)).get("UnprocessedItems") or {}
        if not left:
            return
        await asyncio.sleep(min(WAIT_SECONDS_MAX, 0.1 * 2.0**tried) * random.uniform(0.5, 1))  # noqa: S311 - spreads calls
    raise AwsError(
        "throttled", "dynamodb:BatchWriteItem", client.account_id, f"table {table} takes no more items now: give it more capacity"
    )  # fmt: skip
