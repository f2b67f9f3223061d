"""`gapwatch replay` as a process, against tests/slow_reading.py and against itself: twice, shuffled, killed, narrowed."""

import gzip
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from conftest import Gapwatch, Ran, start_gapwatch
from slow_reading import CLASSES, SlowReading, read_all, read_file

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
    {"eventID": "far apart", "eventTime": "2026-03-01T00:00:00Z"},
    {"eventID": "far apart", "eventTime": "2026-03-21T00:00:00Z"},
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


def wrap_forms(records: list[dict[str, Any]]) -> dict[str, bytes]:
    """The same records in every form that is recognised, by file name."""
    texts = [json.dumps(record) for record in records]
    events = [
        {"version": "0", "id": str(at), "detail-type": "AWS API Call via CloudTrail", "source": "aws.x", "detail": record}
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
        "batches.gz": b"".join(gzip.compress(json.dumps(batch).encode()) for batch in batches),
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
        json.dumps(make_record(1)), "not json", json.dumps(make_record(2)), '{"eventID": "cut', "[]", "7", '"text"', "null",
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
