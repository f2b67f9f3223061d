"""Statements -> policy documents within IAM's limits."""

import json
from collections.abc import Iterable
from typing import Any

Json = dict[str, Any]

DOCUMENT_CHARS_MAX = 6_144
"""Of a customer managed policy, white space left out (IAM User Guide, quotas)."""

ROOM = DOCUMENT_CHARS_MAX - len('{"Version":"2012-10-17","Statement":[]}')


def measure(value: object) -> int:
    """The characters of JSON without white space between its parts."""
    return len(json.dumps(value, separators=(",", ":"), ensure_ascii=False))


def pack(statements: Iterable[Json]) -> tuple[Json, ...]:
    """Statements in order into few documents; one that fits into none is divided. Each Sid stands once."""
    documents: list[list[Json]] = []
    room = 0
    numbers: dict[str, int] = {}
    waiting = list(statements)[::-1]
    while waiting:
        statement = waiting.pop()
        sid = statement["Sid"]
        number = numbers.get(sid, 0) + 1
        named = {**statement, "Sid": f"{sid}Part{number}"} if number > 1 else statement
        size = measure(named) + 1
        if size > room and (size <= ROOM or room < ROOM // 4):
            documents.append([])
            room = ROOM
        if size > room and (parts := _divide(named, room)):
            waiting += ({**part, "Sid": sid} for part in reversed(parts))
            continue
        documents[-1].append(named)
        numbers[sid] = number
        room -= size
    return tuple({"Version": "2012-10-17", "Statement": found} for found in documents)


def _divide(statement: Json, room: int) -> list[Json]:
    """Two statements instead of one, of which the first fits where that can be: by actions, then by resources. Nothing where
    neither can be divided: one text, or a NotResource, which is no sum of its parts."""
    for name in ("Action", "Resource"):
        listed = statement.get(name, ())
        if len(listed) > 1:
            left = room - 1 - measure({**statement, name: []})
            count = 0
            while count < len(listed) - 1 and (left := left - measure(listed[count]) - 1) >= 0:
                count += 1
            count = max(1, count)
            return [{**statement, name: listed[:count]}, {**statement, name: listed[count:]}]
    return []
