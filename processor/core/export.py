"""What a store holds -> rows for a table elsewhere. The schema, the same for Parquet and DynamoDB, is in `SCHEMA`.

Rows are made one principal at a time: an administrator alone has 22,000 grants.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from processor.core.catalogue import ids_in
from processor.core.fleet import Fleet, Member
from processor.core.gap import Verdicts
from processor.core.principals import permission_set_of

Row = dict[str, Any]

SCHEMA_VERSION = 1
SCHEMA: dict[str, dict[str, str]] = {
    "principals": {
        "as_of": "timestamp: the time of the verdicts",
        "account_id": "text",
        "principal": "text: its ARN",
        "unique_id": "text: AROA… or AIDA…; of a principal without one empty",
        "kind": "text: role, user or root",
        "permission_set": "text: the Identity Center permission set that the role was made for, empty for others",
        "boundary": "text: ARN of its permissions boundary, empty without one",
        "created": "timestamp, null where unknown",
        "in_inventory": "boolean: false where it was used only, so that what it may do is not known",
        "granted": "integer: actions that it may do",
        "flags": "list of text: what could not be taken into account",
    },
    "grants": {
        "as_of": "timestamp: the time of the verdicts",
        "account_id": "text",
        "principal": "text: its ARN",
        "unique_id": "text",
        "action": "text: an IAM action, service:Name",
        "conditional": "boolean",
        "granted_since": "timestamp, null where it is not known",
        "policies": "list of text: what allows it, managed policies by ARN, inline ones by name",
        "risks": "list of text: classes of its risk",
        "window_days": "integer: one row a window",
        "verdict": "text: used, unused, unobservable, too_new or unproven",
    },
    "usage": {
        "as_of": "timestamp: the time of the verdicts",
        "account_id": "text",
        "principal": "text: its ARN",
        "unique_id": "text",
        "action": "text",
        "count": "integer: uses ever",
        "denied": "integer: calls that were refused",
        "first_used": "timestamp, null where all calls were refused",
        "last_used": "timestamp, null where all calls were refused",
        "last_success": "timestamp, null where none succeeded",
    },
}
"""Table -> column -> what it holds. A column is only ever added; one that changes its meaning gets a new SCHEMA_VERSION."""


def build_rows(fleet: Fleet, names: Sequence[str], as_of: int) -> Iterator[tuple[str, list[Row]]]:
    """Pairs of a table's name and rows for it, principal by principal. Times are seconds since 1970; `names` by action id."""
    for member in fleet.members():
        who = {
            "as_of": fleet.time_of(member.principal.account_id, as_of),
            "account_id": member.principal.account_id,
            "principal": member.principal.arn,
            "unique_id": member.principal.unique_id or "",
        }
        yield "principals", [build_principal(who, member)]
        yield "grants", list(build_grants(fleet, who, member, as_of))
        yield "usage", list(build_usage(who, member, names))


def build_principal(who: Row, member: Member) -> Row:
    """The row of a principal itself."""
    inventory = member.inventory
    return who | {
        "kind": member.principal.kind,
        "permission_set": permission_set_of(member.principal.arn) or "",
        "boundary": (inventory.boundary if inventory is not None else None) or "",
        "created": inventory.created if inventory is not None else None,
        "in_inventory": inventory is not None,
        "granted": inventory.grants.granted.bit_count() if inventory is not None else 0,
        "flags": list(inventory.grants.flags) if inventory is not None else [],
    }


def build_grants(fleet: Fleet, who: Row, member: Member, as_of: int) -> Iterator[Row]:
    """A row for each granted action and window."""
    if member.granted is None or member.inventory is None:
        return
    granted, catalogue = member.granted, fleet.catalogue
    escalation = catalogue.escalation_mask(granted.granted)
    born: dict[int, int] = {}
    for time, mask in granted.births:
        born |= {action: max(time, born.get(action, 0)) for action in ids_in(mask)}
    verdicts: Sequence[Verdicts] = fleet.verdicts_of(member, fleet.gap_of(member, as_of), as_of)
    grantings = member.inventory.grants.provenance
    for action in ids_in(granted.granted):
        policies = dict.fromkeys(each.policy_arn or each.policy for each in grantings if each.mask >> action & 1)
        row = who | {
            "action": catalogue.names[action],
            "conditional": bool(granted.conditional >> action & 1),
            "granted_since": max(born.get(action, 0), granted.created) or None,
            "policies": list(policies),
            "risks": catalogue.risks_of(action, escalation),
        }
        for window, judged in zip(fleet.windows, verdicts, strict=True):
            yield row | {"window_days": window.days, "verdict": judged.verdict_of(action)}


def build_usage(who: Row, member: Member, names: Sequence[str]) -> Iterator[Row]:
    """A row for each action that was used or refused."""
    for action, cell in () if member.usage is None else sorted(member.usage.cells.items()):
        yield who | {
            "action": names[action],
            "count": cell.count,
            "denied": cell.denied,
            "first_used": cell.first if cell.last else None,
            "last_used": cell.last or None,
            "last_success": cell.last_success or None,
        }
