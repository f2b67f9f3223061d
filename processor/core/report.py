"""The report: what a store holds as of a time, as the JSON that `replay` and `report` print.

`gap_index` is the unused share of the weight of all grants that can be observed, in percent (weights.RISK_WEIGHTS).
"""

from collections.abc import Iterator, Sequence
from typing import Any

from processor.core.catalogue import Catalogue
from processor.core.fleet import Fleet, Member
from processor.core.gap import VERDICTS, Verdicts
from processor.core.judging import Judged, ServiceCount, judge_members
from processor.core.records import format_time
from processor.core.tally import CLASSES, Tally
from processor.core.usage import PrincipalUsage
from processor.core.weights import gap_index

Json = dict[str, Any]


def build_report(fleet: Fleet, tally: Tally, names: Sequence[str], as_of: int, *, with_actions: bool) -> Json:
    """The whole report. `names` are the actions' names by id."""
    return {
        "as_of": format_time(as_of),
        "catalogue": {"version": fleet.catalogue.version, "actions": fleet.catalogue.size},
        "records": {"read": tally.read} | {name: tally.classes[name] for name in CLASSES},
        "rejected": dict(sorted(tally.rejected.items())),
        "unmapped": dict(sorted(tally.unmapped.items())),
        "principals": [
            build_principal(fleet, member, judged, names, as_of, with_actions=with_actions)
            for member, judged in judge_members(fleet, fleet.members(), as_of)
        ],
    }


def build_principal(
    fleet: Fleet, member: Member, judged: Judged | None, names: Sequence[str], as_of: int, *, with_actions: bool
) -> Json:
    """One principal's part of the report."""
    principal = member.principal
    found: Json = {
        "arn": principal.arn,
        "unique_id": principal.unique_id,
        "account_id": principal.account_id,
        "kind": principal.kind,
        "windows": None,
        "services": {},
        "usage": _build_usage(member.usage, names),
    }
    if member.inventory is None or judged is None:
        if with_actions:
            found["grants"] = {}
        return found
    labels = [window.label for window in fleet.windows]
    found["windows"] = {label: _name_counts(judged, row) for row, label in enumerate(labels)}
    found["services"] = _build_services(judged.services, labels)
    if with_actions:
        found["grants"] = _build_grants(fleet.catalogue, member, judged, labels)
    if principal.account_id in fleet.held:
        found["verdicts_as_of"] = format_time(fleet.time_of(principal.account_id, as_of))
    if member.inventory.grants.flags:
        found["flags"] = list(member.inventory.grants.flags)
    return found


def _build_usage(usage: PrincipalUsage | None, names: Sequence[str]) -> Json:
    if usage is None:
        return {}
    return {
        names[action]: {
            "count": cell.count,
            "denied": cell.denied,
            "first_used": _time_or_none(cell.last and cell.first),
            "last_used": _time_or_none(cell.last),
        }
        for action, cell in sorted(usage.cells.items())
    }


def _time_or_none(time: int) -> str | None:
    return format_time(time) if time else None


def build_windows(fleet: Fleet, member: Member, verdicts: Sequence[Verdicts], as_of: int) -> dict[str, Json]:
    """The counts of each window."""
    assert member.granted is not None  # noqa: S101 - callers check
    granted = member.granted.granted
    escalation = fleet.catalogue.escalation_mask(granted)
    windows: dict[str, Json] = {}
    for window, judged in zip(fleet.windows, verdicts, strict=True):
        counts: Json = {"granted": granted.bit_count()}
        counts |= {verdict: getattr(judged, verdict).bit_count() for verdict in _COUNTED}
        counts["used_not_granted"] = count_not_granted(member, as_of - window.seconds)
        counts["gap_index"] = gap_index(fleet.catalogue, judged, granted, escalation)
        windows[window.label] = counts
    return windows


def _name_counts(judged: Judged, row: int) -> Json:
    counts = judged.counts[row]
    return {
        "granted": sum(counts),
        **{verdict: counts[VERDICTS.index(verdict)] for verdict in _COUNTED},
        "used_not_granted": judged.not_granted[row],
        "gap_index": judged.indexes[row],
    }


_COUNTED = ("used", "unused", "unobservable", "too_new", "unproven")


def count_not_granted(member: Member, since: int) -> int:
    """Actions that succeeded after `since` though no policy read here grants them."""
    if member.usage is None or member.granted is None:
        return 0
    granted = member.granted.granted
    return sum(
        1 for action, cell in member.usage.cells.items() if cell.last_success > since and not granted >> action & 1
    )


def _build_services(found: Sequence[ServiceCount], labels: Sequence[str]) -> Json:
    services: Json = {}
    # Most services of a principal have one of a few combinations of verdicts, and no use.
    verdicts: dict[tuple[int, ...], dict[str, str]] = {}
    unused = dict.fromkeys(labels, 0)
    for service, granted, used, last_used, codes in found:
        if codes not in verdicts:
            verdicts[codes] = dict(zip(labels, [VERDICTS[code] for code in codes], strict=True))
        services[service] = {
            "granted": granted,
            "used": dict(zip(labels, used, strict=True)) if any(used) else unused.copy(),
            "last_used": _time_or_none(last_used),
            "verdict": verdicts[codes].copy(),
        }
    return services


def granted_services(catalogue: Catalogue, granted: int) -> Iterator[tuple[str, int]]:
    """The services that a set of actions has actions of, with the part of the set that is theirs."""
    while granted:
        first = (granted & -granted).bit_length() - 1
        service = catalogue.names[first].partition(":")[0]
        part = granted & catalogue.service_masks[service]
        yield service, part
        granted ^= part


def service_verdict(judged: Sequence[tuple[str, int]], mask: int) -> str:
    """The first verdict, of pairs of verdict and mask in VERDICTS' order, that any grant of the service has."""
    for verdict, of_verdict in judged:
        if of_verdict & mask:
            return verdict
    raise ValueError("a service without grants has no verdict")


def _build_grants(catalogue: Catalogue, member: Member, judged: Judged, labels: Sequence[str]) -> Json:
    assert member.granted is not None  # noqa: S101 - callers check
    conditional = member.granted.conditional
    return {
        catalogue.names[action]: {
            "conditional": bool(conditional >> action & 1),
            "risk": catalogue.risks_of(action, escalating << action),
            "verdict": dict(zip(labels, [VERDICTS[code] for code in codes], strict=True)),
        }
        for action, escalating, codes in zip(
            judged.actions.tolist(), judged.escalating.tolist(), judged.codes.tolist(), strict=True
        )
    }
