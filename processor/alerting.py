"""What one shard tells on topic `alerts`: first uses of privileged actions, break-glass uses, and the risks that lie unused.

Each alert is told when it begins, when it changes and when it ends, and no more than that, over restarts and other owners, too:
what was told stands in the store (P:{N}:a, id -> Told), written by the flush after its message was acknowledged. So a crash
between the two tells it twice, under one id, and none is left out.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import Struct

from processor.core.first_uses import NEWS_SECONDS, FirstUse
from processor.core.fleet import Member
from processor.core.gap_changes import Written
from processor.core.gap_counts import GapCounts
from processor.core.privileged import is_told
from processor.core.tracker import Tracker
from processor.core.usage import Cell
from processor.core.watch import BreakGlassUse, Watch
from processor.settings import AlertsSettings
from processor.shell.commands import Command
from processor.shell.push import build_alert, find_links
from topics.alerts import CODEC, TEXT_MAX, Alert, Evidence

AGAIN_SECONDS = 900
"""A break-glass principal that goes on being used is told again after so long: its alert ends later."""

KEPT_SECONDS = 86_400
"""For how long what has ended is remembered: longer than a use is news, whichever clock says so."""

MESSAGES_MAX = 1_000
"""Of one collection; the rest comes with the next ones."""


class Told(Struct, array_like=True, frozen=True, gc=False):
    """msgpack of what was told of one alert. `what` is the action, or the risk of `unused_high_risk`; `ends` 0: it still fires."""

    kind: str
    key: bytes
    arn: str
    unique_id: str | None
    account_id: str
    what: str
    starts: int
    ends: int


@dataclass(frozen=True, slots=True)
class Message:
    """An alert to be written, and what is then told of it."""

    id: bytes
    told: Told
    written: Written


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Told).decode


class ShardAlerts:
    """Of one claimed shard, whose `tracker` and `watch` it reads; `stored` is what the store has of it. Times by the clock."""

    def __init__(self, tracker: Tracker, watch: Watch, settings: AlertsSettings, stored: Mapping[bytes, bytes]) -> None:
        self._tracker = tracker
        self._watch = watch
        self._settings = settings
        self._told = {name: _decode(packed) for name, packed in stored.items()}
        self._unsaved: set[bytes] = set()
        self._uses_seen = -1
        self._glass_seen: dict[str, int] = {}
        self._firing: dict[int, dict[str, bytes]] = {}
        self._moved: dict[int, tuple[Member | None, GapCounts | None]] = {}
        self._cleared_at = 0
        for name, told in self._told.items():
            self._index(name, told)

    def _index(self, name: bytes, told: Told) -> None:
        if told.kind == "unused_high_risk":
            risks = self._firing.setdefault(int.from_bytes(told.key, "big"), {})
            if told.ends:
                risks.pop(told.what, None)
            else:
                risks[told.what] = name

    def note_counts(self, key: int, member: Member, counts: list[GapCounts]) -> None:
        """Take in what the metrics say of a principal: the risks that it has unused in the longest window."""
        found = counts[-1] if counts else None
        if _risks_of(found) == self._firing.get(key, {}).keys():
            self._moved.pop(key, None)
        else:
            self._moved[key] = member, found

    def forget(self, key: int) -> None:
        """A principal is gone."""
        if self._firing.get(key):
            self._moved[key] = None, None

    def collect(self, now: int) -> list[Message]:
        """What is to be told now, MESSAGES_MAX at most. What is not noted as told is given again."""
        found = [*self._find_first_uses(now), *self._find_glass(now)]
        for key in list(self._moved):
            if len(found) >= MESSAGES_MAX:
                break
            member, counts = self._moved.pop(key)
            moved = list(self._find_unused(key, member, counts, now))
            if moved:
                self._moved[key] = member, counts  # Until it is noted as told.
            found += moved
        return found

    def note_told(self, messages: Iterable[Message]) -> None:
        """These were acknowledged."""
        for each in messages:
            self._told[each.id] = each.told
            self._unsaved.add(each.id)
            self._index(each.id, each.told)
            if each.told.kind == "unused_high_risk":
                self._moved.pop(int.from_bytes(each.told.key, "big"), None)

    def describe(self, place: str | bytes, now: int) -> Iterator[Command]:
        """What a flush stores of it."""
        if now - self._cleared_at >= NEWS_SECONDS:
            self._cleared_at = now
            old = [name for name, told in self._told.items() if told.ends and told.ends < now - KEPT_SECONDS]
            for name in old:
                del self._told[name]
            if old:
                yield ("HDEL", place, *old)
        unsaved, self._unsaved = self._unsaved, set()
        pairs = [part for name in unsaved if name in self._told for part in (name, _encode(self._told[name]))]
        if pairs:
            yield ("HSET", place, *pairs)

    @property
    def has_unsaved(self) -> bool:
        return bool(self._unsaved)

    def _find_first_uses(self, now: int) -> Iterator[Message]:
        uses = self._tracker.first_uses
        if uses.changes == self._uses_seen:
            return
        waiting = False
        for place, use in uses.by_place.items():
            if use.seen > now - NEWS_SECONDS and is_told(use.risk, use.quiet):
                message = self._write_first_use(place[1], use)
                if message.id not in self._told:
                    waiting = True
                    yield message
        if not waiting:
            self._uses_seen = uses.changes

    def _write_first_use(self, action: int, use: FirstUse) -> Message:
        told = build_alert(use, self._settings)
        member = self._tracker.fleet.member(use.key)
        cell = None if member.usage is None else member.usage.cells.get(action)
        return _write(
            Alert(
                kind="first_use", starts_at=use.seen, ends_at=use.seen + NEWS_SECONDS, arn=use.arn,
                unique_id=member.principal.unique_id, account_id=use.account_id, action=use.action, risks=(use.risk,),
                evidence=_find_evidence(use.time, cell), labels=told["labels"], annotations=told["annotations"],
            ),
            use.key,
        )  # fmt: skip

    def _find_glass(self, now: int) -> Iterator[Message]:
        for arn, use in self._watch.break_glass.items():
            if use.seen <= max(now - NEWS_SECONDS, self._glass_seen.get(arn, 0)):
                continue
            lasting = [told for told in self._told.values() if told.kind == "break_glass_use" and told.arn == arn]
            last = max(lasting, key=lambda told: told.ends, default=None)
            ends = use.seen + NEWS_SECONDS
            if last is None or use.seen > last.ends:
                yield self._write_glass(use, self._tracker.fleet.catalogue.names[use.action], use.seen, ends)
            elif ends - last.ends >= AGAIN_SECONDS:
                yield self._write_glass(use, last.what, last.starts, ends)
            else:
                self._glass_seen[arn] = use.seen

    def _write_glass(self, use: BreakGlassUse, action: str, starts: int, ends: int) -> Message:
        name = "GapwatchBreakGlassUse"
        member = self._tracker.fleet.member(use.key)
        cell = None if member.usage is None else member.usage.cells.get(use.action)
        return _write(
            Alert(
                kind="break_glass_use", starts_at=starts, ends_at=ends, arn=use.arn,
                unique_id=member.principal.unique_id, account_id=use.account_id, action=action,
                evidence=_find_evidence(use.time, cell),
                labels={
                    **self._settings.labels, "alertname": name, "severity": "page", "kind": "break_glass_use",
                    "account": use.account_id, "principal": use.arn,
                },
                annotations={
                    "summary": f"Break-glass {use.arn} is in use",
                    "description": f"The emergency principal {use.arn} in account {use.account_id} was used within the last hour "
                    f"({action}). There must be an incident that explains it: find it, or open one.",
                    **find_links(name, use.account_id, use.arn, use.key, self._settings),
                },
            ),
            use.key,
        )  # fmt: skip

    def _find_unused(self, key: int, member: Member | None, counts: GapCounts | None, now: int) -> Iterator[Message]:
        risks, firing = _risks_of(counts), self._firing.get(key, {})
        for risk in sorted(firing.keys() - risks):
            told = self._told[firing[risk]]
            yield self._write_unused(
                key, told.arn, told.unique_id, told.account_id, risk, 0, told.starts, max(now, told.starts)
            )
        if member is None or counts is None:
            return
        principal = member.principal
        for risk in sorted(risks - firing.keys()):
            count = counts.risks[risk] - counts.exempt.get(risk, 0)
            yield self._write_unused(
                key, principal.arn, principal.unique_id, principal.account_id, risk, count, now, None
            )

    def _write_unused(
        self,
        key: int,
        arn: str,
        unique_id: str | None,
        account: str,
        risk: str,
        count: int,
        starts: int,
        ends: int | None,
    ) -> Message:
        name, window = "GapwatchHighRiskUnused", self._tracker.fleet.windows[-1].label
        said = (
            f"{arn} in account {account} may do {count} actions of class {risk} and has used none of them for {window}. Take them "
            "away, or add an exemption with an owner and an end."
            if ends is None
            else f"{arn} in account {account} has no unused actions of class {risk} any more, or somebody has answered for them."
        )
        return _write(
            Alert(
                kind="unused_high_risk", starts_at=starts, ends_at=ends, arn=arn, unique_id=unique_id, account_id=account,
                risks=(risk,),
                labels={
                    **self._settings.labels, "alertname": name, "severity": "ticket", "kind": "unused_high_risk",
                    "account": account, "principal": arn, "window": window, "risk": risk,
                },
                annotations={
                    "summary": f"{arn}: {count} unused actions of class {risk}", "description": said,
                    **find_links(name, account, arn, key, self._settings),
                },
            ),
            key,
        )  # fmt: skip


def _risks_of(counts: GapCounts | None) -> set[str]:
    """The classes of which more is unused than somebody has answered for, as the rule has it."""
    return set() if counts is None else {risk for risk, n in counts.risks.items() if n > counts.exempt.get(risk, 0)}


def _find_evidence(time: int, cell: Cell | None) -> Evidence:
    """What is known of a use beside its time: by whom and where, if it can only have been one."""
    # What is away in the store may be others than those in memory.
    operators, regions, *_ = ([], []) if cell is None or cell.facets is None else cell.read_facets()
    return Evidence(
        event_time=time,
        operator=operators[0][:256] if len(operators) == 1 else None,
        region=regions[0][:64] if len(regions) == 1 else None,
    )


def _write(alert: Alert, key: int) -> Message:
    cut: dict[str, Any] = {name: text[:TEXT_MAX] for name, text in alert.annotations.items()}
    alert = msgspec.structs.replace(alert, annotations=cut)
    told = Told(
        alert.kind, key.to_bytes(8, "big"), alert.arn, alert.unique_id, alert.account_id, alert.action or alert.risks[0],
        alert.starts_at, alert.ends_at or 0,
    )  # fmt: skip
    return Message(alert.key, told, (alert.key, CODEC.encode(alert)))
