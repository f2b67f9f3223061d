"""Counts and times of one principal's uses: what a shard keeps and a store holds.

A cell is one (principal, action) pair. Its count of the newest day that it was used on stands in the cell; the counts
of earlier days are day buckets (UTC), and one that is over is never changed but by a late use.
"""

from dataclasses import dataclass, field
from typing import Any

from msgspec import Struct

from processor.core.facets import FACET_CHARS_MAX, Facets, unpack_facets
from processor.core.principals import Principal
from processor.core.records import DAY_SECONDS

NEVER = 0
"""Before every use."""

NOT_YET = 2**32 - 1
"""After every use: what `first` is before the first one, so that the hot loop need not ask."""


class Cell(Struct, eq=False, gc=False):
    """One pair's usage. Times in seconds since 1970; `..._success` are of uses that the service carried out.

    While all calls were denied `last` is NEVER and `first` NOT_YET. `day_count` are the uses of last's day.
    `facets` are those that are stored, packed; None where only the store may have some, as after a start. `fresh` are those that
    came since, as `unpack_facets` has them.
    `index`: its row in the ledger's numbers, -1 before its first use there; the ledger puts them into the cell when it settles.
    """

    action: int
    index: int = -1
    count: int = 0
    denied: int = 0
    first: int = NOT_YET
    last: int = NEVER
    first_success: int = NOT_YET
    last_success: int = NEVER
    day_count: int = 0
    facets: bytes | None = b""
    fresh: list[Any] | tuple[()] = ()
    dirty: bool = False

    @property
    def day(self) -> int:
        """The newest day of a use, since 1970."""
        return day_of(self.last)

    def read_facets(self) -> Facets:
        """The facets that are at hand."""
        return unpack_facets(self.facets or b"", self.fresh)

    def note_facet(self, facet: int, value: str) -> None:
        """Keep one more value of a facet, or mark that there were more."""
        if not self.fresh:
            self.fresh = []
        self.fresh += (facet, value[:FACET_CHARS_MAX])


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
