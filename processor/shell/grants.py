"""The inventory in the store: a principal's grants as masks over the catalogue that they were read with.

Masks hold for one catalogue only. The names of the catalogue that was used are stored once, compressed, so that another
version reads the same grants by name; what it added is not granted until the next inventory is read.
"""

import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import msgspec
from isal import isal_zlib
from msgspec import Struct

from processor.core.catalogue import Catalogue, ids_in, mask_of_ids
from processor.core.inventory import Granting, Grants, InventoryPrincipal
from processor.core.sessions import SHARDS, shard_of
from processor.shell.commands import Command
from processor.shell.redis import Store


class StoredGranting(Struct, array_like=True, gc=False):
    """msgpack of a Granting; the mask little-endian."""

    """A Granting as the store has it, its mask little-endian."""

    policy: str
    policy_arn: str | None
    via_group: str | None
    statement: str
    mask: bytes
    conditional: bool
    resources: tuple[str, ...]
    condition: str = ""  # Stores of before it was kept have none.


class StoredPrincipal(Struct, array_like=True, gc=False):
    """msgpack of an InventoryPrincipal; masks little-endian."""

    catalogue: str
    arn: str
    unique_id: str
    account_id: str
    kind: str
    name: str
    created: int | None
    granted: bytes
    conditional: bytes
    births: tuple[tuple[int, bytes], ...]
    provenance: tuple[StoredGranting, ...]
    flags: tuple[str, ...]
    tags: dict[str, str]
    boundary: str | None
    service_linked: bool


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(StoredPrincipal).decode


