"""`gapwatch replay` as a process, against tests/slow_reading.py and against itself: twice, shuffled, killed, narrowed."""

import gzip
import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from conftest import Gapwatch, start_gapwatch
from slow_reading import CLASSES, SlowReading, read_all, read_file

from processor.replay import FLUSH_SECONDS

REASONS_MAX = 40
ROLE = "arn:aws:iam::111122223333:role/team/builder"


# --- what a run says, in the form of the slow reading -------------------------------------------------------------------


def usage_of(said: Any) -> dict[tuple[str, str | None], dict[str, list[Any]]]:
    """Principals of a report as SlowReading has them."""
    return {
        (principal["arn"], principal["unique_id"]): {
            action: [cell["count"], cell["denied"], cell["first_used"], cell["last_used"]]
            for action, cell in principal["usage"].items()
        }
        for principal in said["principals"]
    }


def assert_equal_to_slow(said: Any, slow: SlowReading) -> None:
    """Every class and every (principal, action)."""
    records = dict(said["records"])
    assert records.pop("read") == slow.read
    assert records == {name: slow.classes[name] for name in CLASSES}
    assert sum(records.values()) == slow.read
    assert said["unmapped"] == dict(slow.unmapped)
    assert sum(said["rejected"].values()) == slow.rejected
    assert usage_of(said) == slow.principals


def replay(gapwatch: Gapwatch, *args: object, given: bytes = b"") -> Any:
    """The JSON of a replay that must end well."""
    ran = gapwatch("replay", "--format", "json", *args, given=given)
    assert ran.code == 0, ran.stderr
    return ran.json


# --- records made here --------------------------------------------------------------------------------------------------


def make_record(number: int, **changes: Any) -> dict[str, Any]:
    """A call by a role; `number` gives it its id and its second."""
    at = datetime(2026, 3, 1, tzinfo=UTC) + timedelta(seconds=number)
    return {
        "eventVersion": "1.11",
        "userIdentity": {
            "type": "AssumedRole",
            "principalId": "AROAEXAMPLEBUILDER001:ann",
            "arn": "arn:aws:sts::111122223333:assumed-role/builder/ann",
            "accountId": "111122223333",
            "sessionContext": {
                "sessionIssuer": {"type": "Role", "principalId": "AROAEXAMPLEBUILDER001", "arn": ROLE},
            },
        },
        "eventTime": at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "eventSource": "ec2.amazonaws.com",
        "eventName": "DescribeInstances",
        "awsRegion": "eu-central-1",
        "requestParameters": None,
        "responseElements": None,
        "eventID": f"00000000-0000-4000-8000-{number:012d}",
        "eventType": "AwsApiCall",
        "recipientAccountId": "111122223333",
        **changes,
    }


def make_user(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "type": "IAMUser",
        "principalId": f"AIDA{name.upper()}",
        "arn": f"arn:aws:iam::111122223333:user/{name}",
        "accountId": "111122223333",
        **changes,
    }


