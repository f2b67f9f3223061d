"""Counts and times of one principal's uses: what a shard keeps and a store holds.

A cell is one (principal, action) pair. Its count of the newest day that it was used on stands in the cell; the counts
of earlier days are day buckets (UTC), and one that is over is never changed but by a late use.
"""

from dataclasses import dataclass, field

from processor.core.principals import Principal
from processor.core.records import DAY_SECONDS

NEVER = 0
"""Before every use."""

NOT_YET = 2**32 - 1
"""After every use: what `first` is before the first one, so that the hot loop need not ask."""

FACETS_MAX = 16
"""Operators, regions, resources and services that are kept of a cell, each; what is more only sets a mark."""

FACET_CHARS_MAX = 512


class Cell:
    """One pair's usage. Times in seconds since 1970; `..._success` are of uses that the service carried out.

    While all calls were denied `last` is NEVER and `first` NOT_YET. `day` is last's day and `day_count` its uses.
    `loaded`: the cell came from a store. `away`: the store holds facets of it that memory does not, as after a start.
    `index`: its row in the ledger's numbers, -1 before its first use there; the ledger puts them into the cell when it settles.
    """

    __slots__ = (
        "action",
        "away",
        "count",
        "day",
        "day_count",
        "denied",
        "dirty",
        "facets_dirty",
        "first",
        "first_success",
        "index",
        "last",
        "last_success",
        "loaded",
        "operators",
        "overflow",
        "regions",
        "resources",
        "vias",
    )

    def __init__(self, action: int) -> None:
        self.action = action
        self.index = -1
        self.count = 0
        self.denied = 0
        self.first = NOT_YET
        self.last = NEVER
        self.first_success = NOT_YET
        self.last_success = NEVER
        self.day = 0
        self.day_count = 0
        self.operators: tuple[str, ...] = ()
        self.regions: tuple[str, ...] = ()
        self.resources: tuple[str, ...] = ()
        self.vias: tuple[str, ...] = ()
        self.overflow = 0
        self.dirty = False
        self.facets_dirty = False
        self.loaded = False
        self.away = False

    @property
    def facets_count(self) -> int:
        """How many values of facets are at hand."""
        return len(self.operators) + len(self.regions) + len(self.resources) + len(self.vias)

    def forget_facets(self) -> None:
        """Leave the values of the facets to the store, which has all of them; the marks that there were more stay."""
        self.operators = self.regions = self.resources = self.vias = ()
        self.away = True

    def note_operator(self, operator: str) -> None:
        """`note_facet` of the facet that has the most values."""
        kept = self.operators
        if len(kept) < FACETS_MAX and len(operator) <= FACET_CHARS_MAX:
            if operator not in kept:
                self.operators = (*kept, operator)
                self.facets_dirty = True
        else:
            self.note_facet(OPERATOR, operator)

    def note_facet(self, facet: int, value: str) -> None:
        """Keep one more value of a facet (an index of FACETS), or mark that there were more."""
        name = FACETS[facet]
        kept: tuple[str, ...] = getattr(self, name)
        value = value[:FACET_CHARS_MAX]
        if value in kept or self.overflow >> facet & 1:
            return
        if len(kept) >= FACETS_MAX:
            self.overflow |= 1 << facet
        else:
            setattr(self, name, (*kept, value))
        self.facets_dirty = True


FACETS = ("operators", "regions", "resources", "vias")
OPERATOR, REGION, RESOURCE, VIA = range(4)


@dataclass(slots=True, eq=False)
class PrincipalUsage:
    """All cells of one principal, by action id.

    `number` is its place among its ledger's. `fresh` are cells of calls that were met, but of which nothing is counted yet.
    """

    principal: Principal
    key: bytes
    shard: int
    cells: dict[int, Cell]
    dirty: list[int]
    number: int
    stored: bool = False
    fresh: dict[int, Cell] = field(default_factory=dict)


def day_of(time: int) -> int:
    """Days since 1970, UTC."""
    return time // DAY_SECONDS
