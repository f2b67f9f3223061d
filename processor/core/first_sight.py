"""What an intake does with a session, shape, place or call that it meets for the first time: it gets a number, and is then
known to the loop by a hash."""

from collections.abc import Container

from processor.core.actions import ActionMap
from processor.core.batches import Batch
from processor.core.memory import Memory, Pending
from processor.core.principals import Known, UserIdentity, decode_user_identity, differs_by_name, resolve_caller
from processor.core.records import NOT_IAM_SOURCES, Record, is_denied, is_not_iam
from processor.core.resolve_loop import NOBODY, UNKNOWN
from processor.core.scan import PLACE, SHAPE
from processor.core.sessions import DENIED, FAILED, SUCCEEDED, Actor, Effect, Place, Scope, Shape

NO_ACTOR = Actor(None, "rejected", NOBODY)
UNKNOWN_EFFECT = Effect(None, (), FAILED)
BAD = "undecodable"
NOT_IAM = "not_iam"
"""Why a shape's records are no uses: one of them was no UTF-8, so that each must be looked at; no IAM action's."""


class FirstSight:
    """Opens what is new in `memory`. `known` are the inventory's principals by unique id, `watched` the pairs of eventSource
    and eventName whose successful records are each looked at."""

    def __init__(self, actions: ActionMap, scope: Scope, known: Known) -> None:
        self.memory = Memory()
        self.watched: Container[tuple[str, str]] = ()
        self._actions = actions
        self._scope = scope
        self._known = known

    def forget_when_full(self) -> None:
        if self.memory.is_full():
            self.memory = Memory()

    def find_session(self, raw: bytes, caller: int, role: int, pending: Pending) -> int:
        """The number of a session, opened where it is new; `caller` is the hash of its userIdentity, which is `raw`. `role` is
        that of all but its name, by which the loop opens those of other names itself; 0 where there is none."""
        number = pending.sessions.get(caller, UNKNOWN)
        if number < 0:
            found = decode_user_identity(raw)
            number = pending.sessions[caller] = self._open_session(found)
            if role and found is not None and differs_by_name(found):
                pending.roles[role] = number
        return number

    def _open_session(self, found: UserIdentity | None) -> int:
        if found is None:
            return self.memory.add_session(NO_ACTOR, "", "", "")
        caller = resolve_caller(found, self._known)
        principal = caller.principal
        key = ("", None, "") if principal is None else (principal.arn, principal.unique_id, principal.kind)
        actor = self.memory.actors_by_key.get(key)
        if actor is None:
            excluded = "no_principal" if principal is None else None
            if principal is not None and not self._scope.covers(principal):
                excluded = "out_of_scope"
            actor = self.memory.open_actor(key, principal, excluded)
        account_id = found.accountId or (principal.account_id if principal is not None else "")
        return self.memory.add_session(actor, caller.operator, caller.via, account_id)

    def find_shape(self, batch: Batch, row: int, pending: Pending) -> int:
        """The number of a record's shape, read where it is new."""
        hashed = int(batch.rows.hashes[row, SHAPE])
        number = self.memory.shape_keys.get(hashed)
        if number is not None and self.memory.shapes[number].stop != BAD:
            return number
        record = batch.read_record(row)
        # What is no UTF-8 may be another field of the record: the next one of its shape is looked at, too.
        shape = Shape("", "", UNKNOWN_EFFECT, BAD) if record is None else self._read_shape(record)
        key = shape.event_source, shape.event_name, shape.effect.outcome, shape.stop
        number = self.memory.shape_numbers.get(key)
        if number is None:
            number = self.memory.shape_numbers[key] = len(self.memory.shapes)
            self.memory.shapes.append(shape)
        self.memory.shape_keys[hashed] = pending.shapes[hashed] = number
        return number

    def _read_shape(self, record: Record) -> Shape:
        source, name, code = record.eventSource, record.eventName, record.errorCode
        not_iam = is_not_iam(record.eventType, record.eventCategory, source)
        rules = self.memory.rules
        rule = rules.get((source, name))
        if rule is None and (source, name) not in rules:
            # The catalogue has actions of sign-in, but its events are not decided by IAM as those of other services are.
            rule = rules[source, name] = None if source in NOT_IAM_SOURCES else self._actions.lookup(source, name)
        outcome = SUCCEEDED if not code else DENIED if is_denied(code, source) else FAILED
        watched = outcome == SUCCEEDED and (source, name) in self.watched
        effect = Effect(rule, () if rule is None else rule.unproved, outcome)
        return Shape(source, name, effect, NOT_IAM if not_iam else "", watched)

    def find_place(self, batch: Batch, row: int, pending: Pending) -> int:
        """The number of a record's place, read where it is new."""
        hashed = int(batch.rows.hashes[row, PLACE])
        number = self.memory.place_keys.get(hashed)
        if number is None:
            record = batch.read_record(row)
            number = self.memory.add_place(
                Place(None, None) if record is None else Place(record.awsRegion, record.recipientAccountId)
            )
            if record is not None:
                self.memory.place_keys[hashed] = number
            pending.places[hashed] = UNKNOWN if record is None else number
        return number

    def reach_call(self, actor: Actor, shape_number: int, pending: Pending) -> int:
        """The number of the call of an actor and a shape, opened where it is new."""
        key = (actor.number << 32 | shape_number) + 1
        number = pending.calls.get(key, UNKNOWN)
        if number < 0:
            number = self.memory.by_call.find(key)
        if number < 0:
            number = pending.calls[key] = self.memory.calls.add(actor, self.memory.shapes[shape_number].effect)
        return number

    def find_other(self, number: int, actions: tuple[int, ...]) -> int:
        """The number of the same call with other actions."""
        memory = self.memory
        found = memory.other_calls.get((number, actions))
        if found is None:
            actor, effect = memory.calls[number]
            other = memory.other_effects.get((effect, actions))
            if other is None:
                other = memory.other_effects[effect, actions] = Effect(effect.rule, actions, effect.outcome)
            found = memory.other_calls[number, actions] = memory.calls.add(actor, other)
        return found
