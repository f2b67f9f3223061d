"""The verdicts of many principals at once, as arrays with one element a granted action: what the report is counted of.

`judge` makes masks, and a mask costs what the catalogue holds, each time that it is looked at for a service; an array costs what is
granted. In each window an action is

    used          where its last use is later than the window's start, else
    unobservable  where the log does not show it, else
    too_new       where it is granted, or its principal there, since later than that, else
    unproven      where what the log tells of it begins later than that, or nobody knows when, else
    unused

`judge` is the oracle (a test).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from processor.core.catalogue import RISKS, ids_in
from processor.core.columns import (
    GrantColumns,
    Ids,
    Times,
    UseColumns,
    gather_grants,
    gather_uses,
    spread_mask,
    sum_between,
)
from processor.core.fleet import Fleet, Member
from processor.core.gap import FOREVER, VERDICTS, Granted
from processor.core.weights import RISK_WEIGHTS, share, weigh_each

ACTIONS_AT_ONCE = 50_000
MEMBERS_AT_ONCE = 256
"""What is judged at once: some 5 MB, whatever principals are granted."""

USED, UNUSED, UNPROVEN, TOO_NEW, UNOBSERVABLE = range(len(VERDICTS))


class ServiceCount(NamedTuple):
    """A service of which something is granted: how many actions are, how many of them are used in each window, when one was used
    last (0: never), and each window's verdict as a place in VERDICTS."""

    service: str
    granted: int
    used: tuple[int, ...]
    last_used: int
    verdicts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Judged:
    """A principal with grants. One element a window: how many of its actions have each of VERDICTS, its gap index, and how many
    actions succeeded that are not granted. `codes` has a row for each of `actions`, with places in VERDICTS; `escalating` is
    whether the action escalates the principal's privileges."""

    counts: list[list[int]]
    indexes: list[float]
    not_granted: list[int]
    services: list[ServiceCount]
    actions: Ids
    codes: NDArray[np.uint8]
    escalating: NDArray[np.bool_]


def judge_members(fleet: Fleet, members: Iterable[Member], as_of: int) -> Iterator[tuple[Member, Judged | None]]:
    """Each member with what its grants come to; None without an inventory."""
    bench = _Bench(fleet, as_of)
    held: list[Member] = []
    granted = 0
    for member in members:
        held.append(member)
        granted += 0 if member.granted is None else member.granted.granted.bit_count()
        if granted >= ACTIONS_AT_ONCE or len(held) >= MEMBERS_AT_ONCE:
            yield from bench.judge(held)
            held, granted = [], 0
    yield from bench.judge(held)


Young = list[tuple[int, int, Ids]]
"""Whose grants are younger than some window, since when, and their places"""


