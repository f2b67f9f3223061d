"""Bytes in whatever form -> records: files, envelopes and streams, whole or damaged."""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from building import build_record
from conftest import build_environment
from hypothesis import example, given, settings
from hypothesis import strategies as st

from processor.core.batches import Decoded, decode_log_batch, decode_payloads
from processor.core.stream import ELEMENT_BYTES_MAX, SLICE_BYTES, decode_stream, scan_value
from processor.shell.files import STDIN, Source, SourceError, SourceReader, find_sources

START = 1_772_323_200
DEEP = b"[" * 100_000 + b"]" * 100_000
MEMORY_BYTES_MAX = 400 * 1024 * 1024
CPU_SECONDS_MAX = 20


# --- what a stream comes to, and the records that it is made of ---------------------------------------------------------


class Found:
    """What all slices of a stream held, in order: the ids of records, and the reasons of rejects."""

    def __init__(self, slices: Iterable[Decoded]) -> None:
        self.ids: list[int] = []
        self.not_iam = 0
        self.rejected: list[str] = []
        for found in slices:
            # What comes out of a damaged gzip before its checksum is seen may be any text.
            self.ids += [int(end) if (end := record.eventID[-12:]).isdecimal() else -1 for record in found.records]
            self.not_iam += len(found.not_iam)
            self.rejected += [reject.reason for reject in found.rejected]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Found) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]  # a thing to compare, not to look up

    def __repr__(self) -> str:
        return f"Found({self.ids}, not_iam={self.not_iam}, rejected={self.rejected})"


def read_stream(stream: bytes, size: int | None = None) -> Found:
    """A stream in one chunk, or in chunks of `size` bytes."""
    chunks = [stream] if size is None else [stream[at : at + size] for at in range(0, len(stream), size)]
    return Found(decode_stream(chunks))


def build_records(count: int, first: int = 1, **changes: Any) -> list[dict[str, Any]]:
    return [build_record(number, START + number, **changes) for number in range(first, first + count)]


def dump(document: Any, **options: Any) -> bytes:
    """JSON without spaces, as AWS writes it."""
    return json.dumps(document, **{"separators": (",", ":"), **options}).encode()


def dump_lines(documents: Iterable[Any]) -> bytes:
    return b"".join(dump(document) + b"\n" for document in documents)


def wrap_file(records: Iterable[Any]) -> bytes:
    """What an S3 log file holds."""
    return dump({"Records": list(records)})


def wrap_event(record: Any) -> dict[str, Any]:
    """An EventBridge event."""
    return {
        "version": "0",
        "id": "6f87d04b-9f74-4f04-a780-7acf4b0a9b38",
        "detail-type": "AWS API Call via CloudTrail",
        "source": "aws.ec2",
        "account": "111122223333",
        "time": "2026-03-01T00:00:00Z",
        "region": "eu-central-1",
        "resources": [],
        "detail": record,
    }


def wrap_batch(records: Iterable[Any], kind: str = "DATA_MESSAGE") -> dict[str, Any]:
    """A CloudWatch Logs batch."""
    return {
        "messageType": kind,
        "owner": "111122223333",
        "logGroup": "trail",
        "logStream": "111122223333_CloudTrail_eu-central-1",
        "subscriptionFilters": ["all"],
        "logEvents": [
            {
                "id": str(number),
                "timestamp": START * 1000,
                "message": record if isinstance(record, str) else json.dumps(record),
            }
            for number, record in enumerate(records)
        ],
    }


def wrap_lookup(record: Any) -> dict[str, Any]:
    """An element of LookupEvents' answer."""
    return {"EventId": record["eventID"], "EventName": record["eventName"], "CloudTrailEvent": json.dumps(record)}


# --- every form --------------------------------------------------------------------------------------------------------

THREE = build_records(3)
CONTROL = wrap_batch(["CWL CONTROL MESSAGE: Checking health of destination Kinesis stream."], "CONTROL_MESSAGE")

