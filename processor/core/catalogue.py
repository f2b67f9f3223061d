"""The IAM actions that exist, as integers and bit masks.

An action's id is its place in the catalogue sorted by lower-cased name, so that a wildcard is a bisect on its
literal prefix. A set of actions is a Python int with one bit an action: `granted & ~used` and `.bit_count()` cost
about a microsecond over 22,000 actions. Ids hold for one catalogue version only; what is stored is `stable_hash`.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

RISKS = (
    "privilege_escalation",
    "permissions_management",
    "credentials_exposure",
    "resource_exposure",
    "data_access",
    "destructive",
    "defense_evasion",
)
"""Every class of a dangerous action, in the order in which they are shown."""

OBSERVABILITY = ("management", "seen", "data", "dependent_only", "no_api")
"""What is known of an action's logging; an action in none of these classes is `unknown`."""

STABLE_HASH_BYTES = 5


def stable_hash(name: str) -> bytes:
    """The 5 bytes that stand for an action in a store: no two actions of the catalogue share them (a test)."""
    return hashlib.blake2b(name.lower().encode(), digest_size=STABLE_HASH_BYTES).digest()


@dataclass(frozen=True, slots=True)
class EscalationPath:
    """Actions that together, and only together, let a principal raise its own privileges."""

    id: str
    name: str
    mask: int