class _Bench:
    def __init__(self, fleet: Fleet, as_of: int) -> None:
        self._fleet = fleet
        self._catalogue = fleet.catalogue
        self._as_of = as_of
        self._spans = [window.seconds for window in fleet.windows]
        self._weights = weigh_each(fleet.catalogue)
        self._escalating = spread_mask(fleet.catalogue, fleet.catalogue.risk_masks[RISKS[0]])
        self._path_actions = {path.id: list(ids_in(path.mask)) for path in fleet.catalogue.paths}

    def judge(self, members: Sequence[Member]) -> Iterator[tuple[Member, Judged | None]]:
        """Judge members at once."""
        known = [(member, member.granted) for member in members if member.granted is not None]
        judged = iter(self._judge([member for member, _ in known], [granted for _, granted in known]) if known else ())
        for member in members:
            yield member, None if member.granted is None else next(judged)

    def _judge(self, members: list[Member], held: list[Granted]) -> Iterator[Judged]:
        grants = gather_grants(self._catalogue, held)
        uses = gather_uses(self._catalogue, members, grants)
        as_of = np.array(
            [self._fleet.time_of(member.principal.account_id, self._as_of) for member in members], np.int64
        )
        codes = self._find_codes(members, held, grants, uses, as_of)
        beside = [
            np.bincount(
                uses.owners_beside[uses.last_beside > (as_of - span)[uses.owners_beside]], minlength=len(members)
            )
            for span in self._spans
        ]
        escalating = self._find_escalating(held, grants)
        counts, services = self._count(grants, uses, codes)
        per_member = zip(
            counts,
            zip(*self._find_indexes(grants, codes, escalating), strict=True),
            np.stack(beside, axis=1).tolist(),
            strict=True,
        )
        for number, (counted, indexes, not_granted) in enumerate(per_member):
            first, last = grants.ends[number : number + 2]
            first_service, last_service = grants.service_ends[number : number + 2]
            yield Judged(
                counts=counted,
                indexes=list(indexes),
                not_granted=not_granted,
                services=services[first_service:last_service],
                actions=grants.actions[first:last],
                codes=codes[:, first:last].T,
                escalating=escalating[first:last],
            )

    def _find_codes(
        self, members: list[Member], held: list[Granted], grants: GrantColumns, uses: UseColumns, as_of: Times
    ) -> NDArray[np.uint8]:
        """In each window the verdict of each grant, as a place in VERDICTS."""
        oldest = (as_of - max(self._spans)).tolist()
        unobservable = self._find_unobservable(members, grants)
        born = self._find_young(grants, oldest, [granted.births for granted in held])
        logged = self._find_young(
            grants, oldest, [self._fleet.begins(member.principal.account_id) for member in members]
        )
        created = np.array([granted.created for granted in held], np.int64)
        covered = [self._fleet.covered_since(member.principal) for member in members]
        proven = np.array([FOREVER if since is None else since for since in covered], np.int64)
        codes = np.empty((len(self._spans), len(grants.actions)), np.uint8)
        for code, span in zip(codes, self._spans, strict=True):
            starts = as_of - span
            # From the weakest reason to the strongest: each takes the place of those before it.
            usual = np.where(created > starts, TOO_NEW, np.where(proven > starts, UNPROVEN, UNUSED)).astype(np.uint8)
            code[:] = np.repeat(usual, np.diff(grants.ends))
            for verdict, young in ((UNPROVEN, logged), (TOO_NEW, born)):
                for number, time, places in young:
                    if time > starts[number]:
                        code[places] = np.maximum(code[places], verdict)
            np.maximum(code, unobservable, out=code)
            code[uses.places[uses.last > starts[uses.owners]]] = USED
        return codes

    def _find_unobservable(self, members: list[Member], grants: GrantColumns) -> NDArray[np.uint8]:
        """UNOBSERVABLE for each grant that the log of its account does not show, else 0."""
        accounts = [member.principal.account_id for member in members]
        rows = {account: row for row, account in enumerate(dict.fromkeys(accounts))}
        shown = np.concatenate([spread_mask(self._catalogue, self._fleet.observable(account)) for account in rows])
        begins = np.array([rows[account] * self._catalogue.size for account in accounts])
        places = np.repeat(begins, np.diff(grants.ends)) + grants.actions
        return np.where(shown, 0, UNOBSERVABLE).astype(np.uint8)[places]

    def _find_young(self, grants: GrantColumns, oldest: list[int], known: Sequence[Iterable[tuple[int, int]]]) -> Young:
        """Of (time, actions) for each member those that matter to any window: the others are most."""
        return [
            (number, time, first + np.flatnonzero(spread_mask(self._catalogue, mask)[grants.actions[first:last]]))
            for number, found in enumerate(known)
            for time, mask in found
            if time > oldest[number]
            for first, last in (grants.ends[number : number + 2],)
        ]

    def _find_escalating(self, held: list[Granted], grants: GrantColumns) -> NDArray[np.bool_]:
        """Whether each grant escalates its principal's privileges: alone, or by a path held whole."""
        found: NDArray[np.bool_] = self._escalating[grants.actions]
        size = self._catalogue.size
        needed = [
            number * size + action
            for number, granted in enumerate(held)
            for path in self._catalogue.held_paths(granted.granted)
            for action in self._path_actions[path.id]
        ]
        found[np.searchsorted(grants.keys, np.array(needed, np.intp))] = True
        return found

    def _find_indexes(
        self, grants: GrantColumns, codes: NDArray[np.uint8], escalating: NDArray[np.bool_]
    ) -> Iterator[list[float]]:
        """In each window the gap index of each member."""
        weights = self._weights[grants.actions]
        weights[escalating] += RISK_WEIGHTS[RISKS[0]]
        whole = sum_between(weights, grants.ends)
        for code in codes:
            unused = sum_between(weights * (code == UNUSED), grants.ends)
            observable = whole - sum_between(weights * (code == UNOBSERVABLE), grants.ends)
            yield [share(*pair) for pair in zip(unused.tolist(), observable.tolist(), strict=True)]

    def _count(
        self, grants: GrantColumns, uses: UseColumns, codes: NDArray[np.uint8]
    ) -> tuple[list[list[list[int]]], list[ServiceCount]]:
        """By member and window how many grants have each verdict; and all members' services."""
        kinds, services = len(VERDICTS), len(grants.begins)
        sizes = np.diff(grants.begins, append=len(grants.actions))
        keys = np.repeat(np.arange(services) * kinds, sizes)
        tables = [np.bincount(keys + code, minlength=services * kinds).reshape(services, kinds) for code in codes]
        counts = np.stack([sum_between(table, grants.service_ends) for table in tables], axis=1).tolist()
        last_used = np.zeros(services, np.int64)
        np.maximum.at(last_used, uses.services, uses.last)
        named = self._catalogue.services
        rows = zip(
            [named[number] for number in grants.services.tolist()],
            sizes.tolist(),
            zip(*[table[:, USED].tolist() for table in tables], strict=True),
            last_used.tolist(),
            zip(*[(table > 0).argmax(axis=1).tolist() for table in tables], strict=True),
            strict=True,
        )
        return counts, list(map(ServiceCount._make, rows))
