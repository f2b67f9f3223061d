"""All principals' counts at hand, as the page lists them: searched, sorted and cut into pages, in bounded steps.

A row is made when the metrics of its principal are (GapText tells), so that a list costs no verdict.
"""

import heapq
import itertools
from collections.abc import Generator, Iterable, Iterator
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from processor.core.answers import FleetAnswer, Row, WindowCounts
from processor.core.catalogue import RISKS
from processor.core.fleet import Member
from processor.core.gap_counts import GapCounts
from processor.core.records import format_time

STEP_ROWS = 1_000
"""As many as are looked at and sorted in a few milliseconds."""

SIZE_MAX = 200

Sort = Literal["gap", "unused", "risk", "name", "account"]
RiskChoice = Literal[
    "", "any", "privilege_escalation", "permissions_management", "credentials_exposure", "resource_exposure",
    "data_access", "destructive", "defense_evasion",
]  # fmt: skip


class FleetQuery(Struct, frozen=True, kw_only=True):
    """What of the fleet is asked for."""

    q: Annotated[str, Meta(max_length=256, description="A part of the ARN or unique id, in any case.")] = ""
    account: Annotated[str, Meta(max_length=64, description="An account's id.")] = ""
    risk: Annotated[
        RiskChoice, Meta(description="Only principals with unused grants of this risk class, or of any.")
    ] = ""
    window: Annotated[
        str, Meta(max_length=8, description="A window's label. Default: the longest in which anything is unused.")
    ] = ""
    sort: Annotated[Sort, Meta(description="`gap`: by gap index; `risk`: by unused grants that have a risk class.")] = (
        "gap"
    )
    page: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    size: Annotated[int, Meta(ge=1, le=SIZE_MAX)] = 50


class Board:
    """The rows of one hold of a store. `windows` are labels, the shortest window first."""

    def __init__(self, windows: Iterable[str]) -> None:
        self.windows = tuple(windows)
        self._rows: dict[int, tuple[Row, str]] = {}
        self._unused = dict.fromkeys(self.windows, 0)
        self._arns: dict[str, set[int]] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def note(self, key: int, member: Member, counts: Iterable[GapCounts]) -> None:
        """Take a principal's counts as they now are."""
        self.put(key, build_row(key, member, counts))

    def put(self, key: int, row: Row) -> None:
        """Take a principal's row."""
        self.forget(key)
        self._count(row, 1)
        self._rows[key] = row, f"{row.arn} {row.unique_id or ''}".lower()
        self._arns.setdefault(row.arn, set()).add(key)

    def forget(self, key: int) -> None:
        """Drop a principal that is gone; nothing where it has no row."""
        row, _ = self._rows.pop(key, (None, ""))
        if row is None:
            return
        self._count(row, -1)
        keys = self._arns[row.arn]
        keys.discard(key)
        if not keys:
            del self._arns[row.arn]

    def _count(self, row: Row, sign: int) -> None:
        for counted in row.windows:
            self._unused[counted.window] += sign * counted.unused

    def keys_of(self, arn: str) -> list[int]:
        """The keys of an ARN: a recreated role is another principal with the same one."""
        return sorted(self._arns.get(arn, ()))

    def default_window(self) -> str:
        """The longest window in which anything is unused: in longer ones the log may not reach back far enough to tell."""
        return next((window for window in reversed(self.windows) if self._unused[window]), self.windows[-1])

    def find(self, query: FleetQuery, as_of: int) -> Generator[None, None, FleetAnswer]:
        """The page of rows that is asked for. Yields between steps. Raises KeyError for a window that is none."""
        window = query.window or self.default_window()
        if window not in self.windows:
            raise KeyError(window)
        place = self.windows.index(window)
        runs: list[list[tuple[Any, Row]]] = []
        rows = list(self._rows.values())
        for at in range(0, len(rows), STEP_ROWS):
            run = [(_rank(row, place, query.sort), row) for row in _sift(rows[at : at + STEP_ROWS], query, place)]
            run.sort(key=_first)
            runs.append(run)
            yield
        matched = sum(map(len, runs))
        pages = max(1, -(-matched // query.size))
        page = min(query.page, pages)
        merged = heapq.merge(*runs, key=_first)
        for _ in range((page - 1) * query.size // STEP_ROWS):
            next(itertools.islice(merged, STEP_ROWS - 1, None), None)
            yield
        skip = (page - 1) * query.size % STEP_ROWS
        return FleetAnswer(
            as_of=format_time(as_of),
            window=window,
            sort=query.sort,
            total=len(rows),
            matched=matched,
            page=page,
            pages=pages,
            principals=tuple(row for _, row in itertools.islice(merged, skip, skip + query.size)),
        )


def build_row(key: int, member: Member, counts: Iterable[GapCounts]) -> Row:
    """A principal's row of its counts by window."""
    principal = member.principal
    return Row(
        key=f"{key:016x}",
        arn=principal.arn,
        unique_id=principal.unique_id,
        account_id=principal.account_id,
        kind=principal.kind,
        windows=tuple(
            WindowCounts(
                window=found.window,
                granted=sum(found.verdicts.values()),
                used_not_granted=found.not_granted,
                gap_index=found.index,
                risks=found.risks,
                **found.verdicts,
            )
            for found in counts
        ),
        path=f"/principals/{key:016x}",
    )


def _sift(rows: Iterable[tuple[Row, str]], query: FleetQuery, place: int) -> Iterator[Row]:
    text, account, risk = query.q.strip().lower(), query.account, query.risk
    for row, searched in rows:
        if text not in searched or (account and row.account_id != account):
            continue
        if risk:
            risks = row.windows[place].risks if row.windows else {}
            if not risks or (risk in RISKS and risk not in risks):
                continue
        yield row


def _rank(row: Row, place: int, sort: Sort) -> Any:
    """What rows are sorted by; those without an inventory come last."""
    counts = row.windows[place] if row.windows else None
    rest = row.arn, row.key
    if sort == "name":
        return row.name.lower(), *rest
    if sort == "account":
        return row.account_id, *rest
    if counts is None:
        return 1, 0, 0, *rest
    if sort == "unused":
        return 0, -counts.unused, -counts.gap_index, *rest
    if sort == "risk":
        return 0, -sum(counts.risks.values()), -counts.gap_index, *rest
    return 0, -counts.gap_index, -counts.unused, *rest


def _first(pair: tuple[Any, Row]) -> Any:
    return pair[0]
