"""One principal as its page shows it: counts by window and service, actions with their evidence, what cannot be told and why."""

from collections.abc import Generator, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from processor.core.answers import (
    ActionRow,
    ActionsAnswer,
    Day,
    PrincipalAnswer,
    ServiceRow,
    Unobservable,
    WindowCounts,
)
from processor.core.board import SIZE_MAX, RiskChoice
from processor.core.catalogue import ids_in, mask_of_ids
from processor.core.explain import UNOBSERVABLE_WHY, build_action
from processor.core.fleet import Fleet, Member
from processor.core.gap import VERDICTS, Verdicts
from processor.core.recommend import split_unobservable
from processor.core.records import DAY_SECONDS, format_time
from processor.core.report import build_windows, granted_services, service_verdict
from processor.core.sessions import key_of
from processor.core.usage import Cell, day_of
from processor.core.weights import count_risks

SERVICES_TOLD = 10
NOT_GRANTED_MAX = 200

STEP_ACTIONS = 10
"""Some milliseconds' worth."""


class ActionsQuery(Struct, frozen=True, kw_only=True):
    """Which of a principal's actions are asked for."""

    q: Annotated[str, Meta(max_length=256, description="A part of the action's name, in any case.")] = ""
    action: Annotated[str, Meta(max_length=256, description="One action, whole, in any case.")] = ""
    service: Annotated[str, Meta(max_length=64, description="A service prefix.")] = ""
    verdict: Annotated[
        Literal["", "used", "unused", "unobservable", "too_new", "unproven", "not_granted"],
        Meta(description="In the window."),
    ] = ""
    risk: Annotated[RiskChoice, Meta(description="Only actions of this risk class, or of any.")] = ""
    window: Annotated[
        str, Meta(max_length=8, description="A window's label. Default: the longest in which anything is unused.")
    ] = ""
    show: Annotated[
        Literal["", "all"],
        Meta(description="Where nothing else is asked for: used, refused and risky actions, or all."),
    ] = ""
    page: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    size: Annotated[int, Meta(ge=1, le=SIZE_MAX)] = 50


class PolicyQuery(Struct, frozen=True, kw_only=True):
    """Which policy is asked for."""

    window: Annotated[
        str, Meta(max_length=8, description="What was used in this window is needed. Default: the longest one.")
    ] = ""


