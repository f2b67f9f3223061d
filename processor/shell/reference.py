"""Fetches AWS' Service Reference, and keeps what was made of it in a file."""

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import aiohttp
import msgspec

from processor.core.catalogue import Catalogue
from processor.core.records import format_time
from processor.core.reference import ReferenceRefused, Snapshot, build_snapshot, read_index, read_service
from processor.shell.inventory_files import write_whole

ADDRESS = "https://servicereference.us-east-1.amazonaws.com/"
DOCUMENT_BYTES_MAX = 32 * 1024 * 1024
AT_ONCE = 8
TRIES = 3
TIMEOUT = aiohttp.ClientTimeout(total=60, connect=10)


class ReferenceUnreachable(Exception):
    """The Service Reference cannot be fetched; the text says what failed."""


async def fetch_snapshot(address: str, before: Catalogue, now: int, step: Callable[[str], None]) -> Snapshot:
    """All services' actions as a snapshot; nothing less. Raises ReferenceUnreachable, ReferenceRefused."""
    async with aiohttp.ClientSession(timeout=TIMEOUT, raise_for_status=True) as session:
        services = read_index(await _fetch(session, address))
        gate = asyncio.Semaphore(AT_ONCE)

        async def fetch_service(name: str, url: str) -> list[tuple[str, str, bool]]:
            whole = urljoin(address, url)
            if urlsplit(whole)[:2] != urlsplit(address)[:2]:
                raise ReferenceRefused(f"the document of {name} is said to be at {whole}, not at {address}")
            async with gate:
                raw = await _fetch(session, whole)
            step(name)
            return read_service(name, raw)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(fetch_service(name, url)) for name, url in services]
    actions = [action for task in tasks for action in task.result()]
    content = hashlib.blake2b(repr(sorted(actions)).encode(), digest_size=4).hexdigest()
    return build_snapshot(f"reference-{format_time(now)[:10]}-{content}", actions, before)


async def _fetch(session: aiohttp.ClientSession, url: str) -> bytes:
    """A document, after some tries."""
    for left in reversed(range(TRIES)):
        try:
            async with session.get(url) as answer:
                raw = await answer.content.read(DOCUMENT_BYTES_MAX + 1)
                while len(raw) <= DOCUMENT_BYTES_MAX and not answer.content.at_eof():
                    raw += await answer.content.read(DOCUMENT_BYTES_MAX + 1)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            if not left:
                raise ReferenceUnreachable(f"{url} cannot be fetched: {error or type(error).__name__}") from error
            await asyncio.sleep(0.5)
        else:
            if len(raw) > DOCUMENT_BYTES_MAX:
                raise ReferenceRefused(f"{url} is larger than {DOCUMENT_BYTES_MAX} bytes")
            return raw
    raise AssertionError("the last try returns or raises")


def read_snapshot(path: Path) -> Snapshot:
    """A snapshot that `write_snapshot` wrote. Raises ReferenceRefused."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Snapshot)
    except OSError as error:
        raise ReferenceRefused(f"catalogue {path}: {error.strerror}") from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ReferenceRefused(f"catalogue {path} is none that `gapwatch catalogue update` wrote: {error}") from error
    if not found.actions:
        raise ReferenceRefused(f"catalogue {path} holds no actions")
    return found


def write_snapshot(path: Path, snapshot: Snapshot) -> None:
    """Whole or not at all."""
    write_whole(path, msgspec.to_builtins(snapshot))
