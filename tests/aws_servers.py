"""AWS for the tests: roto (Kinesis, S3, SQS, EventBridge in one server), and microburst in front of it, which throttles.

Both are processes on 127.0.0.1 that end with the tests. `put_…` wrap records as AWS would.

    with Roto() as roto, Microburst(roto.url, RULES) as burst:
        with roto.client("kinesis") as client: ...
"""

import base64
import gzip
import hashlib
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import botocore.session
from brokers import find_ports

REGION = "us-east-1"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_REGION": REGION,
    "AWS_DEFAULT_REGION": REGION,
}
READY_SECONDS_MAX = 60.0

THROTTLING = """
rules:
  - service: kinesis
    operation: GetRecords
    probability: 0.3
    error: {code: ProvisionedThroughputExceededException, status: 400, message: Rate exceeded}
  - service: kinesis
    operation: GetRecords
    probability: 0.143
    error: {code: ExpiredIteratorException, status: 400, message: Iterator expired}
  - service: kinesis
    operation: ListShards
    probability: 0.3
    error: {code: LimitExceededException, status: 400, message: Rate exceeded}
  - service: kinesis
    operation: GetShardIterator
    probability: 0.3
    error: {code: ProvisionedThroughputExceededException, status: 400, message: Rate exceeded}
"""


class Served:
    """A server that is a process."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *command: str) -> None:
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + READY_SECONDS_MAX
        try:
            while not self._answers():
                assert self.process.poll() is None, f"{command[0]} ended with {self.process.returncode}"
                assert time.monotonic() < end, f"{command[0]} does not answer"
                time.sleep(0.05)
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.url, timeout=5):  # noqa: S310 - our own http URL
                return True
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def __exit__(self, *_: object) -> None:
        self.stop()


def find_program(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


class Roto(Served):
    """AWS, in memory."""

    def __init__(self) -> None:
        super().__init__(find_ports(1)[0])

    def __enter__(self) -> Self:
        self.start(find_program("roto-server"), "--port", str(self.port), "--ephemeral")
        return self

    def client(self, service: str) -> Any:
        """A synchronous client: tests put and look, and wait for it."""
        return make_client(service, self.url)


class Microburst(Served):
    """A proxy that fails calls as its rules say."""

    def __init__(self, upstream: str, rules: str, folder: Path) -> None:
        super().__init__(find_ports(1)[0])
        self._upstream = upstream
        self._config = folder / f"microburst-{self.port}.yaml"
        self._config.write_text(rules)

    def __enter__(self) -> Self:
        self.start(
            find_program("microburst"), "--upstream", self._upstream, "--port", str(self.port), "--config", str(self._config)
        )  # fmt: skip
        return self


def make_client(service: str, url: str) -> Any:
    session = botocore.session.Session()
    return session.create_client(
        service, region_name=REGION, endpoint_url=url, aws_access_key_id="test", aws_secret_access_key="test"
    )


@contextmanager
def aws_environment() -> Iterator[None]:
    """Credentials for the processes that a test starts."""
    before = {name: os.environ.get(name) for name in CREDENTIALS}
    os.environ.update(CREDENTIALS)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


# --- what AWS wraps records in ------------------------------------------------------------------------------------------


def wrap_event(record: dict[str, Any]) -> bytes:
    """As a rule's target gets it from EventBridge."""
    event = {
        "version": "0",
        "id": f"event-{record['eventID']}",
        "detail-type": "AWS API Call via CloudTrail",
        "source": "aws." + record["eventSource"].partition(".")[0],
        "account": record["recipientAccountId"],
        "time": record["eventTime"],
        "region": record["awsRegion"],
        "resources": [],
        "detail": record,
    }
    return json.dumps(event).encode()


def wrap_logs(records: Iterable[dict[str, Any]]) -> bytes:
    """As a subscription of CloudWatch Logs sends it."""
    events = [{"id": str(at), "timestamp": 1, "message": json.dumps(record)} for at, record in enumerate(records)]
    batch = {
        "messageType": "DATA_MESSAGE",
        "owner": "111122223333",
        "logGroup": "trail",
        "logStream": "stream",
        "subscriptionFilters": ["all"],
        "logEvents": events,
    }
    return gzip.compress(json.dumps(batch).encode())


def write_varint(value: int) -> bytes:
    written = bytearray()
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*written, value))


def write_field(number: int, value: bytes) -> bytes:
    return write_varint(number << 3 | 2) + write_varint(len(value)) + value


def wrap_aggregate(payloads: Iterable[bytes]) -> bytes:
    """As the Kinesis Producer Library packs them."""
    message = write_field(1, b"key")
    for payload in payloads:
        # partition_key_index = 0, as a varint, then the payload
        message += write_field(3, b"\x08\x00" + write_field(3, payload))
    return b"\xf3\x89\x9a\xc2" + message + hashlib.md5(message, usedforsecurity=False).digest()


def zip_log(records: Sequence[dict[str, Any]]) -> bytes:
    """A log file as CloudTrail puts it into S3."""
    return gzip.compress(json.dumps({"Records": list(records)}).encode())


# --- streams ------------------------------------------------------------------------------------------------------------


def make_stream(client: Any, name: str, shards: int) -> None:
    client.create_stream(StreamName=name, ShardCount=shards)
    while client.describe_stream_summary(StreamName=name)["StreamDescriptionSummary"]["StreamStatus"] != "ACTIVE":
        time.sleep(0.05)


def put_payloads(client: Any, stream: str, payloads: Sequence[bytes], key: str = "") -> None:
    for at in range(0, len(payloads), 500):
        entries = [
            {"Data": payload, "PartitionKey": key or base64.b32encode(hashlib.sha1(payload).digest()[:5]).decode()}  # noqa: S324 - spreads, guards nothing
            for payload in payloads[at : at + 500]
        ]
        answer = client.put_records(StreamName=stream, Records=entries)
        assert answer["FailedRecordCount"] == 0


def list_open_shards(client: Any, stream: str) -> list[dict[str, Any]]:
    shards = client.list_shards(StreamName=stream)["Shards"]
    found = [shard for shard in shards if "EndingSequenceNumber" not in shard["SequenceNumberRange"]]
    return sorted(found, key=lambda shard: int(shard["HashKeyRange"]["StartingHashKey"]))


def split_first(client: Any, stream: str) -> None:
    shard = list_open_shards(client, stream)[0]
    bounds = shard["HashKeyRange"]
    middle = (int(bounds["StartingHashKey"]) + int(bounds["EndingHashKey"])) // 2
    client.split_shard(StreamName=stream, ShardToSplit=shard["ShardId"], NewStartingHashKey=str(middle))


def merge_first(client: Any, stream: str) -> None:
    first, second = list_open_shards(client, stream)[:2]
    client.merge_shards(
        StreamName=stream, ShardToMerge=first["ShardId"], AdjacentShardToMerge=second["ShardId"]
    )  # fmt: skip
