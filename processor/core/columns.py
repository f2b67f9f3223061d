"""What is granted to many principals and what they used of it, as arrays with one element a granted action or a use."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from processor.core.catalogue import Catalogue
from processor.core.fleet import Member
from processor.core.gap import Granted

Ids = NDArray[np.intp]
Times = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class GrantColumns:
    """The grants of some members, one behind the other: `actions` by id; `keys`, ascending, are member and action in one number.
    The grants of member N are those between `ends[N]` and `ends[N + 1]`. `begins` is where each service of each member begins,
    `services` its number, and those of member N are between `service_ends[N]` and `service_ends[N + 1]`."""

    actions: Ids
    keys: Ids
    ends: Ids
    begins: Ids
    services: Ids
    service_ends: Ids


@dataclass(frozen=True, slots=True)
class UseColumns:
    """The uses of some members. Of what is granted: whose each is, its place among the grants, the place of its service, and its
    last time; of what is not: whose it is, and its last success."""

    owners: Ids
    places: Ids
    services: Ids
    last: Times
    owners_beside: Ids
    last_beside: Times


def spread_mask(catalogue: Catalogue, mask: int) -> NDArray[np.bool_]:
    """A mask as an array, one element an action."""
    octets = np.frombuffer(mask.to_bytes((catalogue.size + 7) // 8, "little"), np.uint8)
    return np.unpackbits(octets, count=catalogue.size, bitorder="little").view(np.bool_)


def sum_between(numbers: NDArray[np.int64], ends: Ids) -> NDArray[np.int64]:
    """The sums of what lies between each two of `ends`, be it nothing."""
    sums = np.zeros((len(numbers) + 1, *numbers.shape[1:]), np.int64)
    np.cumsum(numbers, axis=0, out=sums[1:])
    return np.diff(sums[ends], axis=0)


def gather_grants(catalogue: Catalogue, held: Sequence[Granted]) -> GrantColumns:
    """The grants of members, in their order."""
    size = (catalogue.size + 7) // 8
    octets = np.frombuffer(b"".join([granted.granted.to_bytes(size, "little") for granted in held]), np.uint8)
    counts = [granted.granted.bit_count() for granted in held]
    # Most octets are empty: only those that are not are unpacked.
    filled = np.flatnonzero(octets.astype(np.bool_))
    kept = np.flatnonzero(np.unpackbits(octets[filled], bitorder="little").view(np.bool_))
    owners = np.repeat(np.arange(len(held)), counts)
    actions = (filled[kept >> 3] - owners * size) * 8 + (kept & 7)
    numbers = catalogue.service_numbers[actions]
    begins = np.flatnonzero(np.diff(owners * len(catalogue.services) + numbers, prepend=-1))
    ends = np.cumsum([0, *counts])
    return GrantColumns(
        actions=actions,
        keys=owners * catalogue.size + actions,
        ends=ends,
        begins=begins,
        services=numbers[begins],
        service_ends=np.searchsorted(begins, ends),
    )


def gather_uses(catalogue: Catalogue, members: Sequence[Member], grants: GrantColumns) -> UseColumns:
    """The uses of those members, whose grants are at hand."""
    used = [(number, member.usage) for number, member in enumerate(members) if member.usage is not None]
    cells = [cell for _, usage in used for cell in usage.cells.values()]
    owners = np.array([number for number, usage in used for _ in usage.cells], np.intp)
    actions = np.array([action for _, usage in used for action in usage.cells], np.intp)
    keys = owners * catalogue.size + actions
    places = np.searchsorted(grants.keys, keys)
    # An action that the catalogue lacks has a number beyond it, which makes another member's key.
    granted = (places < len(grants.keys)) & (actions < catalogue.size)
    granted[granted] = grants.keys[places[granted]] == keys[granted]
    return UseColumns(
        owners=owners[granted],
        places=places[granted],
        services=np.searchsorted(grants.begins, places[granted], side="right") - 1,
        last=np.array([cell.last for cell in cells], np.int64)[granted],
        owners_beside=owners[~granted],
        last_beside=np.array([cell.last_success for cell in cells], np.int64)[~granted],
    )
