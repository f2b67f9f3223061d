"""The compiled loop that turns rows into uses: for each row its session, its shape, the call that the two make, and its time.

What is met for the first time gets a place in its table at once, with PENDING as its value, and its row is handed back;
rows that meet something pending are done in a second pass. So each new thing is looked at once, however often it occurs. A new
call, and a session that is as another but for its name, need no look: the loop numbers them itself.
"""

import numpy as np

from processor.core.caller_hash import hash_caller, hash_role
from processor.core.compiled import (
    Halves,
    Numbers,
    Octets,
    Read,
    Table,
    Word,
    Words,
    compiled,
    inner,
    load_octet,
    load_some,
    load_word,
)
from processor.core.key_tables import EMPTY, find_slot
from processor.core.scan import CALLER, EVENT, PARAMETERS_AT, PARAMETERS_END, PLACE, SHAPE, TIME, WHO_AT, WHO_END

PENDING = -1
UNKNOWN = -2
NOT_LOOKED_UP = -3
"""Values of keys that have no number: PENDING until the caller has looked at the row that it was met in; UNKNOWN where
that gave it none, so that it asks again. NOT_LOOKED_UP is a call whose session, shape or place had no number yet."""

NOBODY = -1
"""The actor of a session whose userIdentity is no object."""

PLAIN, PROVED, NO_PRINCIPAL, OUT_OF_SCOPE, LOOKED_AT, WATCHED = range(6)
"""What becomes of a call's records: uses as they are; uses by what the parameters prove; none, counted in one of two classes;
each is looked at. Its actor and its shape each have one of these; each record of a WATCHED shape is looked at, whoever calls."""

NO_CALL = -1

(
    NEW_SESSIONS, NEW_SHAPES, NEW_PLACES, NEW_CALLS, NEWEST, SECOND_NEWEST, UNTIL, FUTURE, LOGS_MOVED, ASKED,
    PROOFS, LATER, NOBODYS, OUTSIDE, SESSIONS, BORN, CALLS, OPENED,
) = range(18)  # fmt: skip
NOTES = 18
"""What the loop takes and leaves: new keys by table, times, how many rows it hands back, and how many sessions and calls there were
before those that it made."""

MODEL, NAME_AT, NAME_END = range(3)
BORN_COLUMNS = 3
"""Columns of the sessions that the loop made: one that is like it but for its name, and where that lies."""

ACTOR, EFFECT = range(2)
OPENED_COLUMNS = 2
"""Columns of the calls that the loop made: whose it is, and the number of its shape."""

ROW, SESSION, SHAPE_NUMBER, PLACE_NUMBER, CALL_NUMBER = range(5)
ASKED_COLUMNS = 5
"""Columns of the rows that are asked about: what is known of each, negative where it is not."""

NO_LOG = -1

NEEDLE_PRIME, NEEDLE_BYTES = 0x9E3779B185EBCA87, 5
_NEEDLE_PRIME = np.uint64(NEEDLE_PRIME)
_ONE = np.uint64(1)
_R32, _R46, _R52, _R58 = np.uint64(32), np.uint64(46), np.uint64(52), np.uint64(58)
_LOW_SIX = np.uint64(0x3F)
_LOW_FIVE = np.uint64(0xFFFFFFFFFF)


@inner
def key_of_call(actor: int, shape: int) -> np.uint64:
    """Exact: both are small numbers."""
    return ((np.uint64(actor) << _R32) | np.uint64(shape)) + _ONE


@inner
def join_kinds(actor: int, shape: int) -> int:
    """What becomes of the records of a call."""
    if shape == WATCHED:
        return LOOKED_AT
    return shape if actor == PLAIN else actor


@inner
def may_hold(text: int, at: int, end: int, needles: Table[Words], shape: int) -> bool:
    """Whether five bytes stand there that begin with a quote or a colon, as the needles of proofs do, and have their bit in all
    three words: those of a needle always have it, of others some in a thousand."""
    while at + NEEDLE_BYTES <= end:
        octet = load_octet(text, at)
        if octet == 0x22 or octet == 0x3A:
            hashed = (load_word(text, at) if at + 8 <= end else load_some(text, at, end)) & _LOW_FIVE
            hashed *= _NEEDLE_PRIME
            found = needles[shape, 0] >> (hashed >> _R58)
            found &= needles[shape, 1] >> ((hashed >> _R52) & _LOW_SIX)
            found &= needles[shape, 2] >> ((hashed >> _R46) & _LOW_SIX)
            if found & _ONE:
                return True
        at += 1
    return False


@inner
def find_or_add(keys: Words, values: Numbers, key: np.uint64, notes: Numbers, count: int) -> int:
    """The value of a key; UNKNOWN for one that was not there, and is PENDING now."""
    slot = find_slot(keys, key)
    if keys[slot] == EMPTY:
        keys[slot] = key
        values[slot] = PENDING
        notes[count] += 1
        return UNKNOWN
    return int(values[slot])


@inner
def reach_session(
    at: int, end: int, seed: np.uint64, keys: Words, values: Numbers, role_keys: Words, role_values: Numbers, origins: Halves,
    notes: Numbers, born: Table[Numbers],
) -> tuple[int, np.uint64, np.uint64]:  # fmt: skip
    """The session of a userIdentity, its hash, and that of all but its name, if that was asked for. One that is as another but
    for its name is made here."""
    caller = hash_caller(0, at, end, seed)
    session = find_or_add(keys, values, caller, notes, NEW_SESSIONS)
    if session != UNKNOWN:
        return session, caller, EMPTY
    role, begin, close = hash_role(0, at, end, seed)
    slot = find_slot(role_keys, role)
    if role == EMPTY or role_keys[slot] == EMPTY:
        return UNKNOWN, caller, role
    new, model = notes[BORN], role_values[slot]
    session = notes[SESSIONS] + new
    origins[session] = origins[model]
    values[find_slot(keys, caller)] = session
    born[new, MODEL], born[new, NAME_AT], born[new, NAME_END] = model, begin, close
    notes[BORN] = new + 1
    return session, caller, role


