"""Decoded records -> uses: classes 1 to 6 of a record are decided here, and need no state.

The loop in `resolve` is the hot path. What repeats is remembered: a session's userIdentity is the same bytes in all of
its records, and a principal makes few calls that differ in more than their time, so that most records cost a look-up by
a hash of those bytes, one by the event's name, and comparisons that show that the rest is the same, too.
"""

from collections.abc import Iterable

from xxhash import xxh3_64_intdigest

from processor.core.actions import ActionMap, ActionRule
from processor.core.principals import Known, decode_user_identity, resolve_caller
from processor.core.records import (
    API_CALL,
    NOT_IAM_CATEGORIES,
    NOT_IAM_SOURCES,
    TIME_MAX,
    Decoded,
    Record,
    Rejected,
    Resource,
    is_denied,
    is_not_iam,
    parse_time,
)
from processor.core.sessions import DENIED, FAILED, SUCCEEDED, Actor, Call, CallKey, Scope, Session
from processor.core.tally import Tally

SESSIONS_MAX = 65_536
CALLS_MAX = 131_072
MINUTES_MAX = 262_144
NAMES_MAX = 16_384
"""Bounds of what is remembered; a memory that is full is emptied, as the same things soon come again."""

_SECONDS = {f"{second:02}Z": second for second in range(60)}
"""How a time in CloudTrail's form ends, behind its minute."""

NO_ACTOR = Actor(None, "rejected")
NO_SESSION = Session(NO_ACTOR, "", "", "")
"""Of a record whose userIdentity is no object; it has no calls."""

Use = tuple[Session, Call, int, int, list[Resource] | None]
"""session, call, event time, hash of the event's id for its principal, resources"""


