"""Kinesis: what is put into a stream arrives once, whatever wraps it, whoever throttles, splits or is killed."""

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from aws_servers import (
    THROTTLING,
    Microburst,
    Roto,
    aws_environment,
    make_stream,
    merge_first,
    put_payloads,
    split_first,
    wrap_aggregate,
    wrap_event,
    wrap_logs,
)
from building import ACCOUNT, build_record, write_lines
from conftest import Gapwatch
from test_run import START_SECONDS_MAX, Running, count_uses, fast, plain_redis, read_report, wait_for

from processor.shell.embedded import EmbeddedRedis

__all__ = ["fast", "plain_redis"]

NOW = int(time.time())
ARRIVE_SECONDS_MAX = 40.0
TAKEOVER_SECONDS_MAX = 15.0
CALLS = (
    ("ec2.amazonaws.com", "DescribeInstances"),
    ("ec2.amazonaws.com", "RunInstances"),
    ("s3.amazonaws.com", "CreateBucket"),
    ("iam.amazonaws.com", "ListUsers"),
)


@pytest.fixture(scope="module")
def roto() -> Iterator[Roto]:
    with aws_environment(), Roto() as found:
        yield found


def make_calls(count: int, first: int = 0) -> list[dict[str, Any]]:
    """Calls of the last minutes by several roles; some refused, some no IAM call."""
    records = []
    for number in range(first, first + count):
        name = f"role{number % 7}"
        source, event = CALLS[number % len(CALLS)]
        changes: dict[str, Any] = {"eventSource": source, "eventName": event}
        if number % 11 == 0:
            changes["errorCode"] = "AccessDenied"
        if number % 13 == 0:
            changes["eventType"] = "AwsServiceEvent"
        record = build_record(number, NOW - 600 + number % 300, **changes)
        caller = record["userIdentity"]
        caller["arn"] = f"arn:aws:sts::{ACCOUNT}:assumed-role/{name}/ann"
        caller["principalId"] = f"AROA{name.upper()}:ann"
        issuer = caller["sessionContext"]["sessionIssuer"]
        issuer |= {"arn": f"arn:aws:iam::{ACCOUNT}:role/{name}", "principalId": f"AROA{name.upper()}"}
        records.append(record)
    return records


def summarise(report: Any) -> dict[str, Any]:
    """What two ways of reading the same records must agree in."""
    usage = {
        (principal["arn"], action): cell
        for principal in report["principals"]
        for action, cell in principal["usage"].items()
    }
    return {"usage": usage, "records": report["records"]}


def replay(gapwatch: Gapwatch, folder: Path, records: list[dict[str, Any]]) -> dict[str, Any]:
    ran = gapwatch("replay", "--format", "json", write_lines(folder / "all.ndjson", records))
    assert ran.code == 0, ran.stderr
    return summarise(ran.json)


def count_read(running: Running) -> int:
    return sum(running.classes().values())


def wait_read(running: Running, count: int, seconds: float = ARRIVE_SECONDS_MAX) -> None:
    try:
        wait_for(lambda: count_read(running) >= count, seconds)
    except AssertionError:
        raise AssertionError(f"{count_read(running)} of {count} after {seconds} s; {running.said}") from None


# --- what is in a stream ------------------------------------------------------------------------------------------------


def test_events_batches_and_aggregates_are_told_apart(
    roto: Roto, fast: Path, tmp_path: Path, gapwatch: Gapwatch
) -> None:
    client = roto.client("kinesis")
    make_stream(client, "mixed", 3)
    records = make_calls(900)
    put_payloads(client, "mixed", [wrap_event(record) for record in records[:200]])
    put_payloads(client, "mixed", [wrap_logs(records[at : at + 100]) for at in range(200, 600, 100)])
    put_payloads(client, "mixed", [wrap_aggregate(wrap_event(record) for record in records[600:700])])
    put_payloads(client, "mixed", [wrap_aggregate([wrap_logs(records[700:800]), wrap_event(records[800])])])
    put_payloads(client, "mixed", [json.dumps(record).encode() for record in records[801:]])
    bad = [b"no JSON", b"\x1f\x8bno gzip", b"\xf3\x89\x9a\xc2 no aggregate, which is a record"]
    put_payloads(client, "mixed", bad)
    state = tmp_path / "state"
    with Running("--kinesis", "mixed", "--endpoint-url", roto.url, "--config", fast, "--state", state) as running:
        running.wait_ready()
        wait_read(running, 900 + len(bad))
        assert running.read("gapwatch_rejected_total") == {"undecodable": 2, "damaged_payload": 1}
        wait_for(lambda: time.time() - running.read("gapwatch_as_of_timestamp_seconds")[""] < 3, 5)
        assert running.stop() == 0, running.said
        assert "Traceback" not in running.said
    found = summarise(read_report(gapwatch, "--state", state))
    expected = replay(gapwatch, tmp_path, records)
    assert found["usage"] == expected["usage"]
    assert found["records"] == {
        **expected["records"],
        "read": expected["records"]["read"] + len(bad),
        "rejected": len(bad),
    }


