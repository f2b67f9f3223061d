"""What an intake writes a ledger reads: uses by shard as messages and back, and what was applied is skipped."""

from dataclasses import replace
from itertools import chain
from typing import Any

import msgspec
import numpy as np
import pytest
from building import ACCOUNT, build_principal
from hypothesis import given
from hypothesis import strategies as st

from processor.core.compiled import Numbers
from processor.core.sessions import Actor, Calls, Effect, Place, Sessions, key_of, shard_of
from processor.core.uses import Uses
from processor.core.uses_reader import UnreadableUses, UsesReader, cut_applied
from processor.core.uses_writer import SliceRows, UsesWriter
from topics.uses import CODEC, Batch, Message, Part

NAMES = [f"ec2:Action{number}" for number in range(20)]
ACTORS = [Actor(build_principal(f"role{number}"), None, number) for number in range(6)]
FIRST, SECOND = b"first of sources", b"other of sources"


class Arns:
    """Texts by place."""

    def __init__(self, count: int) -> None:
        self.texts = [f"arn:aws:s3:::bucket-{place % 7}" for place in range(count)]

    def read_arns(self, places: Numbers) -> list[str]:
        return [self.texts[place] for place in places.tolist()]


def build_uses(rows: list[tuple[int, int, int, int, int]]) -> Uses:
    """Uses of (actor, actions, operator, time, ARNs); the event is the row's number."""
    calls = Calls()
    columns: list[tuple[int, ...]] = []
    arns = 0
    for row, (actor, actions, operator, time, count) in enumerate(rows):
        call = calls.add(ACTORS[actor], Effect(None, tuple(range(actions)), row % 3))
        columns.append((call, operator, row % 2, time, row, arns, arns + count))
        arns += count
    table: Numbers = np.array(columns, np.int64).reshape(-1, 7)
    sessions = Sessions()
    for number in range(4):
        sessions.add(ACTORS[0], f"operator {number}", "lambda.amazonaws.com" * (number % 2), ACCOUNT)
    events = [(row + 1) ^ calls.actors[row].salt for row in range(len(rows))]
    texts = Arns(arns)
    return Uses(
        calls, sessions, [Place("eu-central-1", ACCOUNT), Place(None, ACCOUNT)],
        table[:, 0], table[:, 1], table[:, 2], table[:, 3], np.array(events, np.uint64), table[:, 5], table[:, 6],
        np.array([hash(text) % 2**63 for text in texts.texts], np.uint64), texts, table[:, 4],
    )  # fmt: skip


def describe(uses: Uses) -> list[Any]:
    """Each use by what it says, and not by numbers."""
    found = []
    for at in range(len(uses.call)):
        call, session = uses.calls[int(uses.call[at])], uses.sessions[int(uses.session[at])]
        arns = range(int(uses.arns_from[at]), int(uses.arns_to[at]))
        assert uses.batch is not None
        found.append(
            (
                call.actor.principal, call.effect.outcome, tuple(NAMES[action] for action in call.effect.actions), session.operator,
                session.origin.via, uses.places[int(uses.place[at])].region, int(uses.time[at]), int(uses.event[at]),
                tuple(uses.batch.read_arns(np.array(arns, np.int64))),
            )
        )  # fmt: skip
    return found


rows = st.lists(
    st.tuples(st.integers(0, 5), st.integers(1, 4), st.integers(0, 3), st.integers(1, 2**32 - 1), st.integers(0, 3)),
    max_size=60,
)


@given(rows)
def test_what_is_written_by_shard_is_read_again(given_rows: list[tuple[int, int, int, int, int]]) -> None:
    uses = build_uses(given_rows)
    found: list[Any] = []
    readers: dict[int, UsesReader] = {}
    for shard, value in UsesWriter(NAMES).write(uses, [SliceRows(0, FIRST, 0)]):
        batch = CODEC.decode(value).batch
        assert batch is not None
        read = readers.setdefault(shard, UsesReader(NAMES.index)).read(batch)
        said = describe(read)
        assert {shard_of(key_of(each[0])) for each in said} == {shard}
        assert read.row.tolist() == sorted(read.row.tolist()), "in the order of their source"
        found += said
    assert sorted(found, key=str) == sorted(describe(uses), key=str)


def write_one(uses: Uses, slices: list[SliceRows]) -> Batch:
    ((_, value),) = UsesWriter(NAMES).write(uses, slices)
    batch = CODEC.decode(value).batch
    assert batch is not None
    return batch


ROWS = [(0, 1, 0, 100 + row, 0) for row in range(10)]


@pytest.mark.parametrize("cuts", [(10,), (4, 10), (1, 2, 9, 10)])
@pytest.mark.parametrize("applied", range(11))
def test_what_was_applied_is_skipped_however_the_source_was_cut(cuts: tuple[int, ...], applied: int) -> None:
    """After `applied` uses in one piece, the whole source comes again in others."""
    reader = UsesReader(NAMES.index)
    place = (b"\0\0\0\0", applied - 1) if applied else None
    counted = applied
    begin = 0
    for end in cuts:
        uses = build_uses(ROWS[begin:end])
        batch = write_one(uses, [SliceRows(0, FIRST, begin)])
        ((kept, _),), moved = cut_applied(reader.read(batch), batch, lambda source, place=place: place)
        counted += len(kept.call)
        place = moved.get(FIRST, place)
        begin = end
    assert counted == 10
    assert place == (b"\0\0\0\0", 9)