class Intake:
    """Turns records into uses. `known` are the inventory's principals by unique id.

    Records newer than `future` are rejected (a long-running process sets it, `now` + 15 min); those newer than `until`
    count in the classes, but leave no trace elsewhere. Sessions are told apart by a 64-bit hash of their userIdentity under
    `seed`: a random one, so that nobody can make up a session name that is taken for another's.
    """

    def __init__(
        self, actions: ActionMap, scope: Scope, known: Known, tally: Tally, until: int = TIME_MAX, seed: int = 0
    ) -> None:
        self.tally = tally
        self.until = until
        self.seed = seed
        self.future = TIME_MAX
        self.rejects: list[Rejected] = []
        self._actions = actions
        self._scope = scope
        self._known = known
        self._sessions: dict[int, Session] = {}
        self._actors: dict[tuple[str, str | None, str], Actor] = {}
        self._call_count = 0
        self._minutes: dict[str, int] = {}
        self._rules: dict[tuple[str, str], ActionRule | None] = {}

    def resolve(self, decoded: Decoded) -> list[Use]:
        """The uses in a slice, in order; what is no use is counted in `tally`, what is bad is left in `rejects`."""
        tally = self.tally
        sessions, minutes = self._sessions, self._minutes
        newest, seed = tally.second_newest, self.seed
        uses: list[Use] = []
        append = uses.append
        for record in decoded.records:
            if (record.eventType != API_CALL or record.eventCategory in NOT_IAM_CATEGORIES) and is_not_iam(
                record.eventType, record.eventCategory, ""
            ):
                self._count_not_iam(record.eventTime, record.recipientAccountId)
                continue
            who = xxh3_64_intdigest(record.userIdentity, seed)
            session = sessions.get(who) or self._open_session(who, bytes(record.userIdentity))
            text = record.eventTime
            try:
                time = minutes[text[:17]] + _SECONDS[text[17:]]
                call = session.calls[record.eventName]
                if (
                    record.awsRegion != call.region
                    or record.errorCode != call.error_code
                    or record.eventSource != call.event_source
                    or record.recipientAccountId != call.account_id
                ):
                    call = call.others[
                        record.eventSource, record.awsRegion, record.errorCode, record.recipientAccountId
                    ]
            except KeyError:
                found = self._look_up(record, session)
                if found is None:
                    continue
                call, time = found
            if time > newest or time < call.log.first:
                if time > self.future:
                    self._reject("future", record)
                    continue
                if time <= self.until:
                    tally.note_time(call.log, time)
                    newest = tally.second_newest
            if not call.plain:
                settled = self._settle(call, record)
                if settled is None:
                    continue
                call = settled
            append(
                (
                    session,
                    call,
                    time,
                    xxh3_64_intdigest((record.sharedEventID or record.eventID).encode()) ^ call.salt,
                    record.resources,
                )
            )
        if decoded.not_iam or decoded.rejected:
            self._count_odd(decoded)
        return uses

    def _settle(self, call: Call, record: Record) -> Call | None:
        """What a record's parameters make of its call; None where the record ends in a class before the uses."""
        excluded = call.actor.excluded
        if excluded is not None:
            self.tally.classes[excluded] += 1
            return None
        if call.rule is None:
            self.tally.count_unmapped(record.eventSource, record.eventName)
            return None
        actions = self._actions.resolve(call.rule, bytes(record.requestParameters))
        if actions == call.actions:
            return call
        found = call.others.get(actions)
        if found is None:
            key = call.event_source, call.region, call.error_code, call.account_id
            found = call.others[actions] = Call(call.actor, call.rule, actions, call.outcome, call.log, key)
            self._call_count += 1
        return found

    def _look_up(self, record: Record, session: Session) -> tuple[Call, int] | None:
        """The call and time of a record that the loop has not met before. None where the record ends here, in
        class not_iam or rejected."""
        name = record.eventSource, record.eventName
        rule = self._rules.get(name)
        if rule is None and name not in self._rules:
            rule = self._find_rule(name)
        if record.eventSource in NOT_IAM_SOURCES:
            self._count_not_iam(record.eventTime, record.recipientAccountId)
            return None
        time = self._read_time(record.eventTime)
        if not time or session.actor is NO_ACTOR:
            self._reject("bad_userIdentity" if time else "bad_eventTime", record)
            return None
        return self._find_call(session, rule, record, time), time

    def _find_call(self, session: Session, rule: ActionRule | None, record: Record, time: int) -> Call:
        by_name = session.calls
        key: CallKey = (record.eventSource, record.awsRegion, record.errorCode, record.recipientAccountId)
        first = by_name.get(record.eventName)
        if first is not None:
            found = first.others.get(key)
            if found is not None:
                return found
            if (first.event_source, first.region, first.error_code, first.account_id) == key:
                return first
        log = self.tally.log_of(record.recipientAccountId or session.account_id, min(time, self.until))
        code = record.errorCode
        outcome = SUCCEEDED if not code else DENIED if is_denied(code, record.eventSource) else FAILED
        call = Call(session.actor, rule, rule.unproved if rule is not None else (), outcome, log, key)
        self._make_room()
        if first is None or not by_name:
            by_name[record.eventName] = call
        else:
            first.others[key] = call
        return call

    def _make_room(self) -> None:
        """Forget all calls when there are too many: actors and sessions stay."""
        self._call_count += 1
        if self._call_count > CALLS_MAX:
            self._call_count = 0
            for actor in self._actors.values():
                actor.calls.clear()

    def _find_rule(self, name: tuple[str, str]) -> ActionRule | None:
        if len(self._rules) >= NAMES_MAX:
            self._rules.clear()
        # The catalogue has actions of sign-in, but its events are not decided by IAM as those of other services are.
        rule = None if name[0] in NOT_IAM_SOURCES else self._actions.lookup(*name)
        self._rules[name] = rule
        return rule

    def _read_time(self, text: str) -> int:
        """Seconds since 1970, 0 for what is no time; remembers the minute of a time in CloudTrail's own form."""
        minute, second = self._minutes.get(text[:17]), _SECONDS.get(text[17:])
        if minute is not None and second is not None:
            return minute + second
        time = parse_time(text) or 0
        if time and second is not None:
            if len(self._minutes) >= MINUTES_MAX:
                self._minutes.clear()
            self._minutes[text[:17]] = time - time % 60
        return time

    def _open_session(self, who: int, raw: bytes) -> Session:
        found = decode_user_identity(raw)
        if found is None:
            return NO_SESSION
        caller = resolve_caller(found, self._known)
        principal = caller.principal
        key = ("", None, "") if principal is None else (principal.arn, principal.unique_id, principal.kind)
        actor = self._actors.get(key)
        if actor is None:
            excluded = "no_principal" if principal is None else None
            if principal is not None and not self._scope.covers(principal):
                excluded = "out_of_scope"
            if len(self._actors) >= SESSIONS_MAX:
                self._actors.clear()
            actor = self._actors[key] = Actor(principal, excluded)
        account_id = found.accountId or (principal.account_id if principal is not None else "")
        if len(self._sessions) >= SESSIONS_MAX:
            self._sessions.clear()
        session = self._sessions[who] = Session(actor, caller.operator, caller.via, account_id)
        return session

    def _count_odd(self, decoded: Decoded) -> None:
        """What the decoder itself found to be no IAM call, or no record."""
        for found in decoded.not_iam:
            if isinstance(found, Record):
                self._count_not_iam(found.eventTime, found.recipientAccountId)
            else:
                self._count_not_iam(found.get("eventTime"), found.get("recipientAccountId"))
        self.reject_all(decoded.rejected)

    def _count_not_iam(self, event_time: object, account_id: object) -> None:
        self.tally.classes["not_iam"] += 1
        time = parse_time(event_time) if isinstance(event_time, str) else None
        if time is not None and time <= min(self.until, self.future) and isinstance(account_id, str):
            self.tally.note_time(self.tally.log_of(account_id, time), time)

    def reject_all(self, rejected: Iterable[Rejected]) -> None:
        """Count rejects, and keep them for the caller to take."""
        for found in rejected:
            self.tally.count_rejected(found.reason)
            self.rejects.append(found)

    def _reject(self, reason: str, record: Record) -> None:
        self.reject_all((Rejected(reason, f"{record.eventSource} {record.eventName} {record.eventTime}".encode()),))
