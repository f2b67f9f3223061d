"""Places of a stream's records: the same however a shard is cut into answers and slices, and greater where counting begins anew."""

import itertools
import json
from collections.abc import Sequence

import numpy as np
import pytest
from aws_servers import wrap_aggregate, wrap_event, wrap_logs
from building import build_record
from hypothesis import given, settings
from hypothesis import strategies as st

from processor.shell.payloads import decode_all, decode_in_order
from processor.shell.stream_places import (
    TRIMMED_SECONDS,
    SequenceError,
    ShardPosition,
    pack_sequence,
    unpack_place,
)

RECORDS = [build_record(number, 1_780_272_000 + number) for number in range(40)]
SERVICE = build_record(99, 1_780_272_000, eventType="AwsServiceEvent")
KINDS: Sequence[bytes] = (
    wrap_event(RECORDS[0]),
    json.dumps(RECORDS[1]).encode(),
    wrap_event(SERVICE),
    wrap_logs(RECORDS[2:7]),
    wrap_aggregate([wrap_event(RECORDS[8]), wrap_logs([RECORDS[9], SERVICE, RECORDS[10]])]),
    json.dumps({"Records": RECORDS[11:14]}).encode(),
    json.dumps(RECORDS[14]).encode() + b"\n" + json.dumps(RECORDS[15]).encode(),
    b"",
    b"\n\n",
    b"no JSON",
    b"{\n}",
    b"\x1f\x8bno gzip",
    b"[]",
    json.dumps({**RECORDS[16], "awsRegion": 7}).encode(),
    json.dumps({**RECORDS[17], "eventName": None}).encode(),
)
FIRST = 49590338271490256608559692538361571095921575989136588898


def read(payloads: Sequence[bytes], cuts: Sequence[int]) -> dict[str, list[tuple[bytes, int]]]:
    """The places of each event, of a shard that was read in these pieces."""
    place = ShardPosition()
    found: dict[str, list[tuple[bytes, int]]] = {}
    bounds = [0, *sorted({cut % (len(payloads) + 1) for cut in cuts}), len(payloads)]
    for begin, end in itertools.pairwise(bounds):
        if begin == end:
            continue
        decoded, rows = decode_in_order(payloads[begin:end])
        places = place.number_rows(rows)
        # As a crash leaves it: from what was packed.
        place = unpack_place(place.move([str(FIRST + at) for at in range(begin, end)], 1_000).pack()).go_on(1_010)
        events = [
            (record.eventID, row)
            for row, record in enumerate(
                batch.read_record(number) for batch in decoded.batches for number in range(len(batch.rows.places))
            )
            if record is not None
        ]
        assert len(places) == int(rows.sum()) == sum(len(batch.rows.places) for batch in decoded.batches)
        for event, row in events:
            found.setdefault(event, []).append((place.base, int(places[row])))
    return found


@settings(deadline=None)
@given(st.lists(st.sampled_from(KINDS), min_size=1, max_size=30), st.lists(st.integers(0, 30), max_size=6))
def test_a_place_is_the_same_however_a_shard_is_cut(payloads: list[bytes], cuts: list[int]) -> None:
    whole = read(payloads, ())
    assert read(payloads, cuts) == whole
    assert read(payloads, range(1, len(payloads))) == whole
    places = sorted(place for each in whole.values() for place in each)
    assert len(set(places)) == len(places)


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([kind for kind in KINDS if kind.strip() and b"\n" not in kind]), min_size=1, max_size=30)
)
def test_in_order_finds_what_all_together_finds(payloads: list[bytes]) -> None:
    together, (apart, rows) = decode_all(payloads), decode_in_order(payloads)
    assert len(rows) == len(payloads)
    # What is no IAM call is a row or not, as it comes.
    key = [
        sorted(record.eventID for record in each.records if record.eventID != SERVICE["eventID"])
        for each in (together, apart)
    ]
    assert key[0] == key[1]
    assert together.read == apart.read
    assert len(together.rejected) == len(apart.rejected)


def test_events_of_an_answer_are_decoded_together() -> None:
    decoded, rows = decode_in_order([wrap_event(record) for record in RECORDS])
    assert len(decoded.batches) == 1
    assert rows.tolist() == [1] * len(RECORDS)


def test_places_of_a_record_with_many_follow_each_other() -> None:
    position = ShardPosition(str(FIRST), pack_sequence(str(FIRST)), 4_095, 5)
    places = position.number_rows(np.array([2, 0, 3]))
    assert np.all(np.diff(places) > 0)
    assert [int(place) >> 20 for place in places] == [4_095, 4_095, 4_097, 4_097, 4_097]


def test_counting_begins_anew_from_a_greater_base_where_records_may_be_gone() -> None:
    before = ShardPosition().move([str(FIRST), str(FIRST + 5)], 1_000)
    assert before.go_on(1_000 + TRIMMED_SECONDS - 1) == before
    after = before.go_on(1_000 + TRIMMED_SECONDS)
    assert (after.sequence, after.count) == (str(FIRST + 5), 0)
    moved = after.move([str(FIRST + 70)], 2_000)
    assert moved.base > before.base
    assert moved.count == 1
    # Tried again before anything of it was stored, it is counted from the same base.
    assert before.go_on(1_000 + TRIMMED_SECONDS + 9).move([str(FIRST + 70)], 2_009).base == moved.base


def test_a_position_of_an_earlier_gapwatch_is_read_on() -> None:
    assert unpack_place(str(FIRST).encode()) == ShardPosition(str(FIRST))
    assert unpack_place(b"") == ShardPosition()


@given(st.integers(0, 2**224 - 1), st.integers(0, 2**224 - 1))
def test_sequence_numbers_are_in_order_as_bytes(one: int, other: int) -> None:
    assert (pack_sequence(str(one)) < pack_sequence(str(other))) == (one < other)


@pytest.mark.parametrize("text", ["", "x", "-1", "9" * 68])
def test_what_is_no_sequence_number_is_said(text: str) -> None:
    with pytest.raises(SequenceError, match="at most 67 digits"):
        pack_sequence(text)


def test_odd_events_do_not_have_the_others_decoded_again() -> None:
    """Each stretch between them is one batch of the one text."""
    payloads = [wrap_event(record) for record in RECORDS]
    among = [*payloads, b'{"no": "record"}', *payloads, b"", wrap_event(RECORDS[0]) * 2, *payloads]
    decoded, rows = decode_in_order(among)
    plain = [batch for batch in decoded.batches if len(batch.rows.places) == len(RECORDS)]
    assert len(plain) == 3
    assert len({id(batch.texts[0]) for batch in plain}) == 1
    assert rows.tolist()[: len(RECORDS)] == rows.tolist()[-len(RECORDS) :] == [1] * len(RECORDS)
