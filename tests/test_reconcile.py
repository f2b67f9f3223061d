"""Reconcile: what a stream lost is found in S3 and counted once, and what it brought is not counted again."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aws_servers import Roto, aws_environment, make_stream, put_payloads, wrap_event, zip_log
from brokers import SecureKafka
from conftest import Gapwatch
from fleet import run_gapwatch
from test_fleet_inventory import Member
from test_kinesis import count_read, make_calls, replay, summarise, wait_read
from test_run import FAST, Running, fast, plain_redis, read_report, wait_for

from processor.shell.embedded import EmbeddedRedis
from processor.shell.layout import Position
from processor.shell.objects import NEVER, find_forgettable, pack_place

__all__ = ["fast", "plain_redis"]

BUCKET = "reconciled-logs"


@pytest.fixture(scope="module")
def roto() -> Iterator[Roto]:
    with aws_environment(), Roto() as found:
        found.client("s3").create_bucket(Bucket=BUCKET)
        yield found


def put_log(roto: Roto, number: int, at: float, first: int, count: int, bucket: str = BUCKET) -> None:
    moment = datetime.fromtimestamp(at, UTC)
    name = f"111122223333_CloudTrail_us-east-1_{moment:%Y%m%dT%H%MZ}_{number}.json.gz"
    key = f"AWSLogs/111122223333/CloudTrail/us-east-1/{moment:%Y/%m/%d}/{name}"
    roto.client("s3").put_object(Bucket=bucket, Key=key, Body=zip_log(make_calls(count, first)))


def test_what_the_stream_lost_is_counted_once(roto: Roto, fast: Path, tmp_path: Path, gapwatch: Gapwatch) -> None:
    """
    stream    0 ........ 200              300 ..... 400
    files     0 ........ 200 .. (hole) .. 300 ..... 400     and one that is too young to be compared
    """
    client, state, records = roto.client("kinesis"), tmp_path / "state", make_calls(400)
    make_stream(client, "holes", 2)
    put_payloads(client, "holes", [wrap_event(record) for record in (*records[:200], *records[300:])])
    for number in range(4):
        put_log(roto, number, time.time() - 1_800, 100 * number, 100)
    put_log(roto, 9, time.time() + 60, 5_000, 10)
    args = ("--kinesis", "holes", "--reconcile", f"s3://{BUCKET}", "--endpoint-url", roto.url, "--config", fast)
    with Running(*args, "--state", state) as running:
        wait_read(running, 700)
        results = running.read("gapwatch_compared_records_total", source=f"reconcile:{BUCKET}")
        until = running.read("gapwatch_compared_until_timestamp_seconds")
        missed = [record for record in records[200:300] if record["eventType"] == "AwsApiCall"]
        assert results == {"seen": count_calls(records) - len(missed), "missed": len(missed), "late": 0}
        assert 600 <= time.time() - until[f"reconcile:{BUCKET}"] < 700
        assert f"{len(missed)} records that no stream had brought" in running.said
        assert running.stop() == 0, running.said
    # Once more, from the start: nothing is compared twice.
    with Running(*args, "--state", state) as running:
        running.wait_ready()
        wait_for(lambda: bool(running.read("gapwatch_compared_until_timestamp_seconds")), 20)
        assert count_read(running) == 700
        assert running.stop() == 0
    assert summarise(read_report(gapwatch, "--state", state))["usage"] == replay(gapwatch, tmp_path, records)["usage"]


def test_in_kafka_mode_a_ledger_tells_what_the_stream_lost(
    roto: Roto, tmp_path: Path, gapwatch: Gapwatch, plain_redis: EmbeddedRedis, apache_kafka: SecureKafka
) -> None:
    """As above, in shards of two intakes, each of which looks for files; a third one finds nothing left to be compared."""
    client, records = roto.client("kinesis"), make_calls(400)
    config = tmp_path / "fast.toml"
    config.write_text(FAST)
    roto.client("s3").create_bucket(Bucket="fleet-logs")
    make_stream(client, "fleet-holes", 2)
    put_payloads(client, "fleet-holes", [wrap_event(record) for record in (*records[:200], *records[300:])])
    for number in range(4):
        put_log(roto, number, time.time() - 1_800, 100 * number, 100, bucket="fleet-logs")
    reach = ("--brokers", apache_kafka.address, "--prefix", "rec.", "--redis", plain_redis.url, "--config", config)
    run_gapwatch("topics", "create", *reach[:4], "--replication", 1)
    intake = (
        "intake",
        "--kinesis",
        "fleet-holes",
        "--reconcile",
        "s3://fleet-logs",
        "--endpoint-url",
        roto.url,
        *reach,
    )
    missed = count_calls(records[200:300])
    expected = {"seen": count_calls(records) - missed, "missed": missed, "late": 0}
    until = "gapwatch_compared_until_timestamp_seconds"
    with ExitStack() as stack:
        ledger, one, two = (stack.enter_context(Member(*args)) for args in (("ledger", *reach), intake, intake))
        wait_for(lambda: ledger.read("gapwatch_compared_records_total", source="reconcile") == expected, 60)
        for each in (one, two):
            wait_for(lambda each=each: bool(each.read(until)), 30)  # type: ignore[misc]  # mypy sees no default
            assert 600 <= time.time() - each.read(until)["reconcile:fleet-logs"] < 700
        assert "records of log files that no stream had brought" in ledger.said
        read = ledger.classes()
        one.process.kill()
        three = stack.enter_context(Member(*intake))
        wait_for(lambda: bool(three.read(until)), 60)
        assert ledger.classes() == read
        ends = [each.stop() for each in (two, three, ledger)]
        assert ends == [0, 0, 0], two.said + three.said + ledger.said
    told = summarise(read_report(gapwatch, "--redis", plain_redis.url))
    assert told["usage"] == replay(gapwatch, tmp_path, records)["usage"]
    assert sum(told["records"].values()) - told["records"]["read"] == 700


def count_calls(records: list[dict[str, Any]]) -> int:
    return sum(record["eventType"] == "AwsApiCall" for record in records)


def test_reconcile_needs_a_stream(gapwatch: Gapwatch) -> None:
    ran = gapwatch("run", "--source", ".", "--reconcile", f"s3://{BUCKET}")
    assert (ran.code, "--reconcile compares with a stream" in ran.stderr) == (2, True), ran.stderr


def test_files_are_forgotten_by_the_day_of_their_reading() -> None:
    day = 20_000
    positions = {
        b"old": pack_place(Position(5, whole=True), day - 3),
        b"young": pack_place(Position(5, whole=True), day - 2),
        b"backfilled": pack_place(Position(5, whole=True), NEVER),
        b"file": Position(5, whole=True).pack(),
        b"shard": b"49590338271490256608559692538361571095921575989136588898",
    }
    assert find_forgettable(positions, day) == (b"old",)
