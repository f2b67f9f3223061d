"""What an intake hands to a ledger."""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from processor.core.compiled import Numbers, Words
from processor.core.resolve_loop import NO_CALL
from processor.core.sessions import Calls, Place, Sessions


def _no_rows() -> Numbers:
    return np.zeros(0, np.int64)


class Texts(Protocol):
    """Has the texts of a batch's ARNs."""

    def read_arns(self, places: Numbers) -> list[str]: ...


@dataclass(frozen=True, slots=True, eq=False)
class Uses:
    """The uses of one batch, a column each: `call`, `session` and `place` are indexes of the lists; `event` is a hash of the
    event's id for its principal, its top 6 bits the shard; `arns_from` to `arns_to` are indexes of `arn_hashes`, whose texts
    `batch` has. `row` is a use's place among the records of its batch.

    The lists only grow; another list means that what was known of the old one's numbers is void.
    """

    calls: Calls
    sessions: Sessions
    places: list[Place]
    call: Numbers
    session: Numbers
    place: Numbers
    time: Numbers
    event: Words
    arns_from: Numbers
    arns_to: Numbers
    arn_hashes: Words
    batch: Texts | None
    row: Numbers = field(default_factory=_no_rows)


class Columns:
    """What is found out of a batch's rows; a call of NO_CALL is that of a record that ended before the uses."""

    __slots__ = ("calls", "events", "places", "sessions", "times")

    def __init__(self, rows: int) -> None:
        self.calls: Numbers = np.full(rows, NO_CALL, np.int64)
        self.sessions: Numbers = np.zeros(rows, np.int64)
        self.places: Numbers = np.zeros(rows, np.int64)
        self.times: Numbers = np.zeros(rows, np.int64)
        self.events: Words = np.zeros(rows, np.uint64)
