"""Topic `grants` as an intake reads it: who is known, and what was last written of each."""

from contextlib import suppress

from processor.core.principals import Principal
from topics import grants
from topics.contract import ContractError


class PublishedGrants:
    """Topic `grants` as it stands: principals by unique id, and what was last written of each."""

    def __init__(self) -> None:
        self.known: dict[str, Principal] = {}
        self.packed: dict[bytes, grants.PrincipalGrants] = {}
        self.catalogues: dict[tuple[int, str], bytes] = {}

    def take(self, shard: int, key: bytes, value: bytes | None) -> None:
        """Take in a message; one that cannot be read is left out."""
        version = grants.catalogue_of(key)
        if version is not None:
            if value is not None:
                self.catalogues[shard, version] = value
            return
        before = self.packed.pop(key, None)
        if before is not None and before.unique_id:
            self.known.pop(before.unique_id, None)
        if value is None:
            return
        with suppress(ContractError):
            found = self.packed[key] = grants.CODEC.decode(value)
            if found.unique_id:
                self.known[found.unique_id] = Principal(found.arn, found.unique_id, found.account_id, found.kind)