FORMS: dict[str, bytes] = {
    "an S3 log file": wrap_file(THREE),
    "an S3 log file with spaces": json.dumps({"Records": THREE}).encode(),
    "an S3 log file, pretty-printed": json.dumps({"Records": THREE}, indent=2).encode(),
    "S3 log files one after the other": b"".join(wrap_file([record]) for record in THREE),
    "S3 log files, a line each": dump_lines({"Records": [record]} for record in THREE),
    "an S3 log file with keys around its records": dump({"Records": THREE, "NextToken": "x", "n": [1, {"a": "]"}]}),
    "records, a line each": dump_lines(THREE),
    "records, a line each, the last one open": dump_lines(THREE).rstrip(),
    "records, a line each, in Windows' way": dump_lines(THREE).replace(b"\n", b"\r\n"),
    "records, a line each, with empty lines": b"\n\n" + dump_lines(THREE).replace(b"\n", b"\n \n\t\n"),
    "records, a line each, behind a byte order mark": b"\xef\xbb\xbf" + dump_lines(THREE),
    "a byte order mark before every file": b"".join(b"\xef\xbb\xbf" + wrap_file([record]) for record in THREE),
    "records, pretty-printed, one after the other": b"\n".join(json.dumps(r, indent=2).encode() for r in THREE),
    "records without anything between them": b"".join(map(dump, THREE)),
    "an array": dump(THREE),
    "an array, pretty-printed": json.dumps(THREE, indent=4).encode(),
    "arrays, a line each": dump_lines([record] for record in THREE),
    "EventBridge events, a line each": dump_lines(map(wrap_event, THREE)),
    "EventBridge events in an array": dump(list(map(wrap_event, THREE))),
    "EventBridge events, pretty-printed": b"\n".join(json.dumps(wrap_event(r), indent=2).encode() for r in THREE),
    "EventBridge events in a file of records": dump({"Records": list(map(wrap_event, THREE))}),
    "a CloudWatch Logs batch": dump(wrap_batch(THREE)),
    "CloudWatch Logs batches, a line each": dump_lines(
        [CONTROL, wrap_batch(THREE[:2]), CONTROL, wrap_batch(THREE[2:])]
    ),
    "CloudWatch Logs batches, pretty-printed": json.dumps(wrap_batch(THREE), indent=2).encode(),
    "LookupEvents": dump({"Events": list(map(wrap_lookup, THREE))}),
    "LookupEvents, pretty-printed": json.dumps(
        {"Events": list(map(wrap_lookup, THREE)), "NextToken": "x"}, indent=4
    ).encode(),
    "LookupEvents, a line each": dump_lines(map(wrap_lookup, THREE)),
    "LookupEvents' answers, a line each": dump_lines({"Events": [wrap_lookup(record)]} for record in THREE),
    "a byte order mark in the middle of lines": dump_lines(THREE[:1]) + b"\xef\xbb\xbf" + dump_lines(THREE[1:]),
    "a byte order mark behind a carriage return": dump_lines(THREE[:1]) + b"\r\xef\xbb\xbf" + dump_lines(THREE[1:]),
    "records, then arrays, a line each": dump_lines([THREE[0], THREE[1:]]),
    "forms mixed, a line each": dump_lines([THREE[0], wrap_event(THREE[1]), wrap_batch(THREE[2:])]),
    "a record, then a file": dump_lines(THREE[:1]) + wrap_file(THREE[1:]),
    "a file, then records": wrap_file(THREE[:1]) + b"\n" + dump_lines(THREE[1:]),
    "keys in the alphabet's order": json.dumps({"Records": THREE}, sort_keys=True).encode(),
    "keys in the reverse order": dump({"Records": [dict(reversed(record.items())) for record in THREE]}),
}


@pytest.mark.parametrize("form", FORMS)
def test_form_is_recognised(form: str) -> None:
    found = read_stream(FORMS[form])
    assert (found.ids, found.not_iam, found.rejected) == ([1, 2, 3], 0, [])


@pytest.mark.parametrize(
    "empty",
    [
        b"",
        b"\n\r\n \t",
        b"\xef\xbb\xbf",
        b'{"Records":[]}',
        b'{"Records": [ ]}\n{"Records":[]}',
        b"[]",
        b'{"Events":[]}',
        dump(CONTROL),
    ],
)
def test_nothing_in_it_is_nothing_read(empty: bytes) -> None:
    found = read_stream(empty)
    assert (found.ids, found.not_iam, found.rejected) == ([], 0, [])


def test_payloads_of_a_queue_are_read_in_every_form() -> None:
    payloads = [dump(wrap_event(THREE[0])), dump(THREE[1]), wrap_file(THREE[2:]), dump(wrap_batch(THREE))]
    assert Found([decode_payloads(payloads)]).ids == [1, 2, 3, 1, 2, 3]
    assert Found([decode_payloads([dump(wrap_event(record)) for record in THREE])]).ids == [1, 2, 3]
    assert Found([decode_payloads([])]).ids == []


@pytest.mark.parametrize("key", ["Sns", "s3", "body"])
def test_notification_without_records_is_one_reject(key: str) -> None:
    assert read_stream(dump({"Records": [{key: {}}, *THREE]})).rejected == ["notification"]
    assert read_stream(dump(wrap_event({"bucket": {"name": "logs"}}))).rejected == ["notification"]


def test_log_batch_with_bad_messages_loses_only_those() -> None:
    batch = wrap_batch([THREE[0], "no json", THREE[1], '{"a":', THREE[2]])
    batch["logEvents"] += [{"id": "no message"}, None]
    found = Found([decode_log_batch(dump(batch))])
    assert found.ids == [1, 2, 3]
    assert found.rejected == ["undecodable", "undecodable", "no_message", "no_message"]


