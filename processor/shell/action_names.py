"""The names of actions in a store: what its hashes stand for, also where the catalogue has other actions by now."""

from collections.abc import Mapping

from processor.core.catalogue import Catalogue, stable_hash


class ActionNames:
    """Action ids to stable hashes and names, and back. An action that left the catalogue gets an id behind its end."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.names = list(catalogue.names)
        self.hashes = list(catalogue.hashes)
        self._ids = dict(catalogue.ids_by_hash)
        self.stored: set[int] = set()

    def find(self, packed: bytes) -> int:
        """The id of a stored hash. Raises KeyError for one that neither the catalogue nor the store names."""
        return self._ids[packed]

    def find_name(self, name: str) -> int:
        """The id of a name, a new one where it is nobody's: it is of another catalogue."""
        packed = stable_hash(name)
        action = self._ids.get(packed)
        if action is None:
            action = self._ids[packed] = len(self.names)
            self.names.append(name)
            self.hashes.append(packed)
        return action

    def load(self, stored: Mapping[bytes, bytes], *, mark: bool = True) -> None:
        """Take the names that a store has: all of its actions have one there. Without `mark` they are written once more."""
        for packed, name in stored.items():
            action = self._ids.get(packed)
            if action is None:
                action = self._ids[packed] = len(self.names)
                self.names.append(name.decode())
                self.hashes.append(packed)
            if mark:
                self.stored.add(action)