@inner
def reach_call(
    actor: int, shape: int, keys: Words, values: Numbers, notes: Numbers, opened: Table[Numbers]
) -> int:  # fmt: skip
    """The call of an actor and a shape, made where it is new."""
    key = key_of_call(actor, shape)
    call = find_or_add(keys, values, key, notes, NEW_CALLS)
    if call == UNKNOWN:
        new = notes[OPENED]
        opened[new, ACTOR], opened[new, EFFECT] = actor, shape
        notes[OPENED] = new + 1
        call = notes[CALLS] + new
        values[find_slot(keys, key)] = call
    return call


@compiled
def resolve_loop(
    seed: Word, todo: Read[Numbers], places: Read[Table[Numbers]], hashes: Read[Table[Words]],
    who_keys: Words, who_values: Numbers, session_keys: Words, session_values: Numbers,
    role_keys: Read[Words], role_values: Read[Numbers], origins: Halves, actors: Read[Halves], origin_logs: Read[Halves],
    shape_keys: Words, shape_values: Numbers, stops: Read[Numbers], place_keys: Words, place_values: Numbers,
    place_logs: Read[Numbers], call_keys: Words, call_values: Numbers, actor_kinds: Read[Octets], shape_kinds: Read[Octets],
    salts: Read[Words], needles: Read[Table[Words]], firsts: Numbers, notes: Numbers,
    calls: Numbers, sessions: Numbers, where: Numbers, times: Numbers, events: Words,
    asked: Table[Numbers], asked_hashes: Table[Words], proofs: Numbers, later: Numbers, born: Table[Numbers],
    opened: Table[Numbers],
) -> None:  # fmt: skip
    """Fill `calls`, `sessions`, `where`, `times` and `events` for the rows in `todo`. `asked` are rows for the caller to look
    at, `proofs` those (filled in) whose parameters it must read, `later` those to be done once it has; `born` are sessions,
    and `opened` calls, that lack in its lists. Places are addresses: the text is all of memory."""
    newest, second, until, future = notes[NEWEST], notes[SECOND_NEWEST], notes[UNTIL], notes[FUTURE]
    asking = proving = waiting = 0
    for row in todo:
        who = hashes[row, CALLER]
        slot = who & np.uint64(len(who_keys) - 1)
        session = who_values[slot] if who_keys[slot] == who else UNKNOWN
        caller = role = EMPTY
        if session < 0:
            session, caller, role = reach_session(
                places[row, WHO_AT], places[row, WHO_END], np.uint64(seed), session_keys, session_values, role_keys, role_values,
                origins, notes, born,
            )  # fmt: skip
            if session >= 0:
                who_keys[slot], who_values[slot] = who, session
        shape = find_or_add(shape_keys, shape_values, hashes[row, SHAPE], notes, NEW_SHAPES)
        place = find_or_add(place_keys, place_values, hashes[row, PLACE], notes, NEW_PLACES)
        call, actor = NOT_LOOKED_UP, actors[origins[session]] if session >= 0 else NOBODY
        if session >= 0 and shape >= 0 and place >= 0 and actor != NOBODY and stops[shape] == 0:
            call = reach_call(actor, shape, call_keys, call_values, notes, opened)
        # A row that made something pending is never put off, so that in the end nothing is.
        fresh = session == UNKNOWN or shape == UNKNOWN or place == UNKNOWN
        pending = session == PENDING or shape == PENDING or place == PENDING
        if pending and not fresh:
            later[waiting] = row
            waiting += 1
            continue
        time = places[row, TIME]
        log = NO_LOG
        if session >= 0 and place >= 0:
            log = place_logs[place] if place_logs[place] != NO_LOG else origin_logs[origins[session]]
        kind = LOOKED_AT if call < 0 else join_kinds(actor_kinds[actor], shape_kinds[shape])
        if kind == LOOKED_AT or log == NO_LOG or time == 0 or time > future:
            asked[asking, ROW], asked[asking, SESSION] = row, session
            asked[asking, SHAPE_NUMBER], asked[asking, PLACE_NUMBER], asked[asking, CALL_NUMBER] = shape, place, call
            asked_hashes[asking, 0], asked_hashes[asking, 1] = caller, role
            asking += 1
            continue
        if time <= until:
            if time < firsts[log]:
                firsts[log] = time
                notes[LOGS_MOVED] = 1
            if time > newest:
                newest, second = time, newest
            elif time > second and time != newest:
                second = time
        if kind in (NO_PRINCIPAL, OUT_OF_SCOPE):
            notes[NOBODYS if kind == NO_PRINCIPAL else OUTSIDE] += 1
            continue
        if kind == PROVED and may_hold(0, places[row, PARAMETERS_AT], places[row, PARAMETERS_END], needles, shape):
            proofs[proving] = row
            proving += 1
        calls[row], sessions[row], where[row], times[row] = call, session, place, time
        events[row] = hashes[row, EVENT] ^ salts[actor]
    notes[NEWEST], notes[SECOND_NEWEST] = newest, second
    notes[ASKED], notes[PROOFS], notes[LATER] = asking, proving, waiting