BROKEN_IN_TWO = (*dump(THREE[0]).partition(b",")[::2], dump(THREE[1]) + dump(THREE[2]))
"""Three elements in three texts: one goes on in the next, two share the last."""


def test_as_many_elements_as_texts_are_not_one_each() -> None:
    texts = [BROKEN_IN_TWO[0] + b",", *BROKEN_IN_TWO[1:]]
    for found in (
        Found([decode_payloads(texts)]),
        Found([decode_log_batch(dump(wrap_batch(t.decode() for t in texts)))]),
    ):
        assert 1 not in found.ids
        assert len(found.ids) + len(found.rejected) == 3
    assert read_stream(b"\n".join([dump(THREE[2]), *texts, dump(THREE[2])])).ids == [3, 2, 3, 3]


@pytest.mark.parametrize("place", range(1, 40, 3))
def test_a_line_that_is_cut_off_anywhere_costs_its_neighbours_nothing(place: int) -> None:
    lines = [dump(THREE[0])[:place], dump(THREE[1]), dump(THREE[2])]
    assert Found(decode_stream([b"\n".join(lines)])).ids == [2, 3]


@pytest.mark.parametrize(
    "end", [b"", b",", b',"NextToken":"x"', b',"NextToken":"x",', b',"more":[{"a":1}]', b',"NextToken":']
)
@pytest.mark.parametrize("between", [b"\n", b"\r\n", b"\n\n", b"\n  "])
@pytest.mark.parametrize("records", [b"", dump(THREE[0])])
def test_a_log_file_cut_off_behind_its_records_costs_the_next_line_nothing(
    end: bytes, between: bytes, records: bytes
) -> None:
    stream = b'{"Records":[' + records + b"]" + end + between + dump(THREE[1]) + b"\n" + dump(THREE[2])
    for chunks in ([stream], [stream[at : at + 1] for at in range(len(stream))]):
        found = Found(decode_stream(chunks))
        assert found.ids == ([1, 2, 3] if records else [2, 3])
        assert found.rejected == []


def test_log_batch_that_is_none_is_a_reject() -> None:
    for broken in (b"", b"{", b'{"messageType":"DATA_MESSAGE","deep":' + DEEP + b',"logEvents":[]}'):
        assert len(Found([decode_log_batch(broken)]).rejected) == 1


# --- long streams, however they are cut --------------------------------------------------------------------------------

MANY = build_records(2_400, requestParameters={"filterSet": {"items": [{"name": "x" * 400}]}})
NESTED = [
    # The boundary that cuts are made at, within a record, at every place of a slice.
    {**record, "requestParameters": {"copied": [{"eventVersion": "1.08", "pad": "y" * 700}, {"eventVersion": "1.08"}]}}
    for record in build_records(1_400)
]
TRICKY = [
    {
        **record,
        "requestParameters": {
            "text": 'quote " and \\ and },{"eventVersion": and \u202f \U0001f600 ]}',
            "pad": "z" * 500,
        },
    }
    for record in build_records(1_800)
]


@pytest.mark.parametrize("wrap", [wrap_file, dump_lines, dump, lambda many: dump_lines(map(wrap_event, many))])
@pytest.mark.parametrize("many", [MANY, NESTED, TRICKY], ids=["plain", "nested boundary", "tricky text"])
def test_long_stream_is_read_in_order(many: list[Any], wrap: Any) -> None:
    stream = wrap(many)
    assert len(stream) > 3 * SLICE_BYTES
    expected = list(range(1, len(many) + 1))
    for size in (None, 1_000, 65_536, SLICE_BYTES - 1):
        found = read_stream(stream, size)
        assert found.ids == expected
        assert found.rejected == []


def test_long_stream_comes_in_slices() -> None:
    sizes = [found.read for found in decode_stream([wrap_file(MANY)])]
    assert len(sizes) > 3
    assert max(sizes) * len(dump(MANY[0])) < 3 * SLICE_BYTES


@settings(max_examples=150, deadline=None)
@given(form=st.sampled_from(sorted(FORMS)), cuts=st.lists(st.integers(0, 20_000), max_size=12))
def test_cuts_of_a_stream_change_nothing(form: str, cuts: list[int]) -> None:
    stream = FORMS[form]
    places = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    chunks = [stream[start:end] for start, end in pairwise(places)]
    assert Found(decode_stream(chunks)) == read_stream(stream)


BROKEN_LINES = [
    b"",
    b"{",
    b"}",
    b"nul",
    b'"',
    b"[1,",
    b'{"a":"',
    b"\xff\xfe\x00",
    b'{"eventID":"\\ud800"}',
    b"7",
    b"null",
    b"[]",
]


