"""A principal's gap -> what the metrics say of it."""

from dataclasses import dataclass

from processor.core.fleet import Fleet, Member
from processor.core.gap import PrincipalGap
from processor.core.report import count_not_granted, granted_services
from processor.core.watch import Watching
from processor.core.weights import count_risks, gap_index

_VERDICTS = ("used", "unused", "unobservable", "too_new", "unproven")


@dataclass(frozen=True, slots=True)
class GapCounts:
    """What the metrics say of one principal and window. `services` counts unused grants by service; `exempt` counts those
    of `risks` that somebody has answered for."""

    window: str
    verdicts: dict[str, int]
    risks: dict[str, int]
    exempt: dict[str, int]
    index: float
    services: dict[str, int]
    not_granted: int


def count_gap(fleet: Fleet, member: Member, gap: PrincipalGap, as_of: int, watching: Watching) -> list[GapCounts]:
    """What is to be told at a time, one element a window; nothing for a member without an inventory."""
    if member.granted is None:
        return []
    granted, catalogue = member.granted.granted, fleet.catalogue
    escalation = catalogue.escalation_mask(granted)
    exempt = watching.exemptions.exempt_mask(catalogue, member.principal.arn, "unused", as_of)
    time_of = fleet.time_of(member.principal.account_id, as_of)
    return [
        GapCounts(
            window.label,
            {name: getattr(judged, name).bit_count() for name in _VERDICTS},
            count_risks(catalogue, judged.unused, escalation),
            count_risks(catalogue, judged.unused & exempt, escalation) if exempt else {},
            gap_index(catalogue, judged, granted, escalation),
            {service: mask.bit_count() for service, mask in granted_services(catalogue, judged.unused)},
            count_not_granted(member, time_of - window.seconds),
        )
        for window, judged in zip(fleet.windows, fleet.verdicts_of(member, gap, as_of), strict=True)
    ]
