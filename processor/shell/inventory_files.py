"""An inventory as AWS has it, written to files that `--inventory`, `--organization` and `--config` read."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import orjson

from processor.core.inventory import ROLES, USERS
from processor.core.principals import permission_set_of
from processor.shell.aws_errors import AwsError
from processor.shell.iam import Details
from processor.shell.scans import Scanner, run_each

ACCOUNTS_AT_ONCE = 8


@dataclass(slots=True)
class Fetched:
    """What was written, and in words what could not be read."""

    written: list[Path] = field(default_factory=list)
    accounts: int = 0
    roles: int = 0
    users: int = 0
    permission_sets: set[str] = field(default_factory=set)
    unread: list[str] = field(default_factory=list)


async def fetch_files(scanner: Scanner, folder: Path, step: Callable[[str], None]) -> Fetched:
    """Write one file an account and one for the organization into a folder; `step` is told each account that was read. A file
    of an account that cannot be read stays as it was. Raises AwsError where not even the accounts can be listed, OSError."""
    accounts = await scanner.find_accounts()
    os.makedirs(folder, exist_ok=True)  # noqa: PTH103 - once, and nobody else waits for this command
    fetched = Fetched()
    if scanner.found is not None:
        fetched.written.append(write_whole(folder / "organization.json", scanner.found.document))

    async def fetch(account_id: str) -> None:
        try:
            details = await scanner.fetch(account_id)
        except AwsError as error:
            fetched.unread.append(str(error))
            return
        fetched.written.append(write_whole(folder / f"iam-{account_id}.json", details))
        _count(fetched, details)
        step(account_id)

    await run_each(accounts, fetch, ACCOUNTS_AT_ONCE)
    fetched.written.sort()
    fetched.unread.sort()
    return fetched


def _count(fetched: Fetched, details: Details) -> None:
    fetched.accounts += 1
    fetched.roles += len(details[ROLES])
    fetched.users += len(details[USERS])
    fetched.permission_sets |= {name for role in details[ROLES] if (name := permission_set_of(str(role.get("Arn"))))}


def write_whole(path: Path, document: object) -> Path:
    """Write JSON so that the file is there whole or not at all, for its owner only: it tells who may do what."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    packed = orjson.dumps(document, default=_write_time, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    try:
        with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(packed)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def _write_time(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"a {type(value).__name__} is no JSON")