@settings(max_examples=150, deadline=None)
@given(
    lines=st.lists(st.sampled_from([dump(THREE[0]), dump(wrap_event(THREE[1])), *BROKEN_LINES]), max_size=8),
    cuts=st.lists(st.integers(0, 20_000), max_size=8),
)
def test_cuts_of_broken_lines_change_nothing(lines: list[bytes], cuts: list[int]) -> None:
    stream = b"\n".join(lines)
    places = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    chunks = [stream[start:end] for start, end in pairwise(places)]
    assert Found(decode_stream(chunks)) == read_stream(stream)


# --- damage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line", [b"{", b"}", b"nul", b'"open', b'{"eventVersion":"1.0', b"\xff\xfe", b"\x00", b"no json at all", b"7"]
)
def test_broken_line_costs_one_reject(line: bytes) -> None:
    lines = list(map(dump, THREE))
    for place in range(1, 4):
        found = read_stream(b"\n".join([*lines[:place], line, *lines[place:]]))
        assert found.ids == [1, 2, 3]
        assert len(found.rejected) == 1


@pytest.mark.parametrize("keep", [1, 30, 300, 500])
def test_first_line_cut_off_costs_one_reject(keep: int) -> None:
    lines = list(map(dump, THREE))
    found = read_stream(b"\n".join([lines[0][:keep], *lines[1:]]))
    assert found.ids == [2, 3]
    assert len(found.rejected) == 1