def test_a_stream_by_its_arn(roto: Roto, fast: Path) -> None:
    client = roto.client("kinesis")
    make_stream(client, "by-arn", 1)
    arn = client.describe_stream_summary(StreamName="by-arn")["StreamDescriptionSummary"]["StreamARN"]
    put_payloads(client, "by-arn", [wrap_event(record) for record in make_calls(10)])
    with Running("--kinesis", arn, "--endpoint-url", roto.url, "--config", fast) as running:
        wait_read(running, 10)
        assert running.stop() == 0


def test_a_stream_that_was_made_anew_is_another_one(roto: Roto, fast: Path, tmp_path: Path, gapwatch: Gapwatch) -> None:
    client = roto.client("kinesis")
    state = tmp_path / "state"
    args = ("--kinesis", "again", "--endpoint-url", roto.url, "--config", fast, "--state", state)
    for start in range(2):
        make_stream(client, "again", 1)
        put_payloads(client, "again", [wrap_event(record) for record in make_calls(20, 100 * start)])
        with Running(*args) as running:
            wait_read(running, 20 * (start + 1))
            assert running.stop() == 0
        client.delete_stream(StreamName="again")
        with suppress(client.exceptions.ResourceNotFoundException):
            while client.describe_stream_summary(StreamName="again"):
                time.sleep(0.1)


# --- throttled, resharded, killed -----------------------------------------------------------------------------------------


class Producer(threading.Thread):
    """Puts records at a rate, and reshards on the way."""

    def __init__(self, roto: Roto, stream: str, records: list[dict[str, Any]], seconds: float) -> None:
        super().__init__(daemon=True)
        self._client = roto.client("kinesis")
        self._stream = stream
        self._records = records
        self._seconds = seconds

    def run(self) -> None:
        begun, size = time.monotonic(), 50
        reshard = {len(self._records) // size // 3: split_first, 2 * len(self._records) // size // 3: merge_first}
        for part, at in enumerate(range(0, len(self._records), size)):
            if part in reshard:
                reshard[part](self._client, self._stream)
            put_payloads(self._client, self._stream, [wrap_event(record) for record in self._records[at : at + size]])
            due = begun + self._seconds * at / len(self._records)
            time.sleep(max(0.0, due - time.monotonic()))


def test_throttled_resharded_stopped_and_killed_it_ends_in_the_numbers_of_a_replay(
    roto: Roto, fast: Path, tmp_path: Path, gapwatch: Gapwatch
) -> None:
    stream, records = "storm", make_calls(6_000)
    make_stream(roto.client("kinesis"), stream, 2)
    state = tmp_path / "state"
    failures: Counter[str] = Counter()
    with Microburst(roto.url, THROTTLING, tmp_path) as burst:
        args = ("--kinesis", stream, "--endpoint-url", burst.url, "--config", fast, "--state", state)
        producer = Producer(roto, stream, records, seconds=12)
        producer.start()
        for end in (Running.kill, Running.stop, Running.kill):
            with Running(*args) as running:
                running.wait_ready()
                time.sleep(random.uniform(1.0, 3.0))
                failures.update(count_failures(running))
                assert not end(running), running.said
        producer.join()
        with Running(*args) as running:
            running.wait_ready()
            wait_read(running, len(records))
            failures.update(count_failures(running))
            assert running.stop() == 0, running.said
    assert failures["ProvisionedThroughputExceededException"] > 0, failures
    assert failures["ExpiredIteratorException"] > 0, failures
    assert "Traceback" not in running.said
    assert summarise(read_report(gapwatch, "--state", state)) == replay(gapwatch, tmp_path, records)


def count_failures(running: Running) -> dict[str, int]:
    """GetRecords calls that failed, by code."""
    found = running.read("gapwatch_source_failures_total", call="GetRecords", source="kinesis:storm")
    return {code: int(count) for code, count in found.items()}


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_a_standby_takes_over_the_stream(
    roto: Roto, fast: Path, tmp_path: Path, plain_redis: EmbeddedRedis, gapwatch: Gapwatch, how: str
) -> None:
    stream, records = f"standby-{how}", make_calls(3_000)
    make_stream(roto.client("kinesis"), stream, 2)
    args = ("--kinesis", stream, "--endpoint-url", roto.url, "--config", fast, "--redis", plain_redis.url)
    producer = Producer(roto, stream, records, seconds=6 if how == "killed" else 20)
    with Running(*args) as first:
        first.wait_ready()
        with Running(*args) as second:
            wait_for(lambda: "standby" in second.get("/readyz")[1], START_SECONDS_MAX)
            producer.start()
            time.sleep(2)
            if how == "killed":
                first.kill()
                began = time.monotonic()
                second.wait_ready()
                assert time.monotonic() - began < TAKEOVER_SECONDS_MAX
                wait_read(second, len(records))
                assert second.stop() == 0, second.said
            else:
                freeze(first, second, seconds=20)
                survivor = second if second.get("/readyz")[0] == 200 else first
                producer.join()
                wait_read(survivor, len(records))
                first.process.terminate()
                second.process.terminate()
                assert (first.process.wait(10), second.process.wait(10)) == (0, 0), first.said + second.said
    assert summarise(read_report(gapwatch, "--redis", plain_redis.url)) == replay(gapwatch, tmp_path, records)
    assert count_uses(read_report(gapwatch, "--redis", plain_redis.url))


def freeze(first: Running, second: Running, seconds: float) -> None:
    """Stop the active process for a while; whoever reads afterwards, only one of them does."""
    import signal

    first.process.send_signal(signal.SIGSTOP)
    time.sleep(seconds)
    first.process.send_signal(signal.SIGCONT)
    wait_for(lambda: 200 in (first.get("/readyz")[0], second.get("/readyz")[0]), START_SECONDS_MAX)


# --- what cannot work -----------------------------------------------------------------------------------------------------


def test_a_stream_that_is_not_there_is_bad_input(roto: Roto, gapwatch: Gapwatch) -> None:
    ran = gapwatch("run", "--kinesis", "nowhere", "--endpoint-url", roto.url, "--port", "0")
    assert ran.code == 2
    assert "kinesis:DescribeStreamSummary on stream nowhere: there is none" in ran.stderr
    assert len(ran.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ((), "what is to be read? Give --source PATH, --kinesis STREAM or --sqs QUEUE_URL"),
        (("--kinesis", "mixed", "--kinesis", "mixed"), "--kinesis mixed is given twice"),
        (("--once", "--kinesis", "mixed"), "--once ends when all files are read: streams and queues have no end"),
        (("--kinesis", "nowhere"), "kinesis:DescribeStreamSummary on stream nowhere: there is none"),
    ],
)
def test_an_intake_says_what_cannot_be_read(roto: Roto, gapwatch: Gapwatch, args: tuple[str, ...], said: str) -> None:
    nobody = ("--brokers", "127.0.0.1:1", "--redis", "redis://127.0.0.1:1/0", "--port", "0")
    ran = gapwatch("intake", *args, "--endpoint-url", roto.url, *nobody)
    assert ran.code == 2
    assert said in ran.stderr
    assert "Traceback" not in ran.stderr


