"""Rows of records -> uses: classes 1 to 6 of a record are decided here, and need no state.

What repeats is remembered: a session's userIdentity is the same bytes in all of its records, and a principal makes few
calls that differ in more than their time. The loop in resolve_loop.py knows a record by hashes of those parts; what it has
not met before, and what must be looked at each time (parameters), comes here.
"""

from collections.abc import Container, Iterable

import numpy as np

from processor.core.account_logs import AccountLogs
from processor.core.actions import ActionMap
from processor.core.batches import Batch, Decoded, merge, read_bytes
from processor.core.compiled import Numbers, Words
from processor.core.first_sight import BAD, NO_ACTOR, FirstSight
from processor.core.memory import Pending
from processor.core.principals import Known
from processor.core.records import TIME_MAX, Rejected, parse_time
from processor.core.resolve_loop import (
    ASKED,
    ASKED_COLUMNS,
    BORN,
    BORN_COLUMNS,
    CALLS,
    FUTURE,
    LATER,
    LOGS_MOVED,
    NEW_CALLS,
    NEW_PLACES,
    NEW_SESSIONS,
    NEW_SHAPES,
    NEWEST,
    NO_CALL,
    NO_LOG,
    NOBODYS,
    NOTES,
    OPENED,
    OPENED_COLUMNS,
    OUTSIDE,
    PROOFS,
    ROW,
    SECOND_NEWEST,
    SESSION,
    SESSIONS,
    UNKNOWN,
    UNTIL,
    resolve_loop,
)
from processor.core.scan import ARNS_FROM, ARNS_TO, EVENT, PARAMETERS_AT, PARAMETERS_END, TIME, WHO_AT, WHO_END
from processor.core.sessions import Scope, Shape
from processor.core.tally import Tally
from processor.core.uses import Columns, Uses

NOTHING = (NO_CALL, 0, 0, 0, 0)
"""What is known of a record that ended before the uses."""