@pytest.mark.parametrize("count", [3, 700])
def test_cut_off_log_file_costs_one_reject(count: int) -> None:
    records = MANY[:count]
    whole = wrap_file(records)
    ends = [whole.index(dump(record)) + len(dump(record)) for record in (records[0], records[count // 2], records[-1])]
    for end, complete in zip(ends, (1, count // 2 + 1, count), strict=True):
        for cut in (end - 5, end):
            found = read_stream(whole[:cut])
            assert found.ids == list(range(1, complete + (cut == end)))
            assert len(found.rejected) == 1
    # Nothing but the last brace is missing: nothing is lost.
    assert read_stream(whole[:-1]).rejected == []


def test_cut_in_the_middle_of_the_opening_costs_one_reject() -> None:
    for opening in (b"{", b'{"Rec', b'{"Records"', b'{"Records":', b'{"Records":['):
        assert len(read_stream(opening).rejected) == 1


@pytest.mark.parametrize("wrap", [wrap_file, dump_lines, dump])
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"eventID": None}, "no_eventID"),
        ({"eventID": ""}, "no_eventID"),
        ({"eventID": 5}, "bad_eventID"),
        ({"eventTime": 5}, "bad_eventTime"),
        ({"eventSource": None}, "no_eventSource"),
        ({"eventName": ["x"]}, "bad_eventName"),
        ({"awsRegion": [], "userIdentity": None}, "no_userIdentity"),
        ({"awsRegion": [], "userIdentity": "me"}, "bad_userIdentity"),
    ],
)
def test_odd_record_costs_its_neighbours_nothing(wrap: Any, changes: dict[str, Any], reason: str) -> None:
    odd = build_record(99, START, **changes)
    found = read_stream(wrap([*MANY[:300], odd, *MANY[300:]]))
    assert found.ids == list(range(1, len(MANY) + 1))
    assert found.rejected == [reason]


@pytest.mark.parametrize(
    "field",
    ["awsRegion", "errorCode", "sharedEventID", "recipientAccountId", "eventType", "eventCategory", "resources"],
)
def test_field_of_a_wrong_type_reads_as_absent(field: str) -> None:
    for value in (5, [], {}, True, [[]], [5, {"ARN": 5}]):
        stream = wrap_file([THREE[0], {**THREE[1], field: value}, THREE[2]])
        found = read_stream(stream)
        assert (found.ids, found.rejected) == ([1, 2, 3], [])


def test_same_record_is_decoded_alike_in_every_form() -> None:
    record = {
        **THREE[0],
        "resources": [{"ARN": "arn:aws:s3:::b"}, {"ARNPrefix": "arn:aws:s3:::b/"}],
        "errorCode": "AccessDenied",
    }
    decoded = [
        found.records[0]
        for stream in (
            dump(record),
            wrap_file([record]),
            dump([record]),
            dump_lines([wrap_event(record)]),
            dump(wrap_batch([record])),
        )
        for found in decode_stream([stream])
        if found.records
    ]
    assert len(decoded) == 5
    said = [
        (one.eventID, one.eventTime, one.errorCode, one.resources, json.loads(bytes(one.userIdentity)), one.awsRegion)
        for one in decoded
    ]
    assert all(each == said[0] for each in said)


def test_records_that_are_no_iam_call_are_set_apart_without_their_fields() -> None:
    insight = {"eventVersion": "1.08", "eventID": "a", "eventTime": "2026-03-01T00:00:00Z", "eventCategory": "Insight"}
    service = {
        "eventVersion": "1.08",
        "eventID": "a",
        "eventType": "AwsServiceEvent",
        "userIdentity": {"invokedBy": "x"},
    }
    found = read_stream(wrap_file([THREE[0], insight, service, THREE[1]]))
    assert (found.ids, found.not_iam, found.rejected) == ([1, 2], 2, [])


def test_deep_nesting_is_one_reject_and_no_crash() -> None:
    deep = dump(THREE[1])[:-1] + b',"deep":' + DEEP + b"}"
    in_caller = dump(THREE[1]).replace(b'"accountId"', b'"deep":' + DEEP + b',"accountId"')
    in_parameters = dump(THREE[1]).replace(b'"requestParameters":null', b'"requestParameters":' + DEEP)
    for bad in (deep, in_caller, in_parameters):
        assert bad != dump(THREE[1])
        for stream in (
            b"\n".join([dump(THREE[0]), bad, dump(THREE[2])]),
            b"\n".join([bad, dump(THREE[0]), dump(THREE[2])]),
            b"\n".join(
                [dump(wrap_event(THREE[0])), b'{"version":"0","detail":' + bad + b"}", dump(wrap_event(THREE[2]))]
            ),
            dump(wrap_batch([dump(THREE[0]).decode(), bad.decode(), dump(THREE[2]).decode()])),
        ):
            found = read_stream(stream)
            assert (found.ids, len(found.rejected)) == ([1, 3], 1)
        # In an array nothing says where so deep a value ends: what was before it counts.
        found = read_stream(b'{"Records":[' + b",".join([dump(THREE[0]), bad, dump(THREE[2])]) + b"]}")
        assert found.ids[0] == 1
        assert len(found.rejected) == 1


@pytest.mark.parametrize(
    "text", [rb'"\ud800"', rb'"\udc00\ud800"', b"\xff", b"\x00", b"NaN", b"-", b"1e999", b"9" * 5_000]
)
def test_no_value_that_json_has_not_leaves_the_decoder(text: bytes) -> None:
    for key in (b'"unread":', b'"sharedEventID":', b'"requestParameters":', b'"userIdentity":'):
        bad = dump(THREE[1])[:-1] + b"," + key + text + b"}"
        found = read_stream(b"\n".join([dump(THREE[0]), bad, dump(THREE[2])]))
        assert found.ids[0] == 1
        assert found.ids[-1] == 3
        assert len(found.ids) + len(found.rejected) == 3


@pytest.mark.parametrize("spoil", [b"," + dump(THREE[1]), dump(THREE[1]).replace(b'{"type"', rb'{\u0000type"')])
def test_line_that_is_no_json_is_one_whatever_its_neighbours(spoil: bytes) -> None:
    """Found by fuzzing: a comma before the value, and a key that does not begin with a quote."""
    for lines in (
        [dump(THREE[0]), spoil],
        [dump(THREE[0]), spoil, dump(THREE[2])],
        [dump(THREE[0]), spoil, b"no json"],
    ):
        found = read_stream(b"\n".join(lines))
        assert found.ids == [1, *([3] if len(lines) == 3 and lines[2] != b"no json" else [])]
        assert set(found.rejected) == {"undecodable"}


def test_value_longer_than_any_is_one_reject() -> None:
    long = b'{"a":"' + b"x" * (ELEMENT_BYTES_MAX + 1024 * 1024) + b'"}'
    chunks = [long[at : at + 1024 * 1024] for at in range(0, len(long), 1024 * 1024)]
    found = Found(decode_stream([dump(THREE[0]), b"\n", *chunks, b"\n", dump(THREE[1])]))
    assert found.ids == [1, 2]
    assert len(found.rejected) == 1


@pytest.mark.parametrize(
    ("text", "end"),
    [
        (b'{"a":[1,"]}",{}]} x', 17),
        (b'"a\\"b" ', 6),
        (b"12.5,", 4),
        (b"null]", 4),
        (b'{"a":[1', 0),
        (b'"open', 0),
        (b'"bad\x01"', -1),
        (b"12", 0),
        (b",", -1),
        (b"[" * 600, -1),
    ],
)
def test_end_of_a_value_is_found(text: bytes, end: int) -> None:
    assert scan_value(text, 0) == end


# --- files -------------------------------------------------------------------------------------------------------------


def read_file(path: Path, *, whole: bool = True) -> tuple[Found, str | None]:
    """What a file holds, and its damage; read at once as `replay` does, or in chunks as `run` does."""
    reader = SourceReader(Source(str(path), 0))
    if whole:
        reader.identify()
    return Found(decode_stream(reader)), reader.damage


def write_bytes(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


ZIPPED = {
    "one member": gzip.compress(wrap_file(THREE)),
    "a member a record": b"".join(gzip.compress(dump_lines([record])) for record in THREE),
    "members that cut records": b"".join(
        gzip.compress(dump_lines(THREE)[at : at + 100]) for at in range(0, len(dump_lines(THREE)), 100)
    ),
    "members of log files": b"".join(gzip.compress(wrap_file([record])) for record in THREE),
    "zeros behind the end": gzip.compress(wrap_file(THREE)) + b"\0" * 512,
    "an empty member between": gzip.compress(dump_lines(THREE[:1]))
    + gzip.compress(b"")
    + gzip.compress(dump_lines(THREE[1:])),
    "plain bytes": wrap_file(THREE),
}


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("case", ZIPPED)
def test_gzip_file_is_read(tmp_path: Path, case: str, whole: bool) -> None:
    found, damage = read_file(write_bytes(tmp_path / "a.json.gz", ZIPPED[case]), whole=whole)
    assert (found.ids, found.rejected, damage) == ([1, 2, 3], [], None)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("records", [1, 3, 40])
def test_identical_members_are_all_read(tmp_path: Path, records: int, whole: bool) -> None:
    member = gzip.compress(dump_lines(MANY[:records]))
    for copies in (2, 5):
        found, damage = read_file(write_bytes(tmp_path / "a.json.gz", member * copies), whole=whole)
        assert found.ids == list(range(1, records + 1)) * copies
        assert (found.rejected, damage) == ([], None)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_cut_off_gzip_is_damage_and_keeps_what_came_before(tmp_path: Path, share: float, whole: bool) -> None:
    zipped = gzip.compress(dump_lines(MANY))
    found, damage = read_file(write_bytes(tmp_path / "a.gz", zipped[: int(len(zipped) * share)]), whole=whole)
    assert damage == "is cut off"
    assert found.ids == list(range(1, len(found.ids) + 1))
    assert len(found.rejected) <= 1


@pytest.mark.parametrize("whole", [True, False])
def test_corrupt_gzip_is_damage(tmp_path: Path, whole: bool) -> None:
    zipped = bytearray(gzip.compress(dump_lines(MANY)))
    zipped[-6] ^= 0xFF  # The checksum: all bytes come out, and are yet not to be trusted blindly.
    found, damage = read_file(write_bytes(tmp_path / "a.gz", bytes(zipped)), whole=whole)
    assert damage is not None
    assert set(found.ids) <= set(range(1, len(MANY) + 1))
    middle = bytearray(gzip.compress(dump_lines(MANY), compresslevel=0))
    middle[10:40] = b"\xff" * 30
    assert read_file(write_bytes(tmp_path / "b.gz", bytes(middle)), whole=whole)[1] is not None
    _, behind = read_file(write_bytes(tmp_path / "c.gz", ZIPPED["one member"] + b"garbage"), whole=whole)
    assert behind is not None
    assert "behind its end" in behind


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(
    "content",
    [b"", gzip.compress(b""), gzip.compress(b'{"Records":[]}')],
    ids=["no byte", "gzip of nothing", "gzip of no record"],
)
def test_empty_file_is_valid(tmp_path: Path, content: bytes, whole: bool) -> None:
    found, damage = read_file(write_bytes(tmp_path / "a.json.gz", content), whole=whole)
    assert (found.ids, found.rejected, damage) == ([], [], None)


@settings(max_examples=200, deadline=None)
@given(
    flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), min_size=1, max_size=4),
    cut=st.integers(0, 10**6),
)
def test_no_damage_to_a_gzip_raises(
    tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, int]], cut: int
) -> None:
    zipped = bytearray(gzip.compress(wrap_file(MANY[:20])) * 2)
    for place, by in flips:
        zipped[place % len(zipped)] ^= by
    path = write_bytes(tmp_path_factory.getbasetemp() / "flipped.gz", bytes(zipped[: 1 + cut % len(zipped)]))
    for whole in (True, False):
        read_file(path, whole=whole)