def _pack(mask: int) -> bytes:
    return mask.to_bytes((mask.bit_length() + 7) // 8, "little")


def pack_grants(found: InventoryPrincipal, version: str) -> bytes:
    """What the store keeps of a principal of the inventory, its masks over the catalogue of a version. The masks are mostly zeros,
    and make a zlib stream of a thirtieth of their size; ISA-L takes less than half of zlib's time for it."""
    grants = found.grants
    return isal_zlib.compress(
        _encode(
            StoredPrincipal(
                version,
                found.arn,
                found.unique_id,
                found.account_id,
                found.kind,
                found.name,
                found.created,
                _pack(grants.granted),
                _pack(grants.conditional),
                tuple((born, _pack(mask)) for born, mask in grants.births),
                tuple(
                    StoredGranting(
                        each.policy,
                        each.policy_arn,
                        each.via_group,
                        each.statement,
                        _pack(each.mask),
                        each.conditional,
                        tuple(each.resources),
                        each.condition,
                    )
                    for each in grants.provenance
                ),
                grants.flags,
                dict(found.tags),
                found.boundary,
                found.service_linked,
            )
        ),
        1,
    )


class Translator:
    """Masks of another catalogue version, by name, to the installed one's."""

    def __init__(self, names: list[str], catalogue: Catalogue) -> None:
        self._ids = [catalogue.lower.get(name.lower(), -1) for name in names]

    def translate(self, packed: bytes) -> int:
        ids = (self._ids[action] for action in ids_in(int.from_bytes(packed, "little")))
        return mask_of_ids(action for action in ids if action >= 0)


def unpack_grants(packed: bytes, translators: Mapping[str, Translator]) -> InventoryPrincipal:
    """The reverse, its masks translated to the catalogue that is installed now."""
    found = _decode(isal_zlib.decompress(packed))
    translator = translators.get(found.catalogue)

    def read(mask: bytes) -> int:
        return int.from_bytes(mask, "little") if translator is None else translator.translate(mask)

    return InventoryPrincipal(
        arn=found.arn,
        unique_id=found.unique_id,
        account_id=found.account_id,
        kind=found.kind,
        name=found.name,
        created=found.created,
        grants=Grants(
            granted=read(found.granted),
            conditional=read(found.conditional),
            births=tuple((born, read(mask)) for born, mask in found.births),
            provenance=tuple(
                Granting(
                    policy=each.policy,
                    policy_arn=each.policy_arn,
                    via_group=each.via_group,
                    statement=each.statement,
                    mask=read(each.mask),
                    conditional=each.conditional,
                    resources=each.resources,
                    condition=each.condition,
                )
                for each in found.provenance
            ),
            flags=found.flags,
        ),
        tags=found.tags,
        boundary=found.boundary,
        service_linked=found.service_linked,
    )


async def load_inventory_times(store: Store) -> dict[str, int]:
    """When the stored inventory of each account was taken, in seconds since 1970."""
    (answer,) = await store.read_many([("HGETALL", store.key(b"inventories"))])
    return {account.decode(): int(at) for account, at in dict(answer).items()}


def write_inventory_times(store: Store, times: Mapping[str, int]) -> list[Command]:
    """The commands that keep those times."""
    pairs = [part for account, at in sorted(times.items()) for part in (account, str(at))]
    return [("HSET", store.key(b"inventories"), *pairs)] if pairs else []


async def load_grants(
    store: Store, catalogue: Catalogue, shards: Iterable[int] | None = None
) -> dict[int, InventoryPrincipal]:
    """The stored inventory of some shards (None: of all) by principal key."""
    wanted = range(SHARDS) if shards is None else shards
    answers = await store.read_many([("HGETALL", store.shard_key(shard, b"g")) for shard in wanted])
    (versions,) = await store.read_many([("HGETALL", store.key(b"catalogues"))])
    translators = {
        version.decode(): Translator(zlib.decompress(names).decode().split("\n"), catalogue)
        for version, names in dict(versions).items()
        if version.decode() != catalogue.version
    }
    return {
        int.from_bytes(key, "big"): unpack_grants(packed, translators)
        for answer in answers
        for key, packed in dict(answer).items()
    }


def write_grants(
    store: Store,
    catalogue: Catalogue,
    inventory: dict[int, InventoryPrincipal],
    fresh: Mapping[int, InventoryPrincipal],
    as_of: int,
) -> Iterator[Command]:
    """Put `fresh` in place of the stored `inventory`, for the accounts that it tells of; gives what to write, one by one.

    A grant that the stored inventory of its principal did not show dates from `as_of`.
    """
    if not fresh:
        return
    accounts = {found.account_id for found in fresh.values()}
    for key in [key for key, found in inventory.items() if found.account_id in accounts and key not in fresh]:
        del inventory[key]
        yield "HDEL", store.shard_key(shard_of(key), b"g"), key.to_bytes(8, "big")
    for key, found in fresh.items():
        dated = date_grants(found, inventory.get(key), as_of)
        inventory[key] = dated
        packed = pack_grants(dated, catalogue.version)
        yield "HSET", store.shard_key(shard_of(key), b"g"), key.to_bytes(8, "big"), packed
    yield "HSET", store.key(b"catalogues"), catalogue.version, pack_names(catalogue)


def pack_names(catalogue: Catalogue) -> bytes:
    """The names of a catalogue by id, for gapwatches with another one. Kept: it takes some ms, at each change of grants."""
    if catalogue.version not in _packed_names:
        _packed_names.clear()
        _packed_names[catalogue.version] = isal_zlib.compress("\n".join(catalogue.names).encode(), 3)
    return _packed_names[catalogue.version]


_packed_names: dict[str, bytes] = {}


async def write_catalogue(store: Store, catalogue: Catalogue) -> None:
    """Store the names that the grants of shards are over, where they are not."""
    await store.read_many([("HSETNX", store.key(b"catalogues"), catalogue.version, pack_names(catalogue))])


def date_grants(found: InventoryPrincipal, before: InventoryPrincipal | None, as_of: int) -> InventoryPrincipal:
    """Give grants that an earlier inventory did not show their age; keep the ages that were found so before."""
    if before is None:
        return found
    kept = tuple(
        (born, mask & found.grants.granted) for born, mask in before.grants.births if mask & found.grants.granted
    )
    new = found.grants.granted & ~before.grants.granted
    births = tuple(dict.fromkeys((*found.grants.births, *kept, *(((as_of, new),) if new else ()))))
    return replace(found, grants=replace(found.grants, births=births))