def test_sources_are_told_apart_and_one_ends() -> None:
    uses = build_uses(ROWS)
    batch = write_one(uses, [SliceRows(0, FIRST, 7), SliceRows(4, SECOND, 2**32 - 3, ended=True)])
    assert batch.sources == (FIRST, SECOND)
    assert [(part.source, part.sequence, part.uses) for part in batch.parts] == [
        (0, b"\0\0\0\0", 4), (1, b"\0\0\0\0", 3), (1, b"\0\0\0\1", 3),
    ]  # fmt: skip
    assert batch.ended == (1,)
    _, moved = cut_applied(UsesReader(NAMES.index).read(batch), batch, lambda _: None)
    assert moved == {FIRST: (b"\0\0\0\0", 10), SECOND: (b"\0\0\0\1", 2)}


@pytest.mark.parametrize("applied", range(11))
def test_what_a_stream_should_have_brought_is_told_apart(applied: int) -> None:
    """Rows 0 to 3 are a stream's, 4 to 6 a file's, and the rest a stream's again; so many of the stream were applied before."""
    slices = [SliceRows(0, FIRST, 0), SliceRows(4, SECOND, 0, ended=True, compared=True), SliceRows(7, FIRST, 4)]
    batch = write_one(build_uses(ROWS), slices)
    assert [batch.sources[number] for number in batch.compared] == [SECOND]
    place = (b"\0\0\0\0", applied - 1) if applied else None
    read = UsesReader(NAMES.index).read(batch)
    pieces, _ = cut_applied(read, batch, lambda source: place if source == FIRST else None)
    times = [(found.time.tolist(), is_compared) for found, is_compared in pieces if len(found.time)]
    first, second, third = (list(range(100 + begin, 100 + end)) for begin, end in ((0, 4), (4, 7), (7, 10)))
    first, third = first[applied:], third[max(0, applied - 4) :]
    assert times == [each for each in ((first, False), (second, True), (third, False)) if each[0]]


@pytest.mark.parametrize(
    "change",
    [
        {"time": b"\0" * 8},
        {"event": b"\0" * 79},
        {"call": b"\xff\xff\0\0" * 10},
        {"arn": b"\0" * 4},
        {"arns": b"\1\0" * 10, "arn": b"\1\0\0\0" * 10},
        {"parts": ()},
        {"parts": (Part(1, b"\0\0\0\0", 10),)},
        {"ended": (1,)},
        {"compared": (1,)},
    ],
)
def test_a_batch_that_contradicts_itself_is_refused(change: dict[str, Any]) -> None:
    batch = msgspec.structs.replace(write_one(build_uses(ROWS), [SliceRows(0, FIRST, 0)]), **change)
    with pytest.raises(UnreadableUses):
        UsesReader(NAMES.index).read(batch)


def test_an_action_of_another_catalogue_gets_an_id() -> None:
    ids = {name: at for at, name in enumerate(NAMES)}
    batch = write_one(build_uses(ROWS), [SliceRows(0, FIRST, 0)])
    other = msgspec.structs.replace(batch, actions=("new:Thing",))
    uses = UsesReader(lambda name: ids.setdefault(name, len(ids))).read(other)
    assert {effect.actions for effect in uses.calls.effects} == {(20,)}
    assert CODEC.decode(CODEC.encode(Message(batch=other))).batch == other


def build_naming_uses(uses_of: int, arns: int) -> Uses:
    """Uses of one principal, each of which names so many long ARNs that no other does."""
    uses = build_uses([(0, 1, 0, 100 + row, arns) for row in range(uses_of)])
    assert isinstance(uses.batch, Arns)
    uses.batch.texts = [f"arn:aws:s3:::bucket/{place:0>200}" for place in range(uses_of * arns)]
    return replace(uses, arn_hashes=np.arange(uses_of * arns, dtype=np.uint64))


def test_uses_that_name_more_than_a_message_takes_are_divided() -> None:
    uses = build_naming_uses(40, 400)
    slices = [SliceRows(0, FIRST, 0), SliceRows(4, SECOND, 0, ended=True), SliceRows(9, FIRST, 4, ended=True)]
    batches = [CODEC.decode(value).batch for _, value in UsesWriter(NAMES).write(uses, slices)]
    found: list[Any] = []
    reader = UsesReader(NAMES.index)
    for batch in batches:
        assert batch is not None
        found += describe(reader.read(batch))
    assert len(batches) > 3
    assert found == describe(uses), "in the order in which they came, with all that they name"
    ended = [[batch.sources[number] for number in batch.ended] for batch in batches if batch is not None]
    assert sorted(chain.from_iterable(ended)) == [FIRST, SECOND], "each ends once, with the last of it"
    assert ended[-1] == [FIRST]


def test_a_use_that_alone_names_more_than_a_message_takes_counts_without_them() -> None:
    uses = build_naming_uses(1, 10_000)
    (found,) = describe(UsesReader(NAMES.index).read(write_one(uses, [SliceRows(0, FIRST, 0)])))
    assert found == (*describe(uses)[0][:-1], ())
