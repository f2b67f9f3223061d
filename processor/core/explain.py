"""The evidence for a verdict: what is granted by which statement, what was used, and what of the log is known."""

from collections.abc import Iterator, Sequence
from typing import Any

from processor.core.catalogue import ids_in
from processor.core.facets import NAMES
from processor.core.fleet import Fleet, Member
from processor.core.gap import VERDICTS, Verdicts, why_unobservable
from processor.core.inventory import InventoryPrincipal
from processor.core.records import format_time
from processor.core.report import Json, build_windows
from processor.core.usage import Cell

UNOBSERVABLE_WHY = {
    "data_events_off": "it is a data event, and data events of this service are not said to be logged (--data-events)",
    "read_only_off": "read-only calls are said not to be in the log (--no-read-only)",
    "writes_off": "calls that change something are not in the log",
    "excluded": "the trails leave out this service's events",
    "regions_off": "not all regions that may be used are logged",
    "no_api": "no API call uses it: it is a permission for a console or for other calls only",
    "dependent_only": "it is used only inside of another call, which the log shows instead",
    "unknown": "it is not known whether CloudTrail logs it, and this account has never shown it",
}


class UnknownActionError(ValueError):
    """An action that neither the catalogue nor the principal's usage has."""


def find_members(fleet: Fleet, wanted: str) -> list[Member]:
    """The principals with this ARN, unique id or name; a recreated role is two principals with one ARN."""
    return [
        member
        for member in fleet.members()
        if wanted in (member.principal.arn, member.principal.unique_id, member.principal.arn.rpartition("/")[2])
    ]


def build_explanation(fleet: Fleet, member: Member, names: Sequence[str], action: str | None, as_of: int) -> Json:
    """The evidence for all verdicts of a principal, or for one action's (any case)."""
    account = member.principal.account_id
    # The verdicts of an account whose inventory cannot be read are of an earlier time.
    as_of = fleet.time_of(account, as_of)
    covered = fleet.covered_since(member.principal)
    verdicts = [] if member.granted is None else fleet.verdicts_of(member, fleet.gap_of(member, as_of), as_of)
    found: Json = {
        "arn": member.principal.arn,
        "unique_id": member.principal.unique_id,
        "account_id": account,
        "kind": member.principal.kind,
        "as_of": format_time(as_of),
        "covered_since": None if covered is None else format_time(covered),
        "created": _time(None if member.inventory is None else member.inventory.created),
        "flags": [] if member.inventory is None else list(member.inventory.grants.flags),
        "windows": None if member.granted is None else build_windows(fleet, member, verdicts, as_of),
    }
    if action is None:
        found["actions"] = [
            build_action(fleet, member, verdicts, names, each, as_of) for each in _mentioned(fleet, member, names)
        ]
    else:
        found["actions"] = [build_action(fleet, member, verdicts, names, _find_action(names, action), as_of)]
    return found


def _time(seconds: int | None) -> str | None:
    return format_time(seconds) if seconds else None


def _find_action(names: Sequence[str], wanted: str) -> int:
    for action, name in enumerate(names):
        if name.lower() == wanted.lower():
            return action
    raise UnknownActionError(
        f"{wanted!r} is no IAM action of the catalogue: write it as service:Name, such as s3:GetObject"
    )


def _mentioned(fleet: Fleet, member: Member, names: Sequence[str]) -> list[int]:
    """What was used or denied, and granted actions with a risk class: what a person asks about first."""
    shown = set() if member.usage is None else set(member.usage.cells)
    if member.granted is not None:
        risky = fleet.catalogue.escalation_mask(member.granted.granted)
        for mask in fleet.catalogue.risk_masks.values():
            risky |= mask
        shown.update(ids_in(member.granted.granted & risky))
    return sorted(shown, key=lambda action: names[action].lower())


def build_action(
    fleet: Fleet, member: Member, verdicts: Sequence[Verdicts], names: Sequence[str], action: int, as_of: int
) -> Json:
    """One action of one principal: verdict by window, usage, grants, and the verdicts' reasons in words."""
    cell = None if member.usage is None else member.usage.cells.get(action)
    granted = member.granted is not None and bool(member.granted.granted >> action & 1)
    catalogue = fleet.catalogue
    found: Json = {
        "action": names[action],
        "granted": granted,
        "conditional": bool(member.granted and member.granted.conditional >> action & 1),
        "risk": [],
        "verdict": {},
        "because": {},
        "usage": None if cell is None else build_usage(cell),
        "granted_by": [],
    }
    if granted and member.granted is not None and member.inventory is not None:
        found["risk"] = catalogue.risks_of(action, catalogue.escalation_mask(member.granted.granted))
        found["granted_by"] = list(_granting(member.inventory, action))
        for window, judged in zip(fleet.windows, verdicts, strict=True):
            verdict = judged.verdict_of(action) or "unused"
            found["verdict"][window.label] = verdict
            found["because"][window.label] = say_why(fleet, member, cell, action, verdict, as_of - window.seconds)
    return found


