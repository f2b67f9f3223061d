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


EMBEDDED_EDGES: list[dict[str, Any]] = [
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
    {"eventSource": "signin.amazonaws.com", "eventName": "CreateOAuth2Token"},
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
    return [make_record(number, **changes) for number, changes in enumerate(EMBEDDED_EDGES)]


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


@pytest.mark.parametrize("number", range(len(EMBEDDED_EDGES)))
def test_edges_are_made_as_described(number: int) -> None:
    assert json.loads(json.dumps(make_edges()[number]))


def test_odd_records_equal_the_slow_reading(gapwatch: Gapwatch, tmp_path: Path) -> None:
    file = write_lines(tmp_path / "edges.ndjson", make_edges())
    assert_equal_to_slow(replay(gapwatch, file), read_all([file]))
