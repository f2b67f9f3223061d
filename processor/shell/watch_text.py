"""The series beside the gap's: first uses, refusals, break-glass, learning, accounts, exemptions.

They are few, and rendered when they are asked for: at most 1,000 first uses twice, and a line or two for each principal that
is learning or was refused.
"""

import gzip
from collections.abc import Iterable, Iterator, Mapping

from processor.core.exemptions import Exemptions
from processor.core.fleet import Member
from processor.core.sessions import key_of
from processor.core.tracker import FirstUse, Tracker
from processor.core.watch import Watch
from processor.shell.metrics import ROWS, escape, write_head

Line = tuple[tuple[str, ...], float]
"""The values of a family's labels, in the order of its row, and the sample."""


def render_keyed(member: Member) -> str:
    """A principal's line of gapwatch_principal_info."""
    principal = member.principal
    values = (
        principal.account_id,
        principal.arn,
        f"{key_of(principal):016x}",
        principal.kind,
        "no" if member.inventory is None else "yes",
    )
    return "".join(_write_lines("gapwatch_principal_info", [(values, 1)]))


def render_watch(
    tracker: Tracker, watch: Watch, exemptions: Exemptions, inventoried: Mapping[str, int], now: int
) -> bytes:
    """All families of this module as one gzip member. `inventoried` is when each account's inventory was read."""
    families: dict[str, Iterable[Line]] = {
        **_find_first_uses(tracker.first_uses),
        "gapwatch_learning_until_timestamp_seconds": (
            ((member.principal.account_id, member.principal.arn), until) for member, until in watch.learning(now)
        ),
        "gapwatch_denied_privileged_total": _sum_lines(
            ((found.account_id, found.arn, risk), count)
            for found in watch.denied.values()
            for risk, count in found.by_risk.items()
        ),
        "gapwatch_denied_privileged_recent": _sum_lines(
            ((found.account_id, found.arn), found.recent.forget(now)) for found in watch.denied.values()
        ),
        "gapwatch_break_glass_use_timestamp_seconds": (
            ((use.account_id, use.arn), use.time) for use in watch.break_glass.values()
        ),
        "gapwatch_break_glass_seen_timestamp_seconds": (
            ((use.account_id, use.arn), use.seen) for use in watch.break_glass.values()
        ),
        "gapwatch_account_newest_use_timestamp_seconds": (((account,), at) for account, at in watch.newest.items()),
        "gapwatch_account_covered_since_timestamp_seconds": (
            ((account,), since)
            for account in tracker.fleet.coverage.accounts
            if (since := tracker.fleet.coverage.since_of(account)) is not None
        ),
        "gapwatch_inventory_timestamp_seconds": (((account,), at) for account, at in inventoried.items()),
        "gapwatch_exemption_expiry_timestamp_seconds": (
            ((each.name, each.owner), each.expires) for each in exemptions.listed
        ),
        "gapwatch_window_seconds": (((window.label,), window.seconds) for window in tracker.fleet.windows),
    }
    text = "".join(
        part for name, lines in families.items() for part in (write_head(name), *_write_lines(name, sorted(lines)))
    )
    return gzip.compress(text.encode(), 1)


def _find_first_uses(uses: Iterable[FirstUse]) -> dict[str, list[Line]]:
    """One line each, also where a role was deleted and made anew, and both have used the action: the newer one."""
    newest: dict[tuple[str, str], FirstUse] = {}
    for use in uses:
        before = newest.get((use.arn, use.action))
        if before is None or before.time < use.time:
            newest[use.arn, use.action] = use
    labels = [((use.account_id, use.arn, use.action, use.risk, use.quiet), use) for use in newest.values()]
    return {
        "gapwatch_first_use_timestamp_seconds": [(values, use.time) for values, use in labels],
        "gapwatch_first_use_seen_timestamp_seconds": [(values, use.seen) for values, use in labels],
    }


def _sum_lines(lines: Iterable[Line]) -> list[Line]:
    """One line for principals of one ARN: a role deleted and made anew."""
    found: dict[tuple[str, ...], float] = {}
    for values, sample in lines:
        found[values] = found.get(values, 0) + sample
    return list(found.items())


def _write_lines(name: str, lines: Iterable[Line]) -> Iterator[str]:
    labels = ROWS[name].labels
    for values, sample in lines:
        told = ",".join(f'{label}="{escape(value)}"' for label, value in zip(labels, values, strict=True))
        yield f"{name}{{{told}}} {sample}\n"