class Intake:
    """Turns records into uses. `known` are the inventory's principals by unique id.

    Records newer than `future` are rejected (a long-running process sets it, `now` + 15 min); those newer than `until`
    count in the classes, but leave no trace elsewhere. Sessions are told apart by a 64-bit hash of their userIdentity
    under `seed`: a random one, so that nobody can make up a session name that is taken for another's.
    """

    def __init__(
        self, actions: ActionMap, scope: Scope, known: Known, tally: Tally, until: int = TIME_MAX, seed: int = 0
    ) -> None:
        self.tally = tally
        self.until = until
        self.seed = seed
        self.future = TIME_MAX
        self.rejects: list[Rejected] = []
        self.changes: list[bytes] = []
        self._actions = actions
        self._sight = FirstSight(actions, scope, known)
        self._logs = AccountLogs(tally)

    def watch(self, events: Container[tuple[str, str]]) -> None:
        """Leave the records of these (eventSource, eventName) that succeeded in `changes`, for the caller to take. They are looked
        at one by one; no other record takes longer for it. To be said before the first record."""
        self._sight.watched = events

    def resolve(self, decoded: Decoded) -> list[Uses]:
        """The uses in a slice, in order; what is no use is counted in `tally`, what is bad is left in `rejects`."""
        uses = [self._resolve_batch(merge(decoded.batches))] if decoded.batches else []
        for found in decoded.not_iam:
            self._count_not_iam(found.get("eventTime"), found.get("recipientAccountId"))
        self.reject_all(decoded.rejected)
        return uses

    def _resolve_batch(self, batch: Batch) -> Uses:
        self._sight.forget_when_full()
        memory = self._sight.memory
        rows = len(batch.rows.places)
        columns = Columns(rows)
        todo = np.arange(rows)
        while len(todo):
            asked, hashes, proofs, todo = self._run_loop(batch, todo, columns)
            if len(proofs):
                self._read_proofs(batch, proofs, columns)
            if len(asked):
                again = self._answer(batch, asked, hashes, columns)
                todo = np.sort(np.concatenate((todo, again)))
        kept = np.flatnonzero(columns.calls >= 0)
        places = batch.rows.places
        return Uses(
            calls=memory.calls,
            sessions=memory.sessions,
            places=memory.places,
            call=columns.calls[kept],
            session=columns.sessions[kept],
            place=columns.places[kept],
            time=columns.times[kept],
            event=columns.events[kept],
            arns_from=places[kept, ARNS_FROM],
            arns_to=places[kept, ARNS_TO],
            arn_hashes=batch.rows.arn_hashes,
            batch=batch,
            row=kept,
        )

    def _run_loop(self, batch: Batch, todo: Numbers, columns: Columns) -> tuple[Numbers, Words, Numbers, Numbers]:
        """The rows to look at one by one, what is known of them, those whose parameters must be read, and those to be run
        again."""
        memory, tally = self._sight.memory, self.tally
        memory.reserve(len(todo))
        asked, hashes = np.empty((len(todo), ASKED_COLUMNS), np.int64), np.empty((len(todo), 2), np.uint64)
        proofs, later = np.empty(len(todo), np.int64), np.empty(len(todo), np.int64)
        born = np.empty((len(todo), BORN_COLUMNS), np.int64)
        opened = np.empty((len(todo), OPENED_COLUMNS), np.int64)
        notes = np.zeros(NOTES, np.int64)
        notes[NEWEST], notes[SECOND_NEWEST] = tally.newest, tally.second_newest
        notes[UNTIL], notes[FUTURE] = self.until, self.future
        notes[SESSIONS], notes[CALLS] = len(memory.sessions), len(memory.calls)
        resolve_loop(
            self.seed, todo, batch.rows.places, batch.rows.hashes,
            memory.who_keys, memory.who_values, memory.by_caller.keys, memory.by_caller.values,
            memory.by_role.keys, memory.by_role.values, memory.sessions.origin_numbers, memory.actor_numbers, memory.origin_logs,
            memory.by_shape.keys, memory.by_shape.values, memory.stops, memory.by_place.keys, memory.by_place.values,
            memory.place_logs, memory.by_call.keys, memory.by_call.values,
            memory.actor_kinds, memory.shape_kinds, memory.salts, memory.needles,
            self._logs.firsts, notes, columns.calls, columns.sessions, columns.places, columns.times,
            columns.events,
            asked, hashes, proofs, later, born, opened,
        )  # fmt: skip
        memory.by_caller.count += int(notes[NEW_SESSIONS])
        memory.by_shape.count += int(notes[NEW_SHAPES])
        memory.by_place.count += int(notes[NEW_PLACES])
        memory.by_call.count += int(notes[NEW_CALLS])
        tally.classes["no_principal"] += int(notes[NOBODYS])
        tally.classes["out_of_scope"] += int(notes[OUTSIDE])
        tally.newest, tally.second_newest = int(notes[NEWEST]), int(notes[SECOND_NEWEST])
        if notes[LOGS_MOVED]:
            self._logs.settle()
        for model, start, end in born[: notes[BORN]].tolist():
            memory.add_named(model, read_bytes(start, end).decode())
        memory.add_calls(opened[: notes[OPENED]])
        count = notes[ASKED]
        return asked[:count], hashes[:count], proofs[: notes[PROOFS]], later[: notes[LATER]]

    def _read_proofs(self, batch: Batch, proofs: Numbers, columns: Columns) -> None:
        """Give rows the calls that their parameters prove."""
        effects, resolve = self._sight.memory.calls.effects, self._actions.resolve
        parameters = batch.rows.places[proofs, PARAMETERS_AT : PARAMETERS_END + 1].tolist()
        numbers = columns.calls[proofs].tolist()
        for at, (start, end) in enumerate(parameters):
            effect = effects[numbers[at]]
            assert effect.rule is not None  # noqa: S101 - without a rule nothing is proved
            actions = resolve(effect.rule, read_bytes(start, end))
            if actions != effect.actions:
                numbers[at] = self._sight.find_other(numbers[at], actions)
        columns.calls[proofs] = numbers

    def _answer(self, batch: Batch, asked: Numbers, hashes: Words, columns: Columns) -> Numbers:
        """Look at rows one by one, and let the loop know from now on what they hold. Answers those that the loop is to be run on
        again: all that they lacked was the number of a session, or of what another row asks about."""
        sight = self._sight
        pending = Pending()
        rows = asked[:, ROW]
        places = batch.rows.places[rows]
        times = places[:, TIME].tolist()
        starts, ends = places[:, WHO_AT].tolist(), places[:, WHO_END].tolist()
        again: list[int] = []
        slow: list[tuple[list[int], int]] = []
        for at, (known, (caller, role)) in enumerate(zip(asked.tolist(), hashes.tolist(), strict=True)):
            row, session, shape, place, _ = known
            if session < 0:
                session = sight.find_session(read_bytes(starts[at], ends[at]), caller, role, pending)
                if shape != UNKNOWN and place != UNKNOWN:
                    again.append(row)
                    continue
                known[SESSION] = session
            slow.append((known, times[at]))
        if slow:
            self._look_at(batch, slow, columns, pending)
        sight.memory.settle(pending)
        return np.array(again, np.int64)

    def _look_at(self, batch: Batch, slow: list[tuple[list[int], int]], columns: Columns, pending: Pending) -> None:
        """Fill the columns of rows that the loop would hand back again, whatever it knew."""
        rows = [known[ROW] for known, _ in slow]
        found = [self._look_up(batch, known, time, pending) or NOTHING for known, time in slow]
        numbers = np.array([numbers for *numbers, _ in found], np.int64)
        columns.calls[rows], columns.sessions[rows], columns.places[rows], columns.times[rows] = numbers.T
        salts = np.array([salt for *_, salt in found], np.uint64)
        columns.events[rows] = batch.rows.hashes[rows, EVENT] ^ salts

    def _look_up(
        self, batch: Batch, known: list[int], time: int, pending: Pending
    ) -> tuple[int, int, int, int, int] | None:
        """Call, session, place and time of a record, and its actor's salt, where the loop does not know it, or it must be looked at
        each time. None where the record ends here, in a class before the uses."""
        memory = self._sight.memory
        row, session_number, shape_number, place_number, number = known
        if shape_number < 0 or memory.shapes[shape_number].stop == BAD:
            shape_number = self._sight.find_shape(batch, row, pending)
        actor, shape = memory.sessions.origin_of(session_number).actor, memory.shapes[shape_number]
        if place_number < 0:
            place_number = self._sight.find_place(batch, row, pending)
        if shape.stop:
            self._end_early(shape, batch, row)
            return None
        time = time or self._read_time(batch, row)
        if actor is NO_ACTOR:
            self._reject("bad_userIdentity" if time else "bad_eventTime", shape, batch, row)
            return None
        if not time or time > self.future:
            self._reject("future" if time else "bad_eventTime", shape, batch, row)
            return None
        if number < 0:
            number = self._sight.reach_call(actor, shape_number, pending)
        log = self._find_log(session_number, place_number, min(time, self.until))
        if time <= self.until:
            self._logs.note_time(log, time)
        settled = self._settle(number, shape, batch, row)
        return None if settled is None else (settled, session_number, place_number, time, actor.salt)

    def _end_early(self, shape: Shape, batch: Batch, row: int) -> None:
        """Count a record of a shape that has no uses."""
        record = batch.read_record(row)
        if record is None or shape.stop == BAD:
            self.reject_all((Rejected(BAD, batch.read_raw(row), batch.find_origin(row)),))
        else:
            self._count_not_iam(record.eventTime, record.recipientAccountId)

    def _read_time(self, batch: Batch, row: int) -> int:
        """Seconds since 1970 of a time in another form than CloudTrail's own, 0 for what is no time."""
        record = batch.read_record(row)
        return 0 if record is None else parse_time(record.eventTime) or 0

    def _find_log(self, session_number: int, place_number: int, time: int) -> int:
        """The number of the log that a record stands in: that of its recipient, else of its caller's account."""
        memory = self._sight.memory
        account_id = memory.places[place_number].account_id
        origin = memory.sessions.origin_numbers[session_number]
        logs, number = (memory.place_logs, place_number) if account_id else (memory.origin_logs, origin)
        if logs[number] == NO_LOG:
            logs[number] = self._logs.number(account_id or memory.sessions.origins[origin].account_id, time)
        return int(logs[number])

    def _settle(self, number: int, shape: Shape, batch: Batch, row: int) -> int | None:
        """What a record's parameters make of its call; None where the record ends in a class before the uses."""
        actor, effect = self._sight.memory.calls[number]
        if shape.watched:
            self.changes.append(batch.read_raw(row))
        if actor.excluded is not None:
            self.tally.classes[actor.excluded] += 1
            return None
        rule = effect.rule
        if rule is None:
            self.tally.count_unmapped(shape.event_source, shape.event_name)
            return None
        if rule.proves is None:
            return number
        actions = self._actions.resolve(rule, batch.read_parameters(row))
        return number if actions == effect.actions else self._sight.find_other(number, actions)

    def _count_not_iam(self, event_time: object, account_id: object) -> None:
        self.tally.classes["not_iam"] += 1
        time = parse_time(event_time) if isinstance(event_time, str) else None
        if time is not None and time <= min(self.until, self.future) and isinstance(account_id, str):
            self._logs.note_time(self._logs.number(account_id, time), time)

    def reject_all(self, rejected: Iterable[Rejected]) -> None:
        """Count rejects, and keep them for the caller to take."""
        for found in rejected:
            self.tally.count_rejected(found.reason)
            self.rejects.append(found)

    def _reject(self, reason: str, shape: Shape, batch: Batch, row: int) -> None:
        record = batch.read_record(row)
        if record is None:
            self._end_early(shape, batch, row)
            return
        named = f"{record.eventSource} {record.eventName} {record.eventTime}".encode()
        self.reject_all((Rejected(reason, named, batch.find_origin(row)),))