def build_usage(cell: Cell) -> Json:
    """A cell in words: counts, times and what was seen with it."""
    found: Json = {
        "count": cell.count,
        "denied": cell.denied,
        "first_used": _time(cell.last and cell.first),
        "last_used": _time(cell.last),
        "last_success": _time(cell.last_success),
    }
    *facets, overflow = cell.read_facets()
    for at, (name, values) in enumerate(zip(NAMES, facets, strict=True)):
        found[name] = {"seen": [value for value in values if value], "more": bool(overflow >> at & 1)}
    return found


def _granting(inventory: InventoryPrincipal, action: int) -> Iterator[dict[str, Any]]:
    for granting in inventory.grants.provenance:
        if granting.mask >> action & 1:
            yield {
                "policy": granting.policy,
                "policy_arn": granting.policy_arn,
                "via_group": granting.via_group,
                "statement": granting.statement,
                "conditional": granting.conditional,
                "condition": granting.condition,
                "resources": list(granting.resources),
            }


def say_why(fleet: Fleet, member: Member, cell: Cell | None, action: int, verdict: str, since: int) -> str:
    """One verdict's reason, in a sentence's worth of words."""
    account = member.principal.account_id
    start = format_time(since)
    if verdict == "used" and cell is not None:
        return f"last used {format_time(cell.last)}, after the window's start {start}"
    if verdict == "unobservable":
        return f"the log would not show a use: {say_unobservable(fleet, account, action)}"
    if verdict == "too_new" and member.granted is not None:
        born = [when for when, mask in member.granted.births if mask >> action & 1]
        return f"granted {format_time(max([member.granted.created, *born]))}, later than the window's start {start}"
    covered = fleet.covered_since(member.principal)
    begun = max((time for time, mask in fleet.begins(account) if mask >> action & 1), default=0)
    if verdict == "unproven" and begun > since and begun > (covered or 0):
        return f"account {account} logs such calls, as far as known, only since {format_time(begun)}, the window starts {start}"
    if verdict == "unproven":
        known = "is not known at all" if covered is None else f"is known only since {format_time(covered)}"
        return f"the log of account {account} {known}, the window starts {start}"
    last = f"last used {format_time(cell.last)}" if cell is not None and cell.last else "no use is known"
    old = "" if member.granted is not None and member.granted.created else "; since when it is granted is not known"
    return f"{last}, though the log is known since {format_time(covered or 0)}, before the window's start {start}{old}"


def say_unobservable(fleet: Fleet, account: str, action: int) -> str:
    """Why the log of an account does not show an action, with what its trails and rules are, where they were read."""
    logging = fleet.logging_of(account)
    reason = why_unobservable(fleet.catalogue, logging, action)
    words = logging.words
    said = {
        "data_events_off": words.get(fleet.catalogue.names[action]) or words.get("management"),
        "read_only_off": words.get("management") or words.get("read_only"),
        "writes_off": words.get("management") or words.get("writes"),
        "regions_off": words.get(f"region:{logging.blind_regions[0]}") if logging.blind_regions else None,
    }.get(reason)
    return said or UNOBSERVABLE_WHY[reason]


def print_explanation(found: Json) -> Iterator[str]:
    """An explanation as lines of text."""
    yield f"{found['arn']}  ({found['kind']}, {found['unique_id'] or 'no unique id'}, account {found['account_id']})"
    yield f"  as of {found['as_of']}, log known since {found['covered_since'] or 'never'}"
    for flag in found["flags"]:
        yield f"  note: {flag}"
    if found["windows"] is None:
        yield "  no inventory: what it may do is not known"
    for label, counts in (found["windows"] or {}).items():
        verdicts = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS)
        yield f"  {label}: {counts['granted']} granted: {verdicts}; gap index {counts['gap_index']}"
    for action in found["actions"]:
        yield ""
        risk = f"  [{', '.join(action['risk'])}]" if action["risk"] else ""
        yield f"  {action['action']}{risk}{'' if action['granted'] else '  (not granted by any policy read)'}"
        for label, verdict in action["verdict"].items():
            yield f"    {label:>4} {verdict}: {action['because'][label]}"
        for by in action["granted_by"]:
            via = f" through group {by['via_group']}" if by["via_group"] else ""
            condition = ", conditional" if by["conditional"] else ""
            yield f"    granted by {by['policy']}{via}, statement {by['statement']}{condition}, on {', '.join(by['resources'][:4])}"
        if action["usage"] is not None:
            yield from _print_usage(action["usage"])


def _print_usage(usage: Json) -> Iterator[str]:
    yield (
        f"    used {usage['count']} times, denied {usage['denied']}; "
        f"first {usage['first_used'] or 'never'}, last {usage['last_used'] or 'never'}"
    )
    for facet in NAMES:
        seen = usage[facet]
        if seen["seen"]:
            yield f"    {facet}: {', '.join(map(ascii_safe, seen['seen']))}{' and more' if seen['more'] else ''}"


def ascii_safe(text: str) -> str:
    """Text from a log, made harmless for a terminal: control and direction marks are shown, not obeyed."""
    return "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in text)