@dataclass(frozen=True)
class Catalogue:
    """All actions of one catalogue version.

    `names[i]` is action i's exact name; `ids` and `lower` find i by exact and by lower-cased name. `risk_masks`,
    `observability_masks` and `service_masks` map a class or service prefix to the mask of its actions; `read_mask`
    holds the actions whose access level is Read or List.
    """

    version: str
    names: tuple[str, ...]
    ids: Mapping[str, int]
    lower: Mapping[str, int]
    access_levels: tuple[str, ...]
    service_masks: Mapping[str, int]
    risk_masks: Mapping[str, int]
    observability_masks: Mapping[str, int]
    read_mask: int
    paths: tuple[EscalationPath, ...]

    @property
    def size(self) -> int:
        return len(self.names)

    @cached_property
    def all_mask(self) -> int:
        return (1 << len(self.names)) - 1

    @cached_property
    def hashes(self) -> tuple[bytes, ...]:
        """The stable hash of each action."""
        return tuple(stable_hash(name) for name in self.names)

    @cached_property
    def ids_by_hash(self) -> Mapping[bytes, int]:
        """Actions by stable hash."""
        return {packed: action for action, packed in enumerate(self.hashes)}

    @cached_property
    def services(self) -> tuple[str, ...]:
        """The service prefixes, as their actions lie in the catalogue."""
        return tuple(self.service_masks)

    @cached_property
    def service_numbers(self) -> NDArray[np.intp]:
        """The place in `services` of each action's own. Raises ValueError for a service whose actions lie apart, which takes
        prefixes that differ by nothing but case: AWS has none."""
        sizes = [mask.bit_count() for mask in self.service_masks.values()]
        start = 0
        for (service, mask), size in zip(self.service_masks.items(), sizes, strict=True):
            if mask != ((1 << size) - 1) << start:
                raise ValueError(f"catalogue {self.version}: the actions of service {service} lie apart")
            start += size
        return np.repeat(np.arange(len(sizes)), sizes)

    @cached_property
    def _hash_rows(self) -> NDArray[np.uint8]:
        return np.frombuffer(b"".join(self.hashes), np.uint8).reshape(-1, STABLE_HASH_BYTES)

    def pack_hashes(self, mask: int) -> bytes:
        """The stable hashes of a mask's actions, back to back: 22,000 in some tens of microseconds."""
        octets = np.frombuffer(mask.to_bytes((self.size + 7) // 8, "little"), np.uint8)
        return self._hash_rows[np.flatnonzero(np.unpackbits(octets, bitorder="little"))].tobytes()

    def mask_of(self, names: Iterable[str]) -> int:
        """The mask of those exact names that the catalogue holds; others are left out."""
        return mask_of_ids(self.ids[name] for name in names if name in self.ids)

    def names_in(self, mask: int) -> list[str]:
        """The names in a mask, sorted as the catalogue is."""
        return [self.names[i] for i in ids_in(mask)]

    def escalation_mask(self, granted: int) -> int:
        """Actions that are privilege escalation for one who holds `granted`: alone, or by a path held whole."""
        mask = self.risk_masks[RISKS[0]]
        for path in self.held_paths(granted):
            mask |= path.mask
        return mask

    def held_paths(self, granted: int) -> Iterator[EscalationPath]:
        """The paths that `granted` holds whole."""
        # Most lack a path's first action already: to look at one octet takes a twentieth of the time of an `&` over all.
        octets = granted.to_bytes((self.size + 7) // 8, "little")
        for path, needed in zip(self.paths, self._needed, strict=True):
            for place, bit in needed:
                if not octets[place] & bit:
                    break
            else:
                yield path

    @cached_property
    def _needed(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """The actions of each path as octet and bit."""
        return tuple(tuple((action >> 3, 1 << (action & 7)) for action in ids_in(path.mask)) for path in self.paths)

    def risks_of(self, action: int, escalation: int) -> list[str]:
        """The risk classes of one action, given the principal's `escalation_mask`."""
        bit = 1 << action
        held = [RISKS[0]] if escalation & bit else []
        return held + [risk for risk in RISKS[1:] if self.risk_masks[risk] & bit]


def ids_in(mask: int) -> Iterator[int]:
    """The ids in a mask, ascending: some tens of microseconds and what its bits cost, however they lie."""
    octets = np.frombuffer(mask.to_bytes((mask.bit_length() + 7) // 8, "little"), np.uint8)
    yield from np.flatnonzero(np.unpackbits(octets, bitorder="little")).tolist()


def mask_of_ids(ids: Iterable[int]) -> int:
    """The mask of some ids. Goes by a byte array: setting bits in an int one by one is quadratic."""
    listed = list(ids)
    if not listed:
        return 0
    bits = bytearray(max(listed) // 8 + 1)
    for i in listed:
        bits[i >> 3] |= 1 << (i & 7)
    return int.from_bytes(bits, "little")


def build_catalogue(
    version: str,
    actions: Iterable[tuple[str, str]],
    risks: Mapping[str, Sequence[str]],
    observability: Mapping[str, str],
    paths: Iterable[tuple[str, str, Sequence[str]]],
) -> Catalogue:
    """Index `actions`, pairs of (name, access level such as "Permissions management, Write").

    `risks` maps an action to its classes, `observability` an action to its class, `paths` are (id, name, actions).
    Rows that name no action of this catalogue are left out, and a path that lacks an action is no path.
    """
    listed = list(actions)
    lowered = [name.lower() for name, _ in listed]
    order = sorted(range(len(listed)), key=lowered.__getitem__)
    rows = [listed[at] for at in order]
    names = tuple([name for name, _ in rows])
    ids = {name: i for i, name in enumerate(names)}
    by_service: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        by_service.setdefault(name.partition(":")[0], []).append(i)
    by_risk: dict[str, list[int]] = {risk: [] for risk in RISKS}
    for name, classes in risks.items():
        for risk in classes if name in ids else ():
            by_risk[risk].append(ids[name])
    by_class: dict[str, list[int]] = {known: [] for known in OBSERVABILITY}
    for name, known in observability.items():
        if name in ids:
            by_class[known].append(ids[name])
    return Catalogue(
        version=version,
        names=names,
        ids=ids,
        lower={lowered[at]: i for i, at in enumerate(order)},
        access_levels=tuple([level for _, level in rows]),
        service_masks={service: mask_of_ids(found) for service, found in by_service.items()},
        risk_masks={risk: mask_of_ids(found) for risk, found in by_risk.items()},
        observability_masks={known: mask_of_ids(found) for known, found in by_class.items()},
        read_mask=mask_of_ids(i for i, (_, level) in enumerate(rows) if level in ("Read", "List")),
        paths=tuple(
            EscalationPath(path_id, title, mask_of_ids(ids[name] for name in needed))
            for path_id, title, needed in paths
            if all(name in ids for name in needed)
        ),
    )