def test_folder_leaves_out_what_holds_no_events_and_names_it(tmp_path: Path) -> None:
    log = "111122223333_CloudTrail_eu-central-1_20260301T0010Z_a.json.gz"
    earlier = "111122223333_CloudTrail_us-east-1_20260301T0005Z_b.json.gz"
    for name in (
        f"CloudTrail/eu-central-1/2026/03/01/{log}",
        f"CloudTrail/us-east-1/2026/03/01/{earlier}",
        "CloudTrail-Digest/eu-central-1/2026/03/01/111122223333_CloudTrail-Digest_eu-central-1_x_20260301T0010Z.json.gz",
        "CloudTrail-Insight/eu-central-1/2026/03/01/111122223333_CloudTrail-Insight_eu-central-1_20260301T0010Z_c.json.gz",
        "notes.txt",
        "lines.ndjson",
        "more.JSONL",
    ):
        path = tmp_path / "AWSLogs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    found, left_out = find_sources([str(tmp_path)])
    names = [Path(source.path).name for source in found]
    assert sorted(names[:2]) == ["lines.ndjson", "more.JSONL"]
    assert names[2:] == [earlier, log], "log files come by the time in their names"
    reasons = {Path(left.path).name.partition("_2026")[0]: left.why for left in left_out}
    assert len(left_out) == 3
    assert "CloudTrail-Digest" in " ".join(reasons.values())
    assert "CloudTrail-Insight" in " ".join(reasons.values())
    assert ".ndjson" in reasons["notes.txt"]


