"""Topic `grants` as an intake reads and writes it: who is known, and what was last written of each."""

from collections.abc import Iterator
from contextlib import suppress

from processor.core.catalogue import Catalogue
from processor.core.inventory import InventoryPrincipal
from processor.core.principals import Principal
from processor.shell.grants import Translator, unpack_grants
from topics import grants
from topics.contract import SHARDS, ContractError

Message = tuple[int, bytes, bytes | None]
"""Shard, key, value: None for a principal that is gone."""


class PublishedGrants:
    """Topic `grants` as it stands: principals by unique id, and what was last written of each. `moved` are the keys that something
    was written of, where somebody has set it to a set."""

    def __init__(self) -> None:
        self.known: dict[str, Principal] = {}
        self.packed: dict[bytes, grants.PrincipalGrants] = {}
        self.catalogues: dict[tuple[int, str], bytes] = {}
        self.moved: set[bytes] | None = None

    def take(self, shard: int, key: bytes, value: bytes | None) -> None:
        """Take in a message; one that cannot be read is left out."""
        version = grants.catalogue_of(key)
        if version is not None:
            if value is not None:
                self.catalogues[shard, version] = value
            return
        if self.moved is not None:
            self.moved.add(key)
        before = self.packed.pop(key, None)
        if before is not None and before.unique_id:
            self.known.pop(before.unique_id, None)
        if value is None:
            return
        with suppress(ContractError):
            found = self.packed[key] = grants.CODEC.decode(value)
            if found.unique_id:
                self.known[found.unique_id] = Principal(found.arn, found.unique_id, found.account_id, found.kind)


def unpack_published(published: PublishedGrants, catalogue: Catalogue) -> dict[int, InventoryPrincipal]:
    """The inventory by principal key, as topic `grants` has it. What another catalogue wrote whose names are not there is left out:
    it is written anew."""
    names = {version: value for (_, version), value in published.catalogues.items() if version != catalogue.version}
    translators = {version: Translator(grants.decode_catalogue(value), catalogue) for version, value in names.items()}
    return {
        int.from_bytes(key, "big"): unpack_grants(found.packed, translators)
        for key, found in published.packed.items()
        if found.catalogue == catalogue.version or found.catalogue in translators
    }


def encode_names(published: PublishedGrants, catalogue: Catalogue) -> Iterator[Message]:
    """The names of a catalogue, for every partition that does not have them."""
    missing = [shard for shard in range(SHARDS) if (shard, catalogue.version) not in published.catalogues]
    if missing:
        names, key = grants.encode_catalogue(catalogue.names), grants.catalogue_key(catalogue.version)
        yield from ((shard, key, names) for shard in missing)


def encode_principal(
    name: bytes, found: InventoryPrincipal, catalogue: Catalogue, packed: bytes, as_of: int
) -> Message:
    """One principal's message."""
    value = grants.PrincipalGrants(
        as_of=as_of, arn=found.arn, unique_id=found.unique_id or None, account_id=found.account_id,
        kind=found.kind,  # type: ignore[arg-type]  # an inventory has roles and users
        catalogue=catalogue.version, packed=packed,
    )  # fmt: skip
    return grants.TOPIC.partition_of(name), name, grants.CODEC.encode(value)