def write_lines(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


EDGES: list[dict[str, Any]] = [
    {},
    {"eventID": None},
    {"eventID": 7},
    {"eventID": ""},
    {"eventTime": "foo"},
    {"eventTime": 1700000000},
    {"eventTime": "2026-03-01T00:00:09.750Z"},
    {"eventTime": "2026-03-01T02:00:10+02:00"},
    {"eventTime": "2026-02-30T00:00:00Z"},
    {"eventSource": ["ec2.amazonaws.com"]},
    {"eventName": None},
    {"userIdentity": None},
    {"userIdentity": "root"},
    {"userIdentity": {}, "eventType": "AwsServiceEvent"},
    {"eventType": "AwsConsoleSignIn", "eventID": None},
    {"eventType": "AwsConsoleAction"},
    {"eventType": "AwsVpceEvent"},
    {"eventCategory": "NetworkActivity"},
    {"eventCategory": "Insight", "eventSource": None, "eventName": None},
    {"eventType": None},
    {"eventSource": "signin.amazonaws.com", "eventName": "ConsoleLogin"},
    {"eventName": "NoSuchCall"},
    {"eventSource": "nosuch.amazonaws.com"},
    {"eventSource": "EC2.amazonaws.com"},
    {"errorCode": "Client.UnauthorizedOperation"},
    {"errorCode": "AccessDenied"},
    {"errorCode": "Client.DryRunOperation"},
    {"errorCode": ""},
    {"errorCode": 403},
    {"eventSource": "cognito-idp.amazonaws.com", "eventName": "GetUser", "errorCode": "NotAuthorizedException"},
    {"eventSource": "glue.amazonaws.com", "eventName": "GetTable", "errorCode": "NotAuthorizedException"},
    {"sharedEventID": "shared-1"},
    {"sharedEventID": "shared-1"},
    {"sharedEventID": "shared-1", "userIdentity": make_user("ann")},
    {"sharedEventID": ""},
    {"sharedEventID": 12},
    {"eventID": "twice"},
    {"eventID": "twice", "errorCode": "AccessDenied"},
    {"eventID": "thrice", "eventTime": "2026-03-05T00:00:00Z", "errorCode": "AccessDenied"},
    {"eventID": "thrice", "eventTime": "2026-03-05T00:00:00Z"},
    {"userIdentity": make_user("ben")},
    {"userIdentity": make_user("ben", principalId="AIDAANOTHERBEN")},
    {"userIdentity": make_user("ben", principalId=None)},
    {"userIdentity": make_user("ben", arn=None)},
    {"userIdentity": make_user("ben", arn="...")},
    {"userIdentity": make_user("ben", arn="arn:aws:iam::--:user/ben")},
    {"userIdentity": make_user("ben", arn="--")},
    {"userIdentity": make_user("ben", arn="arn:aws:s3:::bucket")},
    {"userIdentity": make_user("ben", arn="arn:aws-us-gov:iam::111122223333:user/division/ben")},
    {"userIdentity": {"type": "Root", "principalId": "111122223333", "arn": "arn:aws:iam::111122223333:root"}},
    {"userIdentity": {"type": "AWSService", "invokedBy": "ec2.amazonaws.com"}},
    {"userIdentity": {"type": "AWSAccount", "principalId": "ANONYMOUS", "accountId": "anonymous"}},
    {"userIdentity": {"type": "AWSAccount", "principalId": "AROAX:y", "accountId": "444455556666"}},
    {"userIdentity": {"type": "SAMLUser", "principalId": "x:y", "userName": "ann"}},
    {"userIdentity": {"type": "WebIdentityUser", "principalId": "x:y", "userName": "ann"}},
    {"userIdentity": {"type": "IdentityCenterUser", "accountId": "111122223333"}},
    {"userIdentity": {"type": "AssumedRole", "principalId": "AROAX:ann", "sessionContext": {"sessionIssuer": {}}}},
    {"userIdentity": {"type": "AssumedRole", "arn": "arn:aws:sts::1:assumed-role/a/b", "principalId": "AROAX:b"}},
    {"userIdentity": {"type": "AssumedRole", "sessionContext": {"sessionIssuer": {"arn": "arn:aws:iam::12:role/x"}}}},
    {
        "userIdentity": {
            "type": "AssumedRole",
            "sessionContext": {
                "sessionIssuer": {
                    "arn": "arn:aws:iam::12:role/aws-service-role/x.amazonaws.com/AWSServiceRoleForX",
                    "principalId": "AROASERVICE",
                }
            },
        },
        "eventName": "NoSuchCall",
    },
    {
        "userIdentity": {
            "type": "FederatedUser",
            "principalId": "111122223333:fed",
            "arn": "arn:aws:sts::111122223333:federated-user/fed",
            "sessionContext": {
                "sessionIssuer": {
                    "type": "IAMUser",
                    "principalId": "AIDACARA",
                    "arn": "arn:aws:iam::111122223333:user/cara",
                }
            },
        }
    },
    {"eventSource": "lambda.amazonaws.com", "eventName": "ListFunctions20150331"},
    {"eventSource": "lambda.amazonaws.com", "eventName": "GetFunction20150331v2"},
    {"eventSource": "cloudfront.amazonaws.com", "eventName": "GetDistribution2020_05_31"},
    {"eventSource": "monitoring.amazonaws.com", "eventName": "PutMetricAlarm"},
    {"eventSource": "apigateway.amazonaws.com", "eventName": "CreateRestApi"},
    {
        "eventSource": "lambda.amazonaws.com",
        "eventName": "CreateFunction20150331",
        "requestParameters": {"role": "arn:aws:iam::111122223333:role/runs", "tags": {"a": "b"}},
    },
    {
        "eventSource": "lambda.amazonaws.com",
        "eventName": "CreateFunction20150331",
        "requestParameters": {"environment": {"variables": {"R": "arn:aws:iam::111122223333:role/runs"}}},
    },
    {
        "eventName": "RunInstances",
        "requestParameters": {"iamInstanceProfile": {"name": "web"}, "tagSpecificationSet": {"items": [{"tags": [1]}]}},
    },
    {"eventName": "RunInstances", "requestParameters": {"tagSpecificationSet": {"items": []}}},
    {"eventName": "RunInstances", "requestParameters": "null"},
    {
        "eventSource": "s3.amazonaws.com",
        "eventName": "CopyObject",
        "requestParameters": {"x-amz-copy-source": "b/k?versionId=3", "x-amz-tagging": "a=b", "x-amz-grant-read": "x"},
    },
    {"eventSource": "s3.amazonaws.com", "eventName": "CreateBucket", "requestParameters": {"x-amz-acl": "private"}},
    {"eventSource": "s3.amazonaws.com", "eventName": "CreateBucket", "requestParameters": {"x-amz-acl": "public-read"}},
    {"eventSource": "s3.amazonaws.com", "eventName": "HeadObject", "requestParameters": {"versionId": "1"}},
    {
        "eventSource": "dynamodb.amazonaws.com",
        "eventName": "ExecuteStatement",
        "requestParameters": {"statement": " select * from t"},
    },
    {"eventSource": "dynamodb.amazonaws.com", "eventName": "ExecuteStatement", "requestParameters": {"x": 1}},
    {"eventSource": "dynamodb.amazonaws.com", "eventName": "BatchExecuteStatement"},
    {
        "eventSource": "dynamodb.amazonaws.com",
        "eventName": "TransactWriteItems",
        "requestParameters": {"transactItems": [{"put": {"t": 1}}, {"delete": None}]},
    },
    {"resources": "odd"},
    {"resources": [{"ARNPrefix": "x"}, None]},
    {"awsRegion": 5, "recipientAccountId": 111122223333},
    {"detail": {"eventID": 1}},
]


def make_edges() -> list[dict[str, Any]]:
    return [make_record(number, **changes) for number, changes in enumerate(EDGES)]


# --- against the slow reading -------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def slow(cloudtrail: Path) -> SlowReading:
    return read_all([cloudtrail])


@pytest.fixture(scope="session")
def whole(gapwatch: Gapwatch, cloudtrail: Path) -> Any:
    return replay(gapwatch, cloudtrail)


def test_all_shared_records_equal_the_slow_reading(whole: Any, slow: SlowReading) -> None:
    assert slow.read > 10_000
    assert_equal_to_slow(whole, slow)
    assert whole["records"]["unmapped"] < 0.005 * slow.api_calls


def test_odd_records_equal_the_slow_reading(gapwatch: Gapwatch, tmp_path: Path) -> None:
    file = write_lines(tmp_path / "edges.ndjson", make_edges())
    assert_equal_to_slow(replay(gapwatch, file), read_all([file]))


def test_signin_is_no_iam_call_though_the_catalogue_has_its_actions(gapwatch: Gapwatch, tmp_path: Path) -> None:
    changes = {"eventSource": "signin.amazonaws.com", "eventName": "CreateOAuth2Token"}
    file = write_lines(tmp_path / "signin.ndjson", [make_record(1, **changes)])
    assert_equal_to_slow(replay(gapwatch, file), read_all([file]))


def test_copies_of_an_event_are_found_hours_apart_in_the_input(gapwatch: Gapwatch, tmp_path: Path) -> None:
    """AWS' copies of one event bear one eventTime, however late they are delivered: the horizon looks among those."""
    days = [make_record(at, eventTime=f"2026-03-{1 + at // 24:02}T{at % 24:02}:00:00Z") for at in range(24 * 20)]
    file = write_lines(tmp_path / "a.ndjson", [*days, *reversed(days)])
    assert_equal_to_slow(replay(gapwatch, file), read_all([file]))


def wrap_forms(records: list[dict[str, Any]]) -> dict[str, bytes]:
    """The same records in every form that is recognised, by file name."""
    texts = [json.dumps(record) for record in records]
    events = [
        {
            "version": "0",
            "id": str(at),
            "detail-type": "AWS API Call via CloudTrail",
            "source": "aws.x",
            "detail": record,
        }
        for at, record in enumerate(records)
    ]
    batches = [
        {
            "messageType": "DATA_MESSAGE",
            "owner": "111122223333",
            "logGroup": "g",
            "logStream": "s",
            "subscriptionFilters": ["f"],
            "logEvents": [{"id": "1", "timestamp": 1, "message": text} for text in texts[at : at + 10]],
        }
        for at in range(0, len(texts), 10)
    ]
    batches.insert(1, {"messageType": "CONTROL_MESSAGE", "logEvents": [{"id": "", "timestamp": 1, "message": "CWL"}]})
    looked_up = [{"EventId": "x", "EventName": "y", "CloudTrailEvent": text} for text in texts]
    halves = [{"Records": records[:40]}, {"Records": []}, {"Records": records[40:]}]

    def lines(documents: list[Any], end: str = "\n") -> bytes:
        return "".join(json.dumps(document) + end for document in documents).encode()

    return {
        "records.ndjson": lines(records),
        "crlf.jsonl": lines(records, "\r\n\r\n"),
        "no_newline.ndjson": lines(records).rstrip(),
        "array.json": json.dumps(records).encode(),
        "pretty_array.json": json.dumps(records, indent=4).encode(),
        "pretty_documents.json": "\n".join(json.dumps(record, indent=2) for record in records).encode(),
        "log_file.json.gz": gzip.compress(json.dumps({"Records": records}).encode()),
        "pretty_log_file.json": json.dumps({"Records": records}, indent=2).encode(),
        "log_files.json.gz": b"".join(gzip.compress(json.dumps(half).encode()) for half in halves),
        "members.ndjson.gz": b"".join(gzip.compress(line) for line in lines(records).splitlines(keepends=True)),
        "named_wrongly.json": gzip.compress(lines(records)),
        "events.ndjson": lines(events),
        "event_array.json": json.dumps(events).encode(),
        "pretty_events.json": "\n".join(json.dumps(event, indent=2) for event in events).encode(),
        "batches.ndjson": lines(batches),
        "pretty_batches.json": "\n".join(json.dumps(batch, indent=1) for batch in batches).encode(),
        "lookup.ndjson": lines(looked_up),
        "lookup.json": json.dumps({"Events": looked_up}).encode(),
        "pretty_lookup.json": json.dumps({"Events": looked_up, "NextToken": "n"}, indent=4).encode(),
    }


def test_every_form_says_the_same(gapwatch: Gapwatch, tmp_path: Path) -> None:
    forms = wrap_forms(make_edges())
    for name, content in forms.items():
        (tmp_path / name).write_bytes(content)
    expected = read_all([tmp_path / "records.ndjson"])
    wrong = {}
    for name in forms:
        said = replay(gapwatch, tmp_path / name)
        try:
            assert_equal_to_slow(said, expected)
        except AssertionError as error:
            wrong[name] = str(error)[:400]
    assert not wrong


def test_notifications_and_broken_lines_are_one_reject_each(gapwatch: Gapwatch, tmp_path: Path) -> None:
    notification = {"Records": [{"eventSource": "aws:s3", "s3": {}}, {"eventSource": "aws:s3", "s3": {}}]}
    lines = [
        json.dumps(make_record(1)), "not json", json.dumps(make_record(2)), '{"eventID": "cut', "7", '"text"', "null",
        json.dumps(notification), json.dumps({"Service": "Amazon S3", "Event": "s3:TestEvent"}),
        json.dumps({"Records": [{"messageId": "m", "body": "{}"}]}),
        json.dumps({"messageType": "CONTROL_MESSAGE", "logEvents": [{"message": "x"}]}), '{"Records": []}',
        json.dumps(make_record(3)),
    ]  # fmt: skip
    file = tmp_path / "mixed.ndjson"
    file.write_text("\n".join(lines))
    said = replay(gapwatch, file)
    assert_equal_to_slow(said, read_all([file]))
    assert said["records"]["use"] == 3
    assert said["records"]["rejected"] == 2 + 3 + 2 + 1 + 1


@pytest.mark.parametrize("form", ["records", "log_files", "events", "batches", "lookup"])
def test_documents_without_newlines_between(gapwatch: Gapwatch, tmp_path: Path, form: str) -> None:
    """Firehose writes documents one after the other, and gzip members of one document each."""
    records = [make_record(number) for number in range(6)]
    texts = [json.dumps(record) for record in records]
    documents = {
        "records": records,
        "log_files": [{"Records": records[:2]}, {"Records": records[2:]}],
        "events": [{"detail-type": "AWS API Call via CloudTrail", "detail": record} for record in records],
        "batches": [{"messageType": "DATA_MESSAGE", "logEvents": [{"message": text}]} for text in texts],
        "lookup": [{"CloudTrailEvent": text} for text in texts],
    }[form]
    file = tmp_path / "glued.json.gz"
    file.write_bytes(b"".join(gzip.compress(json.dumps(document).encode()) for document in documents))
    assert_equal_to_slow(replay(gapwatch, file), read_all([file]))


# --- the same input in other ways ---------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def without_clash(cloudtrail: Path) -> list[Path]:
    """The shared event files without those of placeholder eventIDs that repeat."""
    files = [path for path in sorted(cloudtrail.rglob("*")) if path.suffix in (".gz", ".json", ".jsonl")]
    return [path for path in files if ".idclash." not in path.name]


@pytest.fixture(scope="session")
def once(gapwatch: Gapwatch, without_clash: list[Path]) -> Any:
    return replay(gapwatch, *without_clash)


def test_the_same_twice_is_the_same(gapwatch: Gapwatch, without_clash: list[Path], once: Any) -> None:
    twice = replay(gapwatch, *without_clash, *without_clash)
    assert twice["principals"] == once["principals"]
    assert twice["records"]["read"] == 2 * once["records"]["read"]
    assert twice["records"]["use"] == once["records"]["use"]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_shuffled_is_the_same(gapwatch: Gapwatch, without_clash: list[Path], once: Any, seed: int) -> None:
    files = list(without_clash)
    random.Random(seed).shuffle(files)
    shuffled = replay(gapwatch, *files)
    assert shuffled["principals"] == once["principals"]
    assert shuffled["records"] == once["records"]


def test_shuffled_records_are_the_same(
    gapwatch: Gapwatch, without_clash: list[Path], once: Any, tmp_path: Path
) -> None:
    records = [record for path in without_clash for record in read_file(path) if isinstance(record, dict)]
    random.Random(4).shuffle(records)
    shuffled = replay(gapwatch, write_lines(tmp_path / "shuffled.ndjson", records))
    assert shuffled["principals"] == once["principals"]


def test_stdin_is_a_file(gapwatch: Gapwatch, cloudtrail: Path) -> None:
    file = cloudtrail / "stratus-red-team.ndjson.gz"
    said = replay(gapwatch, file)
    assert replay(gapwatch, "-", given=file.read_bytes()) == said
    assert replay(gapwatch, "-", given=gzip.decompress(file.read_bytes())) == said


# --- killed and started again -------------------------------------------------------------------------------------------

BIG_FILES = 60
BIG_RECORDS_EACH = 6_000
FLUSH_SECONDS_MAX = FLUSH_SECONDS + 0.2
"""A little more than gapwatch lets pass between two flushes of a replay: a seed takes a minute, more seeds by GAPWATCH_LONG."""


@pytest.fixture(scope="session")
def big(slow: SlowReading, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of log files made from shared records, with ids and times of their own: a few seconds of work."""
    folder = tmp_path_factory.mktemp("big") / "AWSLogs"
    folder.mkdir()
    examples = [record for name in ("use", "denied", "no_principal") for record in slow.examples[name]]
    examples = random.Random(5).sample(examples, 1_500)
    parts = [
        json.dumps({**record, "eventVersion": "1.08", "eventID": "@ID@", "eventTime": "@TIME@", "sharedEventID": None})
        for record in examples
        if len(json.dumps(record)) < 4_000
    ]
    number = 0
    for at in range(BIG_FILES):
        start = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=at)
        texts = []
        for index in range(BIG_RECORDS_EACH):
            number += 1
            # Every hundredth record is the one of the file before again: same id, same time.
            back = 1 if index % 100 == 0 and at else 0
            moment = (start + timedelta(days=-back, seconds=index * 14)).strftime("%Y-%m-%dT%H:%M:%SZ")
            event = number - back * BIG_RECORDS_EACH
            texts.append(parts[event % len(parts)].replace("@ID@", f"{event:032x}").replace("@TIME@", moment))
        stamp = start.strftime("%Y%m%dT%H%MZ")
        file = folder / f"111122223333_CloudTrail_us-east-1_{stamp}_{at:016d}.json.gz"
        file.write_bytes(gzip.compress(('{"Records":[' + ",".join(texts) + "]}").encode(), 1))
    return folder


@pytest.fixture(scope="session")
def big_slow(big: Path) -> SlowReading:
    return read_all([big])


def find_processes_of(folder: Path) -> list[str]:
    """Command lines of live processes that name a folder, ours left out."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = place.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in line and "pytest" not in line:
            found.append(line)
    return found


def size_of(state: Path) -> int:
    """The bytes that a store has written."""
    return sum(path.stat().st_size for path in state.glob("redis/appendonlydir/*.aof"))


def wait_for_growth(process: subprocess.Popen[bytes], state: Path, size: int) -> None:
    """Until a store has written so much, or the process has ended."""
    end = time.monotonic() + 30
    while process.poll() is None and size_of(state) < size and time.monotonic() < end:
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [11, 12, 13] if "GAPWATCH_LONG" in os.environ else [11])
def test_killed_at_any_moment_and_resumed(
    gapwatch: Gapwatch, big: Path, big_slow: SlowReading, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    state = tmp_path / "state"
    read_before = 0
    cut_off = 0
    for pause in (0.0, FLUSH_SECONDS_MAX, FLUSH_SECONDS_MAX):
        size_before = size_of(state)
        process = start_gapwatch("replay", "--format", "json", "--state", state, big, stdout=subprocess.DEVNULL)
        wait_for_growth(process, state, size_before + 100)  # It has claimed the store, and begins to read.
        time.sleep(chance.uniform(0.5, 1.2))
        if pause and process.poll() is None:
            # Time goes on for a process that stands still: it writes what it has as soon as it is let go.
            process.send_signal(signal.SIGSTOP)
            time.sleep(pause)
            before = size_of(state)
            process.send_signal(signal.SIGCONT)
            wait_for_growth(process, state, before + 50_000)
            time.sleep(chance.uniform(0.0, 0.1))
        process.kill()
        process.communicate()
        reported = gapwatch("report", "--format", "json", "--state", state)
        read = reported.json["records"]["read"] if reported.code == 0 else 0
        assert read >= read_before
        cut_off += read_before < read < big_slow.read
        read_before = read
    said = replay(gapwatch, "--state", state, big)
    assert cut_off >= 1, "no kill came in the middle: make the input bigger"
    assert_equal_to_slow(said, big_slow)
    again = replay(gapwatch, "--state", state, big)
    assert again["records"] == said["records"]
    assert again["principals"] == said["principals"]
    assert not find_processes_of(state)


def test_input_in_two_parts_is_the_input(
    gapwatch: Gapwatch, without_clash: list[Path], once: Any, tmp_path: Path
) -> None:
    half = len(without_clash) // 2
    replay(gapwatch, "--state", tmp_path / "state", *without_clash[:half])
    said = replay(gapwatch, "--state", tmp_path / "state", *without_clash[half:])
    assert said["principals"] == once["principals"]
    assert said["records"] == once["records"]


# --- options ------------------------------------------------------------------------------------------------------------


def test_as_of_counts_later_records_in_records_only(gapwatch: Gapwatch, cloudtrail: Path, slow: SlowReading) -> None:
    as_of = "2023-07-10T12:10:00Z"
    said = replay(gapwatch, "--as-of", as_of, cloudtrail)
    assert said["as_of"] == as_of
    cut = read_all([cloudtrail], as_of)
    assert_equal_to_slow({**said, "principals": []}, SlowReading(cut.read, cut.classes, cut.unmapped))
    used = {principal: cells for principal, cells in usage_of(said).items() if cells}
    assert used == {principal: cells for principal, cells in cut.principals.items() if cells}
    assert cut.classes == slow.classes
    assert cut.principals != slow.principals


def test_principals_that_come_after_as_of_are_not_there(gapwatch: Gapwatch, tmp_path: Path) -> None:
    file = write_lines(
        tmp_path / "a.ndjson", [make_record(0), make_record(100), make_record(101, userIdentity=make_user("late"))]
    )
    said = replay(gapwatch, "--as-of", "2026-03-01T00:00:50Z", file)
    assert said["records"]["use"] == 3
    assert usage_of(said) == read_all([file], "2026-03-01T00:00:50Z").principals


def test_as_of_is_inclusive(gapwatch: Gapwatch, tmp_path: Path) -> None:
    file = write_lines(tmp_path / "a.ndjson", [make_record(0), make_record(100)])
    said = replay(gapwatch, "--as-of", "2026-03-01T00:01:40Z", file)
    assert said["principals"][0]["usage"]["ec2:DescribeInstances"]["count"] == 2
    said = replay(gapwatch, "--as-of", "2026-03-01T00:01:39Z", file)
    assert said["principals"][0]["usage"]["ec2:DescribeInstances"]["count"] == 1


def test_a_store_refuses_an_as_of_before_its_newest_use(gapwatch: Gapwatch, tmp_path: Path) -> None:
    file = write_lines(tmp_path / "a.ndjson", [make_record(0), make_record(100)])
    state = tmp_path / "state"
    replay(gapwatch, "--state", state, file)
    refused = gapwatch("replay", "--format", "json", "--state", state, "--as-of", "2026-03-01T00:00:50Z", file)
    assert refused.code == 2
    assert "as-of" in refused.stderr
    assert not refused.stdout
    refused = gapwatch("report", "--format", "json", "--state", state, "--as-of", "2026-03-01T00:00:50Z")
    assert refused.code == 2
    later = replay(gapwatch, "--state", state, "--as-of", "2026-03-02T00:00:00Z", file)
    assert later["records"]["use"] == 2
    assert later["as_of"] == "2026-03-02T00:00:00Z"


def test_as_of_defaults_to_the_newest_event_and_warns_of_a_lonely_one(gapwatch: Gapwatch, tmp_path: Path) -> None:
    close = write_lines(tmp_path / "close.ndjson", [make_record(0), make_record(86_400)])
    far = write_lines(tmp_path / "far.ndjson", [make_record(0), make_record(86_402)])
    near = gapwatch("replay", "--format", "json", close)
    assert near.json["as_of"] == "2026-03-02T00:00:00Z"
    assert "newest event" not in near.stderr
    lonely = gapwatch("replay", "--format", "json", far)
    assert lonely.json["as_of"] == "2026-03-02T00:00:02Z"
    assert "newest event" in lonely.stderr


NARROWED = [
    (["--only", "111122223333"], {"builder", "ann"}),
    (["--only", "4444*"], {"zoe"}),
    (["--skip", "444455556666"], {"builder", "ann"}),
    (["--only", ROLE], {"builder"}),
    (["--only", "arn:aws:iam::*:role/*"], {"builder"}),
    (["--only", "ann", "--only", "zo?"], {"ann", "zoe"}),
    (["--only", "*", "--skip", "*user*"], {"builder"}),
]


@pytest.mark.parametrize(("options", "left"), NARROWED)
def test_only_and_skip_narrow(gapwatch: Gapwatch, tmp_path: Path, options: list[str], left: set[str]) -> None:
    zoe = make_user("zoe", arn="arn:aws:iam::444455556666:user/zoe")
    records = [make_record(1), make_record(2, userIdentity=make_user("ann")), make_record(3, userIdentity=zoe)]
    said = replay(gapwatch, *options, write_lines(tmp_path / "a.ndjson", records))
    assert {principal["arn"].rpartition("/")[2] for principal in said["principals"]} == left
    assert said["records"]["out_of_scope"] == 3 - len(left)
    assert said["records"]["use"] == len(left)


def test_service_linked_roles_when_asked_for(gapwatch: Gapwatch, tmp_path: Path, slow: SlowReading) -> None:
    file = write_lines(tmp_path / "linked.ndjson", slow.examples["out_of_scope"])
    assert replay(gapwatch, file)["principals"] == []
    said = replay(gapwatch, "--service-linked", file)
    assert said["records"]["out_of_scope"] == 0
    assert said["principals"]


def test_covered_since_decides_between_unused_and_unproven(gapwatch: Gapwatch, tmp_path: Path) -> None:
    inventory = tmp_path / "iam.json"
    policy = {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": "ec2:StopInstances", "Resource": "*"}],
    }
    role = {
        "Path": "/team/", "RoleName": "builder", "RoleId": "AROAEXAMPLEBUILDER001", "Arn": ROLE,
        "CreateDate": "2020-01-01T00:00:00Z", "AssumeRolePolicyDocument": {}, "InstanceProfileList": [],
        "RolePolicyList": [{"PolicyName": "p", "PolicyDocument": policy}], "AttachedManagedPolicies": [],
    }  # fmt: skip
    inventory.write_text(
        json.dumps({"UserDetailList": [], "GroupDetailList": [], "RoleDetailList": [role], "Policies": []})
    )
    file = write_lines(tmp_path / "a.ndjson", [make_record(0), make_record(10)])

    def windows(*options: str) -> Any:
        return replay(gapwatch, "--inventory", inventory, "--window", "30", *options, file)["principals"][0]["windows"][
            "30d"
        ]

    assert windows()["unproven"] == 1
    assert windows("--covered-since", "2026-02-10T00:00:00Z")["unproven"] == 1
    assert windows("--covered-since", "2026-01-01T00:00:00Z")["unused"] == 1


def test_empty_input_is_valid(gapwatch: Gapwatch, tmp_path: Path) -> None:
    (tmp_path / "empty.json").touch()
    (tmp_path / "empty.gz").write_bytes(gzip.compress(b""))
    (tmp_path / "records.json").write_text('{"Records":[]}')
    (tmp_path / "nothing").mkdir()
    for path in ("empty.json", "empty.gz", "records.json", "nothing", "."):
        said = replay(gapwatch, tmp_path / path)
        assert set(said["records"].values()) == {0}
        assert said["principals"] == []
    assert replay(gapwatch, "-")["records"]["read"] == 0


def test_what_is_no_event_file_is_left_out_and_named(gapwatch: Gapwatch, tmp_path: Path) -> None:
    for place in ("CloudTrail-Digest", "CloudTrail-Insight", "CloudTrail"):
        (tmp_path / place).mkdir()
        write_lines(tmp_path / place / f"1_{place}_us-east-1_20260301T0000Z_x.json", [make_record(len(place))])
    write_lines(tmp_path / "notes.txt", [make_record(1)])
    ran = gapwatch("replay", "--format", "json", tmp_path)
    assert ran.json["records"]["read"] == 1
    assert "notes.txt" in ran.stderr


def test_bad_usage_exits_with_two(gapwatch: Gapwatch, tmp_path: Path) -> None:
    file = write_lines(tmp_path / "a.ndjson", [make_record(0)])
    for args in (
        ["replay", tmp_path / "missing"],
        ["replay"],
        ["replay", "--as-of", "yesterday", file],
        ["replay", "--window", "0", file],
        ["replay", "--inventory", tmp_path / "missing", file],
        ["replay", "--state", tmp_path / "s", "--redis", "redis://127.0.0.1:1", file],
        ["report"],
    ):
        ran = gapwatch(*args)
        assert (ran.code, ran.stdout) == (2, ""), args
        assert ran.stderr
        assert "Traceback" not in ran.stderr


# --- stores -------------------------------------------------------------------------------------------------------------


@contextmanager
def run_redis(folder: Path) -> Iterator[str]:
    """A redis-server of the test's own on a Unix socket."""
    from processor.shell.embedded import find_server

    server = subprocess.Popen(
        [find_server(), "--port", "0", "--unixsocket", "r.sock", "--save", "", "--dir", ".", "--logfile", "r.log"],
        cwd=folder,
    )
    try:
        address = f"unix://{folder}/r.sock"
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                with redis.Redis.from_url(address) as client:
                    client.ping()
                break
            except redis.RedisError:
                time.sleep(0.02)
        yield address
    finally:
        server.terminate()
        server.wait(10)


@pytest.fixture
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    # A socket's path must be short.
    folder = Path(os.path.realpath(tmp_path_factory.mktemp("r")))
    with run_redis(folder) as address:
        yield address
    shutil.rmtree(folder, ignore_errors=True)


def test_report_says_what_replay_said(
    gapwatch: Gapwatch, cloudtrail: Path, whole: Any, redis_url: str, tmp_path: Path
) -> None:
    for store in (["--redis", redis_url], ["--state", tmp_path / "state"]):
        assert replay(gapwatch, *store, cloudtrail) == whole
        reported = gapwatch("report", "--format", "json", *store)
        assert reported.code == 0
        assert reported.json == whole
        assert replay(gapwatch, *store, cloudtrail) == whole


def test_explain_names_every_use(gapwatch: Gapwatch, cloudtrail: Path, whole: Any, redis_url: str) -> None:
    replay(gapwatch, "--redis", redis_url, cloudtrail)
    principal = max(whole["principals"], key=lambda each: len(each["usage"]))
    wanted = principal["unique_id"] or principal["arn"]
    ran = gapwatch("explain", "--format", "json", "--redis", redis_url, wanted)
    assert ran.code == 0, ran.stderr
    explained = ran.json
    assert (explained["arn"], explained["unique_id"]) == (principal["arn"], principal["unique_id"])
    assert {each["action"] for each in explained["actions"]} == set(principal["usage"])
    assert gapwatch("explain", "--redis", redis_url, "nobody-of-this-name").code == 2


def await_line(process: subprocess.Popen[bytes], word: bytes) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if word in line:
            return
    pytest.fail(f"the process ended without saying {word!r}")


@pytest.mark.parametrize("place", ["redis", "state"])
def test_a_second_writer_is_refused(gapwatch: Gapwatch, tmp_path: Path, redis_url: str, place: str) -> None:
    file = write_lines(tmp_path / "a.ndjson", [make_record(0)])
    store = ["--redis", redis_url] if place == "redis" else ["--state", tmp_path / "state"]
    first = start_gapwatch("run", "--source", file, "--port", 0, *store)
    try:
        await_line(first, b"/metrics")
        second = gapwatch("replay", "--format", "json", *store, file)
        assert second.code == 2, second.stderr
        assert not second.stdout
        assert "Traceback" not in second.stderr
    finally:
        first.terminate()
        first.communicate(timeout=20)
    assert first.returncode == 0
    assert replay(gapwatch, *store, file)["principals"]


def follow_once(file: Path, state: Path, uses: int) -> None:
    """Let `gapwatch run` read a file into a store, and end it once its metrics count so many uses."""
    process = start_gapwatch("run", "--source", file, "--port", 0, "--state", state)
    try:
        assert process.stderr is not None
        said = next((line for line in process.stderr if b"/metrics" in line), b"").decode()
        address = next(word for word in said.split() if word.endswith("/metrics"))
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            with urllib.request.urlopen(address, timeout=5) as answer:  # noqa: S310 - our own process
                counted = re.findall(
                    r'^gapwatch_records_total\{class="use"\} (\S+)', answer.read().decode(), re.MULTILINE
                )
            if counted and float(counted[0]) >= uses:
                break
            time.sleep(0.2)
        time.sleep(1.5)
    finally:
        process.terminate()
        process.communicate(timeout=20)


def count_of(said: Any) -> Any:
    return said["principals"][0]["usage"]["ec2:DescribeInstances"]["count"]


def test_replay_goes_on_where_run_ended(gapwatch: Gapwatch, tmp_path: Path) -> None:
    """What `run` left in a store, and what is new, are both counted once."""
    old = write_lines(tmp_path / "old.ndjson", [make_record(0), make_record(1)])
    new = write_lines(tmp_path / "new.ndjson", [make_record(n) for n in range(1, 11)])
    state = tmp_path / "state"
    follow_once(old, state, 2)
    said = replay(gapwatch, "--state", state, new)
    assert count_of(said) == 11
    assert said["records"]["duplicate"] == 1


def test_run_goes_on_where_replay_ended(gapwatch: Gapwatch, tmp_path: Path) -> None:
    old = write_lines(tmp_path / "old.ndjson", [make_record(0), make_record(1)])
    new = write_lines(tmp_path / "new.ndjson", [make_record(n) for n in range(1, 11)])
    state = tmp_path / "state"
    replay(gapwatch, "--state", state, old)
    follow_once(new, state, 11)
    said = gapwatch("report", "--format", "json", "--state", state).json
    assert count_of(said) == 11
    assert said["records"]["duplicate"] == 1


# --- secrets ------------------------------------------------------------------------------------------------------------

SECRET_KEYS = {
    "accesskeyid", "secretaccesskey", "sessiontoken", "password", "masteruserpassword", "secretstring", "secretbinary",
    "newpassword", "oldpassword", "clientsecret", "securitytoken", "x-amz-security-token", "authorizationtoken", "plaintext",
    "privatekey", "keymaterial", "tokencode",
}  # fmt: skip
SECRET_BYTES_MIN = 8


def collect_secrets(value: Any, found: set[str]) -> None:
    """Values under the names of credentials, at any depth."""
    if isinstance(value, dict):
        for key, part in value.items():
            if isinstance(part, str) and key.lower() in SECRET_KEYS and len(part) >= SECRET_BYTES_MIN:
                found.add(part)
            collect_secrets(part, found)
    elif isinstance(value, list):
        for part in value:
            collect_secrets(part, found)


def is_secret(text: str, harmless: set[str]) -> bool:
    """Placeholders (masked, or one of the words that AWS writes in their place) are none, nor is a part of an id."""
    return (
        len(set(text)) > 4 and "HIDDEN" not in text and "***" not in text and not any(text in each for each in harmless)
    )


def dump_redis(address: str) -> bytes:
    """Every key and value of a Redis, as it holds them."""
    parts: list[bytes] = []
    with redis.Redis.from_url(address) as client:
        for key in client.scan_iter(count=1000):
            parts.append(key)
            kind = client.type(key)
            if kind == b"hash":
                parts += [part for pair in client.hgetall(key).items() for part in pair]
            elif kind == b"string":
                parts.append(client.get(key))
            elif kind == b"set":
                parts += list(client.smembers(key))
            elif kind == b"zset":
                parts += client.zrange(key, 0, -1)
            elif kind == b"list":
                parts += client.lrange(key, 0, -1)
            else:
                parts.append(repr(client.xrange(key)).encode())
    return b"\n".join(part for part in parts if part)


def test_no_credential_leaves_the_records(gapwatch: Gapwatch, cloudtrail: Path, whole: Any, redis_url: str) -> None:
    secrets: set[str] = set()
    for path in sorted(cloudtrail.rglob("*")):
        if path.suffix in (".gz", ".json", ".jsonl"):
            for record in read_file(path):
                collect_secrets(record, secrets)
    # An id that is a principal's too, by somebody's masking, cannot be told from it.
    harmless = {str(each[name]) for each in whole["principals"] for name in ("unique_id", "arn", "account_id")}
    secrets = {text for text in secrets if is_secret(text, harmless)}
    assert len(secrets) > 50
    outputs = [gapwatch("replay", "--format", style, "--redis", redis_url, cloudtrail) for style in ("json", "table")]
    outputs.append(gapwatch("report", "--actions", "--format", "json", "--redis", redis_url))
    outputs += [
        gapwatch("explain", "--format", style, "--redis", redis_url, each["arn"])
        for each in sorted(whole["principals"], key=lambda each: -len(each["usage"]))[:3]
        for style in ("json", "text")
    ]
    kept = dump_redis(redis_url)
    assert len(kept) > 10_000
    shown = "\n".join(ran.stdout + ran.stderr for ran in outputs).encode() + kept
    assert [text for text in sorted(secrets) if text.encode() in shown] == []