def test_nothing_to_read_is_bad_usage(gapwatch: Gapwatch) -> None:
    ran = gapwatch("run")
    assert ran.code == 2
    assert "--kinesis STREAM" in ran.stderr


DENIAL = """
rules:
  - service: kinesis
    operation: DescribeStreamSummary
    error: {code: %s, status: 400, message: "%s"}
"""


@pytest.mark.parametrize(
    ("code", "message", "said"),
    [
        ("AccessDeniedException", "not authorized", "not authorized): allow kinesis:DescribeStreamSummary to"),
        ("UnrecognizedClientException", "bad token", "AWS does not accept the credentials"),
        ("ExpiredTokenException", "expired", "AWS does not accept the credentials"),
    ],
)  # fmt: skip
def test_what_will_not_pass_by_itself_ends_it(
    roto: Roto, tmp_path: Path, gapwatch: Gapwatch, code: str, message: str, said: str
) -> None:
    with Microburst(roto.url, DENIAL % (code, message), tmp_path) as burst:
        ran = gapwatch("run", "--kinesis", "mixed", "--endpoint-url", burst.url, "--port", "0")
    assert ran.code == 2
    assert said in ran.stderr
    assert len(ran.stderr.splitlines()) == 1


def test_without_credentials_or_region(gapwatch: Gapwatch, roto: Roto, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", "/nonexistent")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    ran = gapwatch("run", "--kinesis", "mixed", "--endpoint-url", roto.url, "--port", "0")
    assert (ran.code, len(ran.stderr.splitlines())) == (2, 1), ran.stderr
    assert "no usable AWS credentials" in ran.stderr
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.delenv("AWS_REGION")
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    ran = gapwatch("run", "--kinesis", "mixed", "--port", "0")
    assert (ran.code, len(ran.stderr.splitlines())) == (2, 1), ran.stderr
    assert "no region: set AWS_REGION" in ran.stderr
    ran = gapwatch("run", "--kinesis", "mixed", "--port", "0", "--endpoint-url", "nonsense")
    assert (ran.code, len(ran.stderr.splitlines())) == (2, 1), ran.stderr


def test_an_endpoint_that_is_away_is_waited_for(fast: Path) -> None:
    roto = Roto()
    with Running("--kinesis", "late", "--endpoint-url", roto.url, "--config", fast) as running:
        wait_for(lambda: "cannot reach AWS" in "".join(running.lines), START_SECONDS_MAX)
        assert running.process.poll() is None
        with roto:
            client = roto.client("kinesis")
            make_stream(client, "late", 1)
            put_payloads(client, "late", [wrap_event(record) for record in make_calls(10)])
            running.wait_ready()
            wait_read(running, 10)
            assert running.read("gapwatch_source_trouble") == {"kinesis:late": 0}
        wait_for(lambda: running.read("gapwatch_source_trouble") == {"kinesis:late": 1}, 10)
        assert running.stop() == 0
        assert "Traceback" not in running.said
