"""What an intake has met: sessions, shapes, places and calls by number, with the columns that its loop reads of them."""

import numpy as np

from processor.core.actions import ActionRule
from processor.core.compiled import Halves, Numbers, Octets, Words
from processor.core.key_tables import KeyTable, grow
from processor.core.principals import Principal
from processor.core.resolve_loop import (
    ACTOR,
    EFFECT,
    LOOKED_AT,
    NO_LOG,
    NO_PRINCIPAL,
    OUT_OF_SCOPE,
    PLAIN,
    PROVED,
    WATCHED,
)
from processor.core.sessions import Actor, Calls, Effect, Place, Sessions, Shape

SESSIONS_MAX = 65_536
CALLS_MAX = 131_072
SHAPES_MAX = 16_384
PLACES_MAX = 16_384
"""Bounds of what is remembered; where one is passed all is forgotten before the next batch, as the same things soon come
again."""

NO_NEEDLES = (0, 0, 0)
"""Of a shape without a rule: nobody looks for what it may prove."""

CALLERS = 65_536
"""Slots for userIdentities as they stand in records, a power of two. What finds its own taken takes it over: the other one's
session is found again by its hash, at some tenths of a microsecond."""


KINDS = {None: PLAIN, "no_principal": NO_PRINCIPAL, "out_of_scope": OUT_OF_SCOPE}
"""Of actors, by the class that their records are excluded for."""

ActorKey = tuple[str, str | None, str]
"""ARN, unique id and kind."""


def kind_of(shape: Shape) -> int:
    if shape.watched:
        return WATCHED
    rule = shape.effect.rule
    return LOOKED_AT if rule is None else PLAIN if rule.proves is None else PROVED


class Memory:
    """Python's side of it is dicts and lists; `settle` brings the tables and columns up to them, many at a time."""

    def __init__(self) -> None:
        self.sessions = Sessions()
        self.shapes: list[Shape] = []
        self.places: list[Place] = []
        self.calls = Calls()
        self.other_calls: dict[tuple[int, tuple[int, ...]], int] = {}
        self.other_effects: dict[tuple[Effect, tuple[int, ...]], Effect] = {}
        self.rules: dict[tuple[str, str], ActionRule | None] = {}
        self.shape_numbers: dict[tuple[str, str, int, str], int] = {}
        self.texts: dict[str, str] = {}
        self.actors: list[Actor] = []
        self.actors_by_key: dict[ActorKey, Actor] = {}
        self.who_keys: Words = np.zeros(CALLERS, np.uint64)
        self.who_values: Numbers = np.zeros(CALLERS, np.int64)
        self.by_caller, self.by_role = KeyTable(), KeyTable()
        self.by_shape, self.by_place, self.by_call = KeyTable(), KeyTable(), KeyTable()
        self.shape_keys: dict[int, int] = {}
        self.place_keys: dict[int, int] = {}
        self.actor_numbers: Halves = np.zeros(64, np.int32)
        self.origin_logs: Halves = np.zeros(64, np.int32)
        self.stops: Numbers = np.zeros(64, np.int64)
        self.needles: Words = np.zeros((64, 3), np.uint64)
        self.actor_kinds: Octets = np.zeros(64, np.uint8)
        self.shape_kinds: Octets = np.zeros(64, np.uint8)
        self.place_logs: Numbers = np.zeros(64, np.int64)
        self.salts: Words = np.zeros(64, np.uint64)
        self._settled = 0

    def is_full(self) -> bool:
        """Whether a bound was passed."""
        return (
            len(self.sessions) > SESSIONS_MAX
            or len(self.calls) > CALLS_MAX
            or len(self.shape_keys) > SHAPES_MAX
            or len(self.shapes) > SHAPES_MAX
            or len(self.places) > PLACES_MAX
        )

    def reserve(self, rows: int) -> None:
        """Make room in all tables for what so many rows may bring."""
        for table in (self.by_caller, self.by_shape, self.by_place, self.by_call):
            table.reserve(rows)
        self.sessions.reserve(rows)

    def open_actor(self, key: ActorKey, principal: Principal | None, excluded: str | None) -> Actor:
        """A new actor."""
        number = len(self.actors)
        actor = self.actors_by_key[key] = Actor(principal, excluded, number)
        self.actors.append(actor)
        self.salts, self.actor_kinds = grow(self.salts, number + 1), grow(self.actor_kinds, number + 1)
        self.salts[number], self.actor_kinds[number] = actor.salt, KINDS[excluded]
        return actor

    def add_session(self, actor: Actor, operator: str, via: str, account_id: str) -> int:
        """The number of a new session."""
        known = len(self.sessions.origins)
        # One name is that of sessions of many roles.
        number = self.sessions.add(actor, self.texts.setdefault(operator, operator), via, account_id)
        size = len(self.sessions.origins)
        self.actor_numbers, self.origin_logs = grow(self.actor_numbers, size), grow(self.origin_logs, size)
        self.actor_numbers[known:size], self.origin_logs[known:size] = actor.number, NO_LOG
        return number

    def add_named(self, model: int, name: str) -> None:
        """Add a session that is as another but for its name, and whose origin the loop has noted."""
        is_known = self.sessions.origin_of(model).actor.principal is not None
        self.sessions.operators.append(self.texts.setdefault(name, name) if is_known else "")

    def add_place(self, place: Place) -> int:
        number = len(self.places)
        self.places.append(place)
        self.place_logs = grow(self.place_logs, number + 1)
        self.place_logs[number] = NO_LOG
        return number

    def add_calls(self, opened: Numbers) -> None:
        """Add the calls that the loop made."""
        self.calls.actors += [self.actors[number] for number in opened[:, ACTOR].tolist()]
        self.calls.effects += [self.shapes[number].effect for number in opened[:, EFFECT].tolist()]

    def settle(self, pending: "Pending") -> None:
        """Write what was added since the last time, and give the keys of `pending` their numbers."""
        shapes, size = self._settled, len(self.shapes)
        fresh = self.shapes[shapes:]
        self.stops, self.needles = grow(self.stops, size), grow(self.needles, size)
        self.shape_kinds = grow(self.shape_kinds, size)
        self.shape_kinds[shapes:size] = list(map(kind_of, fresh))
        self.stops[shapes:size] = [bool(shape.stop) for shape in fresh]
        needles = [NO_NEEDLES if shape.effect.rule is None else shape.effect.rule.needles for shape in fresh]
        self.needles[shapes:size] = np.array(needles, np.uint64).reshape(-1, 3)
        self._settled = size
        for table, found in (
            (self.by_caller, pending.sessions),
            (self.by_role, pending.roles),
            (self.by_shape, pending.shapes),
            (self.by_place, pending.places),
            (self.by_call, pending.calls),
        ):
            table.put_all(list(found), list(found.values()))


class Pending:
    """Numbers of keys that rows asked about, and that the tables do not have; UNKNOWN for what has none."""

    __slots__ = ("calls", "places", "roles", "sessions", "shapes")

    def __init__(self) -> None:
        self.sessions: dict[int, int] = {}
        self.roles: dict[int, int] = {}
        self.shapes: dict[int, int] = {}
        self.places: dict[int, int] = {}
        self.calls: dict[int, int] = {}