class Profile:
    """A member of the fleet as of a time. `names` are the actions' names by id, those too that left the catalogue."""

    def __init__(self, fleet: Fleet, member: Member, names: Sequence[str], as_of: int) -> None:
        self.fleet = fleet
        self.member = member
        self.names = names
        self.as_of = as_of = fleet.time_of(member.principal.account_id, as_of)
        self.verdicts: list[Verdicts] = (
            [] if member.granted is None else fleet.verdicts_of(member, fleet.gap_of(member, as_of), as_of)
        )

    @property
    def granted(self) -> int:
        return 0 if self.member.granted is None else self.member.granted.granted

    @property
    def cells(self) -> Mapping[int, Cell]:
        return {} if self.member.usage is None else self.member.usage.cells

    @property
    def labels(self) -> list[str]:
        return [window.label for window in self.fleet.windows]

    def build_summary(self) -> PrincipalAnswer:
        """All but the actions."""
        member, principal = self.member, self.member.principal
        inventory = member.inventory
        covered = self.fleet.covered_since(principal)
        return PrincipalAnswer(
            key=f"{key_of(principal):016x}",
            arn=principal.arn,
            unique_id=principal.unique_id,
            account_id=principal.account_id,
            kind=principal.kind,
            created=format_time(inventory.created) if inventory is not None and inventory.created else None,
            boundary=None if inventory is None else inventory.boundary,
            tags={} if inventory is None else dict(sorted(inventory.tags.items())),
            flags=() if inventory is None else inventory.grants.flags,
            as_of=format_time(self.as_of),
            covered_since=None if covered is None else format_time(covered),
            windows=self.count_windows(),
            services=tuple(self.list_services()),
            unobservable=self.list_unobservable(),
            not_granted=self.list_not_granted(),
        )

    def count_windows(self) -> tuple[WindowCounts, ...]:
        """The counts of each window; none without an inventory."""
        if self.member.granted is None:
            return ()
        escalation = self.fleet.catalogue.escalation_mask(self.granted)
        counted = build_windows(self.fleet, self.member, self.verdicts, self.as_of)
        return tuple(
            WindowCounts(window=label, risks=count_risks(self.fleet.catalogue, judged.unused, escalation), **counts)
            for judged, (label, counts) in zip(self.verdicts, counted.items(), strict=True)
        )

    def list_services(self) -> Iterable[ServiceRow]:
        """The services that something is granted of, by name."""
        last_used: dict[str, int] = {}
        for action, cell in self.cells.items():
            if self.granted >> action & 1:
                service = self.names[action].partition(":")[0]
                last_used[service] = max(last_used.get(service, 0), cell.last)
        judged = [
            (label, each, [(verdict, mask) for verdict in VERDICTS if (mask := getattr(each, verdict))])
            for label, each in zip(self.labels, self.verdicts, strict=False)
        ]
        for service, mask in granted_services(self.fleet.catalogue, self.granted):
            used = last_used.get(service, 0)
            yield ServiceRow(
                service=service,
                granted=mask.bit_count(),
                used={label: (each.used & mask).bit_count() for label, each, _ in judged},
                unused={label: (each.unused & mask).bit_count() for label, each, _ in judged},
                verdict={label: service_verdict(pairs, mask) for label, _, pairs in judged},  # type: ignore[misc]  # of VERDICTS
                last_used=format_time(used) if used else None,
            )

    def list_unobservable(self) -> tuple[Unobservable, ...]:
        """What the log would not show, by reason; the same in every window but for what was used before."""
        if not self.verdicts:
            return ()
        catalogue = self.fleet.catalogue
        logging = self.fleet.logging_of(self.member.principal.account_id)
        found = []
        for reason, mask in split_unobservable(catalogue, logging, self.verdicts[-1].unobservable):
            counts = {service: part.bit_count() for service, part in granted_services(catalogue, mask)}
            most = sorted(counts, key=lambda service: (-counts[service], service))[:SERVICES_TOLD]
            found.append(
                Unobservable(
                    reason=reason,
                    says=UNOBSERVABLE_WHY[reason],
                    count=mask.bit_count(),
                    services={service: counts[service] for service in most},
                )
            )
        return tuple(found)

    def list_not_granted(self) -> tuple[str, ...]:
        """Actions that succeeded in the longest window though no policy that was read grants them, by name; none without an
        inventory, as nothing is known then."""
        if self.member.granted is None:
            return ()
        since = self.as_of - self.fleet.windows[-1].seconds
        found = [
            action
            for action, cell in self.cells.items()
            if cell.last_success > since and not self.granted >> action & 1
        ]
        return tuple(sorted((self.names[action] for action in found), key=str.lower)[:NOT_GRANTED_MAX])

    def place_window(self, label: str) -> int:
        """The place of a window among all; by default that of the longest in which anything is unused, else of the longest.
        Raises KeyError for one that is none."""
        if label:
            if label not in self.labels:
                raise KeyError(label)
            return self.labels.index(label)
        unused = [at for at, judged in enumerate(self.verdicts) if judged.unused]
        return unused[-1] if unused else len(self.labels) - 1

    def choose_actions(self, query: ActionsQuery) -> list[int]:
        """The actions that are asked for: unused ways to escalate first, then other unused risks, then the rest.
        Raises KeyError for a window that is none."""
        catalogue = self.fleet.catalogue
        place = self.place_window(query.window)
        seen = mask_of_ids(self.cells)
        risky = risk_mask(self.fleet, self.granted, "any")
        wanted = self.granted | seen
        if query.verdict == "not_granted":
            wanted &= ~self.granted
        elif query.verdict:
            wanted &= getattr(self.verdicts[place], query.verdict) if self.verdicts else 0
        if query.risk:
            wanted &= risk_mask(self.fleet, self.granted, query.risk)
        if query.service and query.service in catalogue.service_masks:
            wanted &= catalogue.service_masks[query.service]
        elif query.service:
            wanted &= mask_of_ids(a for a in self.cells if self.names[a].startswith(f"{query.service}:"))
        if not (query.show or query.q or query.action or query.service or query.verdict or query.risk):
            wanted &= seen | risky
        text, whole = query.q.strip().lower(), query.action.strip().lower()
        unused = self.verdicts[place].unused & wanted if self.verdicts else 0
        parts = [unused & catalogue.escalation_mask(self.granted), unused & risky, wanted]
        return [
            action
            for at, part in enumerate(parts)
            for action in ids_in(part & ~(parts[at - 1] if at else 0))
            if (not text or text in self.names[action].lower()) and (not whole or whole == self.names[action].lower())
        ]

    def build_actions(
        self, query: ActionsQuery, chosen: Sequence[int], *, whole: bool
    ) -> Generator[None, None, ActionsAnswer]:
        """The page of `chosen` actions that is asked for; their cells should have their facets (`whole`: they do). Yields between
        steps."""
        shown, page, pages = cut_page(chosen, query.page, query.size)
        rows = []
        for at, action in enumerate(shown, 1):
            rows.append(self.build_action(action))
            if at % STEP_ACTIONS == 0:
                yield
        return ActionsAnswer(
            as_of=format_time(self.as_of),
            window=self.labels[self.place_window(query.window)],
            matched=len(chosen),
            page=page,
            pages=pages,
            whole=whole,
            actions=tuple(rows),
        )

    def build_action(self, action: int) -> ActionRow:
        built = build_action(self.fleet, self.member, self.verdicts, self.names, action, self.as_of)
        return msgspec.convert(built, ActionRow)


def cut_page(listed: Sequence[int], page: int, size: int) -> tuple[Sequence[int], int, int]:
    """A page's elements, its number (the last one for one behind the end) and how many pages there are."""
    pages = max(1, -(-len(listed) // size))
    page = min(page, pages)
    return listed[(page - 1) * size : page * size], page, pages


def risk_mask(fleet: Fleet, granted: int, risk: str) -> int:
    """The actions that have a risk class (`any`: one of them) for one who is granted these."""
    escalation = fleet.catalogue.escalation_mask(granted)
    if risk == "privilege_escalation":
        return escalation
    if risk != "any":
        return fleet.catalogue.risk_masks[risk]
    for mask in fleet.catalogue.risk_masks.values():
        escalation |= mask
    return escalation


def build_days(counts: Mapping[int, Mapping[int, int]], as_of: int, days: int) -> tuple[Day, ...]:
    """The last days up to a time, of counts by day and action."""
    last = day_of(as_of)
    found = []
    for day in range(last - days + 1, last + 1):
        uses = [count for count in counts.get(day, {}).values() if count]
        date = datetime.fromtimestamp(day * DAY_SECONDS, UTC).strftime("%Y-%m-%d")
        found.append(Day(date, sum(uses), len(uses)))
    return tuple(found)
