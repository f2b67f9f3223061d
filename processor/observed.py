"""Which actions were used in which account, known to all ledgers: what the log has shown once, it shows for everybody there.

P:observed    set    account, a space, an action's stable hash
"""

from collections.abc import Iterable

from processor.core.catalogue import Catalogue, ids_in, mask_of_ids
from processor.core.tracker import Tracker
from processor.shell.commands import Command
from processor.shell.redis import Store


class Observed:
    """One ledger's view of the set; `masks` are the actions by account, which new shards begin with."""

    def __init__(self, store: Store, catalogue: Catalogue, masks: dict[str, int]) -> None:
        self._store = store
        self._catalogue = catalogue
        self._masks = masks
        self._key = store.key(b"observed")

    async def share(self, trackers: Iterable[Tracker], *, look: bool) -> None:
        """Tell what some trackers have found, and let them know what others have. `look`: see whether the store still has all that
        was told, as a Redis that came back older has not."""
        listed = list(trackers)
        found = 0
        for tracker in listed:
            for account_id, seen in tracker.found_observable:
                self._masks[account_id] = self._masks.get(account_id, 0) | seen
                found += 1
            tracker.found_observable.clear()
        if not found and not look:
            return
        (members,) = await self._store.read_many([("SMEMBERS", self._key)])
        stored = self._read(members)
        missing: list[Command] = [
            ("SADD", self._key, account_id.encode() + b" " + self._catalogue.hashes[action])
            for account_id, seen in self._masks.items()
            for action in ids_in(seen & ~stored.get(account_id, 0))
        ]
        await self._store.read_many(missing)
        for account_id, seen in stored.items():
            self._masks[account_id] = self._masks.get(account_id, 0) | seen
        for tracker in listed:
            for account_id, seen in self._masks.items():
                tracker.note_seen(account_id, seen)

    def _read(self, members: Iterable[bytes]) -> dict[str, int]:
        by_account: dict[str, list[int]] = {}
        for member in members:
            account, _, hashed = member.partition(b" ")
            action = self._catalogue.ids_by_hash.get(hashed)
            if action is not None:
                by_account.setdefault(account.decode(errors="replace"), []).append(action)
        return {account_id: mask_of_ids(actions) for account_id, actions in by_account.items()}
