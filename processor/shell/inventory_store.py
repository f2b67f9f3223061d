"""How an inventory that is read while running stands in the store.

P:inventory    hash    account -> {"first", "read": when it was first and last read whole, "failed": since when that fails
                       (0: it does not), "why": in words}
P:{N}:g        as shell/grants.py has it
"""

import zlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec
from msgspec import Struct

from processor.core.catalogue import Catalogue
from processor.core.fresh import Settled
from processor.core.gap import Logging
from processor.core.inventory import InventoryPrincipal
from processor.core.sessions import shard_of
from processor.shell.commands import Command
from processor.shell.grants import load_inventory_times, pack_grants, pack_names
from processor.shell.redis import Store

SHOWN_MAX = 20


class AccountStatus(Struct, frozen=True):
    """What is known of the inventory of an account; times in seconds since 1970."""

    first: int = 0
    read: int = 0
    failed: int = 0
    why: str = ""


async def load_statuses(store: Store) -> dict[str, AccountStatus]:
    """The stored statuses by account."""
    (answer,) = await store.read_many([("HGETALL", store.key(b"inventory"))])
    return {
        account_id.decode(): msgspec.json.decode(packed, type=AccountStatus)
        for account_id, packed in dict(answer).items()
    }


def find_held(statuses: Mapping[str, AccountStatus]) -> dict[str, int]:
    """The accounts whose verdicts stay as of a time: what was last read of them is of then, and reading it fails since."""
    return {account_id: found.read for account_id, found in statuses.items() if found.failed and found.read}


def write_status(store: Store, account_id: str, status: AccountStatus) -> Command:
    return ("HSET", store.key(b"inventory"), account_id, msgspec.json.encode(status))


async def say_catalogue_moved(store: Store, catalogue: Catalogue) -> str:
    """What another catalogue than the one that the store was last written with moves, in words; empty where it is the same one."""
    (version,) = await store.read_many([("HGET", store.key(b"meta"), "catalogue")])
    if not version or version.decode() == catalogue.version:
        return ""
    (packed,) = await store.read_many([("HGET", store.key(b"catalogues"), version)])
    before = zlib.decompress(packed).decode().split("\n") if packed else []
    known = {name.lower() for name in before}
    added = [name for name in catalogue.names if name.lower() not in known] if before else []
    gone = [name for name in before if name.lower() not in catalogue.lower]
    return (
        f"the store was written with catalogue {version.decode()}, this is {catalogue.version}: "
        f"{_name_some('added', added)}, {_name_some('gone', gone)}. Verdicts of these move; added ones are granted to nobody "
        "before the next inventory, and are as old as that"
    )


def _name_some(what: str, names: list[str]) -> str:
    shown = ", ".join(names[:SHOWN_MAX])
    return f"{len(names)} {what}" + (f" ({shown}{', …' if len(names) > SHOWN_MAX else ''})" if names else "")


async def load_logging(store: Store) -> dict[str, Logging]:
    """What accounts were found to log."""
    (answer,) = await store.read_many([("HGETALL", store.key(b"logging"))])
    return {
        account_id.decode(): msgspec.json.decode(packed, type=Logging) for account_id, packed in dict(answer).items()
    }


def write_logging(store: Store, account_id: str, logging: Logging) -> Command:
    return ("HSET", store.key(b"logging"), account_id, msgspec.json.encode(logging))


def write_settled(
    store: Store, catalogue: Catalogue, inventory: dict[int, InventoryPrincipal], settled: Iterable[Settled]
) -> list[Command]:
    """Take changes into `inventory`; returns what to write, nothing where nothing changed."""
    commands: list[Command] = []
    for each in settled:
        removed = [key for key in each.removed if inventory.pop(key, None) is not None]
        commands += (("HDEL", store.shard_key(shard_of(key), b"g"), key.to_bytes(8, "big")) for key in removed)
        for key, found in each.set.items():
            inventory[key] = found
            packed = pack_grants(found, catalogue.version)
            commands.append(("HSET", store.shard_key(shard_of(key), b"g"), key.to_bytes(8, "big"), packed))
    if commands:
        commands.append(("HSET", store.key(b"catalogues"), catalogue.version, pack_names(catalogue)))
    return commands


class AccountsRead(NamedTuple):
    """What is known of accounts: when the inventory of each was taken whole, from a file or from AWS (seconds since 1970), what it
    was found to log, and as of when it is held because it cannot be read."""

    times: dict[str, int]
    logging: dict[str, Logging]
    held: dict[str, int]


async def read_accounts(store: Store) -> AccountsRead:
    """All that the store knows of accounts by reading them."""
    times, statuses = await load_inventory_times(store), await load_statuses(store)
    for account_id, status in statuses.items():
        if status.read:
            times[account_id] = max(status.read, times.get(account_id, 0))
    return AccountsRead(times, await load_logging(store), find_held(statuses))