def test_whatever_links_lead_to_a_file_it_is_known_without_them(tmp_path: Path) -> None:
    for folder in ("logs/one/two", "elsewhere"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("logs/a.json", "logs/one/b.json", "logs/one/two/c.json", "elsewhere/d.json", "logs/one/left.txt"):
        (tmp_path / name).write_text("{}")
    for name, target in {
        "logs/far": "../elsewhere",
        "logs/same.json": "a.json",
        "logs/one/two/up": "..",
        "alias": "logs",
    }.items():
        (tmp_path / name).symlink_to(target)
    for place in ("logs", "logs/", "alias", "alias/one", "logs/../alias"):
        sources, left_out = find_sources([f"{tmp_path}/{place}"])
        folders = os.walk(f"{tmp_path}/{place}", followlinks=True)
        listed = {f"{folder.rstrip('/')}/{name}" for folder, _, names in folders for name in names}
        assert {source.path for source in sources} == {path for path in listed if path.endswith(".json")}
        assert {left.path for left in left_out} == {path for path in listed if not path.endswith(".json")}
        assert all(source.resolved == os.path.realpath(source.path) for source in sources)


def test_file_named_by_hand_is_read_whatever_its_name(tmp_path: Path) -> None:
    path = write_bytes(tmp_path / "events.log", dump_lines(THREE))
    found, left_out = find_sources([str(path), str(path), STDIN])
    assert [(source.name, source.occurrence) for source in found] == [(str(path), 0), (str(path), 1), ("stdin", 0)]
    assert left_out == []


def test_same_file_named_twice_has_two_identities(tmp_path: Path) -> None:
    path = write_bytes(tmp_path / "a.json", wrap_file(THREE))
    identities = []
    for occurrence in (0, 1, 0):
        reader = SourceReader(Source(str(path), occurrence))
        identities.append(reader.identify())
        reader.close()
    first, second, again = identities
    assert first is not None
    assert first != second
    assert first == again


def test_path_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such file"):
        find_sources([str(tmp_path / "missing")])
    with pytest.raises(SourceError, match="No such file"):
        SourceReader(Source(str(tmp_path / "missing"), 0))


# --- bombs: a process of its own, so that what it takes can be measured ---------------------------------------------------

MEASURE = """
import pathlib, sys, time
from processor.core.stream import decode_stream
from processor.shell.files import Source, SourceReader
reader = SourceReader(Source(sys.argv[1], 0))
reader.identify()
read = rejected = 0
for found in decode_stream(reader):
    read += found.read
    rejected += len(found.rejected)
# Not ru_maxrss: a new process inherits that of the one that started it.
status = pathlib.Path("/proc/self/status").read_text()
print(read, rejected, int(status.partition("VmHWM:")[2].split()[0]) * 1024, time.process_time())
"""


def measure_file(path: Path) -> tuple[int, int, int, float]:
    """Records read and rejected, the most memory in bytes, and CPU seconds, of a process that reads one file."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)],
        capture_output=True,
        env=build_environment(),
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    read, rejected, memory, seconds = done.stdout.split()
    return int(read), int(rejected), int(memory), float(seconds)


def zip_pieces(path: Path, pieces: Iterator[bytes]) -> Path:
    with gzip.open(path, "wb", compresslevel=1) as file:
        for piece in pieces:
            file.write(piece)
    return path


PIECE = 4 * 1024 * 1024
BOMBS = {
    "zeros": (b"", b"\0", b""),
    "spaces": (b"", b" ", b""),
    "brackets": (b"", b"[", b""),
    "braces in a record": (b'{"a":', b'{"a":', b""),
    "brackets in a log file": (b'{"Records":[', b"[", b""),
    "one string": (b'{"Records":[{"eventVersion":"', b"x", b""),
    "one string on a line": (b'{"eventVersion":"', b"x", b"\n"),
    "numbers": (b'{"Records":[', b"7" * 4_096, b"]}"),
    "commas": (b'{"Records":[', b",", b"]}"),
    "values on one line": (dump(THREE[0]) + b"\n", b"{}", b""),
    "a batch of nothing": (b'{"logEvents":[', b"0,", b"0]}"),
    "a file of nothing": (b'{"x":1,"Records":[', b"0,", b"0]}"),
    "keys behind the records": (b'{"Records":[],', b'"a":1,', b'"b":2}'),
}


@pytest.mark.slow
@pytest.mark.parametrize("bomb", BOMBS)
def test_bomb_fills_no_memory_and_does_not_stop_the_rest(tmp_path: Path, bomb: str) -> None:
    before, filling, after = BOMBS[bomb]
    count = 256 * 1024 * 1024 // PIECE
    filled = (filling * (PIECE // len(filling)) for _ in range(count))

    def build() -> Iterator[bytes]:
        yield dump(THREE[0]) + b"\n" if bomb.endswith("line") else b""
        yield before
        yield from filled
        yield after

    _, rejected, memory, seconds = measure_file(zip_pieces(tmp_path / "bomb.json.gz", build()))
    assert rejected <= 1 or bomb == "numbers"
    assert memory < MEMORY_BYTES_MAX
    assert seconds < CPU_SECONDS_MAX


CROWDS = {
    "values on one line": (dump(THREE[0]) + b"\n", b"{}", b""),
    "a batch of numbers": (b'{"logEvents":[', b"0,", b"0]}"),
    "a batch of numbers on a line": (dump(THREE[0]) + b'\n{"logEvents":[', b"0,", b"0]}"),
    "a file of numbers, another key first": (b'{"x":1,"Records":[', b"0,", b"0]}"),
    "an array on a line": (dump(THREE[0]) + b"\n[", b"0,", b"0]"),
}
"""Just short enough to be decoded at once."""


@pytest.mark.slow
@pytest.mark.parametrize("crowd", CROWDS)
def test_crowd_of_values_fills_no_memory(tmp_path: Path, crowd: str) -> None:
    before, filling, after = CROWDS[crowd]
    content = before + filling * ((ELEMENT_BYTES_MAX - 4096) // len(filling)) + after
    _, rejected, memory, seconds = measure_file(zip_pieces(tmp_path / "crowd.json.gz", iter((content,))))
    assert rejected == 1
    assert memory < MEMORY_BYTES_MAX + 16 * ELEMENT_BYTES_MAX
    assert seconds < CPU_SECONDS_MAX


@pytest.mark.slow
def test_long_file_takes_no_more_memory_than_a_short_one(tmp_path: Path) -> None:
    lines = dump_lines(MANY)
    short = zip_pieces(tmp_path / "short.ndjson.gz", (lines for _ in range(30)))
    long = zip_pieces(tmp_path / "long.ndjson.gz", (lines for _ in range(240)))
    few, many = measure_file(short), measure_file(long)
    assert (few[0], many[0]) == (30 * len(MANY), 240 * len(MANY))
    assert many[2] < few[2] + 80 * 1024 * 1024


LINES = [
    dump(THREE[0]),
    dump(wrap_event(THREE[1])),
    dump(wrap_event({**THREE[2], "eventType": "AwsServiceEvent"})),
    dump({**THREE[0], "eventType": "AwsServiceEvent", "awsRegion": 7}),
    b"no JSON",
    b'{"cut": ',
    b'{"cut":',
    b"}",
    b"",
    b" " + dump(THREE[1]),
    dump(THREE[0]) + dump(THREE[1]),
    b"[1, 2]",
    dump({"no": "record"}),
]


GOOD, JOINED, INDENTED = LINES[0], LINES[10], LINES[9]


@example([GOOD, b'{"cut": ', b"no JSON", GOOD, b"}"], [1])
@example([GOOD, b'{"cut": ', b"[1, 2]", JOINED, b"}"], [1])
@example([GOOD, b'{"cut":', INDENTED, b"}"], [1])
@example([GOOD, b'{"cut":', b"", INDENTED, b"}"], [1])
@given(st.lists(st.sampled_from(LINES), max_size=30), st.lists(st.integers(0, 30), max_size=5))
def test_a_line_has_the_same_rows_whichever_others_are_read_with_it(lines: list[bytes], cuts: list[int]) -> None:
    """A file that grows is read again after a crash in other pieces; a use is known again by its row."""
    bounds = [0, *sorted({cut % (len(lines) + 1) for cut in cuts}), len(lines)]
    pieces = [b"".join(line + b"\n" for line in lines[begin:end]) for begin, end in pairwise(bounds)]

    def read(pieces: list[bytes]) -> list[str]:
        found = (decoded for piece in pieces for decoded in decode_stream([piece]))
        return [record.eventID for decoded in found for record in decoded.records]

    assert read(pieces) == read([b"".join(pieces)])
