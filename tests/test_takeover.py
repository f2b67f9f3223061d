"""Kinesis, SQS and S3 under fire: throttled, resharded, and whoever reads is killed or frozen on another host. In the end all is as
`gapwatch replay` says, and nobody waited longer than 15 s for the other."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis
from aws_servers import (
    THROTTLING,
    Microburst,
    Roto,
    aws_environment,
    make_stream,
    merge_first,
    put_payloads,
    split_first,
    wrap_event,
    wrap_logs,
    zip_log,
)
from brokers import SecureKafka
from building import write_lines
from conftest import Gapwatch, build_environment
from fleet import run_gapwatch
from test_kinesis import make_calls, summarise
from test_run import START_SECONDS_MAX, Running, plain_redis, read_report, wait_for
from test_sqs import count_messages, find_arn, make_queue, name_log, send

from processor.shell.embedded import EmbeddedRedis

__all__ = ["plain_redis"]

TAKEOVER_SECONDS_MAX = 15.0
FROZEN_SECONDS = 20.0
SETTLE_SECONDS_MAX = 60.0
STREAM, BUCKET = "fire", "fire-logs"
CONFIG = "[run]\nport = 0\nflush_seconds = 0.05\npoll_seconds = 0.2\n"

FIRE = (
    THROTTLING
    + """
  - service: sqs
    operation: ReceiveMessage
    probability: 0.3
    error: {code: RequestThrottled, status: 400, message: Rate exceeded}
  - service: sqs
    operation: DeleteMessageBatch
    probability: 0.3
    error: {code: RequestThrottled, status: 400, message: Rate exceeded}
  - service: s3
    operation: GetObject
    probability: 0.3
    error: {code: SlowDown, status: 503, message: Rate exceeded}
"""
)

ELSEWHERE = """
import sys
import processor.shell.owners as owners
host = sys.argv.pop(1)
owners.name_host = lambda: host
import processor.shell.sharing as sharing
import processor.shell.sqs as sqs
sqs.VISIBILITY_SECONDS, sqs.EXTEND_SECONDS, sharing.QUEUE_SECONDS = 8, 2.0, 14
from processor.__main__ import main
main()
"""
"""A gapwatch of another host, by its name: nobody here looks among its processes. What it received comes again sooner than after
two minutes, so that a test need not wait for that."""


class RunningElsewhere(Running):
    """A gapwatch whose host is another one."""

    def __init__(self, host: str, *args: object) -> None:
        self.host = host
        super().__init__(*args)

    def start(self, *args: object) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-c", ELSEWHERE, self.host, *map(str, args)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=build_environment(),
        )  # fmt: skip

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)


class Fire:
    """The sources, behind a proxy that throttles, and what is put into them over some seconds: `records`."""

    def __init__(self, roto: Roto, burst: Microburst) -> None:
        self._roto = roto
        # Of what comes by a queue each record is a use or a refusal: others are counted once more when a message comes again.
        self._streamed, by_queue = (
            make_calls(4_000),
            [call for call in make_calls(2_000, 10_000) if call["eventType"] == "AwsApiCall"],
        )
        self._sent, self._filed = by_queue[:500], by_queue[500:]
        self.records = [*self._streamed, *by_queue]
        kinesis, s3 = roto.client("kinesis"), roto.client("s3")
        make_stream(kinesis, STREAM, 2)
        s3.create_bucket(Bucket=BUCKET)
        self.queues = [make_queue(roto, "fire-events"), make_queue(roto, "fire-files")]
        told = [{"QueueArn": find_arn(roto, self.queues[1]), "Events": ["s3:ObjectCreated:*"]}]
        s3.put_bucket_notification_configuration(Bucket=BUCKET, NotificationConfiguration={"QueueConfigurations": told})
        queues = [part for url in self.queues for part in ("--sqs", url)]
        self.args = ("--kinesis", STREAM, *queues, "--endpoint-url", burst.url)

    @property
    def uses(self) -> int:
        return sum(call["eventType"] == "AwsApiCall" for call in self.records)

    def feed(self, seconds: float) -> threading.Thread:
        """Put all of it, split on the way and merge."""
        thread = threading.Thread(target=self._feed, args=(seconds,), daemon=True)
        thread.start()
        return thread

    def _feed(self, seconds: float) -> None:
        kinesis, s3 = self._roto.client("kinesis"), self._roto.client("s3")
        parts, began = 40, time.monotonic()
        for part in range(parts):
            if part == parts // 3:
                split_first(kinesis, STREAM)
            if part == 2 * parts // 3:
                merge_first(kinesis, STREAM)
            mine = cut(self._streamed, part, parts)
            half = len(mine) // 2
            put_payloads(kinesis, STREAM, [wrap_event(each) for each in mine[:half]])
            put_payloads(kinesis, STREAM, [wrap_logs(mine[at : at + 25]) for at in range(half, len(mine), 25)])
            send(self._roto, self.queues[0], [wrap_event(each).decode() for each in cut(self._sent, part, parts)])
            s3.put_object(Bucket=BUCKET, Key=name_log(part), Body=zip_log(cut(self._filed, part, parts)))
            time.sleep(max(0.0, began + seconds * (part + 1) / parts - time.monotonic()))

    def wait_until_empty(self) -> None:
        """Wait until the queues hold nothing, visible or not."""
        for url in self.queues:
            wait_for(lambda url=url: count_messages(self._roto, url) == (0, 0), SETTLE_SECONDS_MAX)  # type: ignore[misc]  # mypy sees no default


def cut(records: list[dict[str, Any]], part: int, parts: int) -> list[dict[str, Any]]:
    return records[len(records) * part // parts : len(records) * (part + 1) // parts]


@pytest.fixture
def fire(tmp_path: Path) -> Iterator[Fire]:
    with aws_environment(), Roto() as roto, Microburst(roto.url, FIRE, tmp_path) as burst:
        yield Fire(roto, burst)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "gapwatch.toml"
    path.write_text(CONFIG)
    return path


def measure_takeover(how: str, is_taken: Callable[[], bool]) -> None:
    """Print how long it takes until something is so, which must be no longer than TAKEOVER_SECONDS_MAX."""
    began = time.monotonic()
    wait_for(is_taken, TAKEOVER_SECONDS_MAX)
    print(f"{how}: taken over after {time.monotonic() - began:.1f} s")


def count_known(running: Running) -> int:
    """Uses and refusals that were counted."""
    found = running.classes()
    return found.get("use", 0) + found.get("denied", 0)


def check_as_replayed(gapwatch: Gapwatch, url: str, fire: Fire, folder: Path) -> None:
    """What is in the store is what a replay of the records says; messages that came again are duplicates, and change nothing."""
    found = summarise(read_report(gapwatch, "--redis", url))
    ran = gapwatch("replay", "--format", "json", write_lines(folder / "all.ndjson", fire.records))
    assert ran.code == 0, ran.stderr
    expected = summarise(ran.json)
    assert found["usage"] == expected["usage"]
    again = found["records"].pop("duplicate") - expected["records"].pop("duplicate")
    assert found["records"].pop("read") - expected["records"].pop("read") == again >= 0
    assert found["records"] == expected["records"]
    print(f"records {expected['records']}, {again} came again")


def test_embedded_a_standby_takes_over_from_who_is_killed_or_frozen(
    fire: Fire, tmp_path: Path, config: Path, plain_redis: EmbeddedRedis, gapwatch: Gapwatch
) -> None:
    args = ("run", *fire.args, "--config", config, "--redis", plain_redis.url)
    with ExitStack() as stack:
        first = stack.enter_context(RunningElsewhere("host-a/1", *args))
        first.wait_ready()
        second, third = (stack.enter_context(RunningElsewhere(f"host-{name}/1", *args)) for name in "bc")
        for each in (second, third):
            wait_for(lambda each=each: "standby" in each.get("/readyz")[1], START_SECONDS_MAX)  # type: ignore[misc]  # as above
        feeding = fire.feed(30)
        wait_for(lambda: count_known(first) > 200, 20)
        first.kill()
        others = [second, third]
        measure_takeover("killed", lambda: any(each.get("/readyz")[0] == 200 for each in others))
        active, standby = sorted(others, key=lambda each: each.get("/readyz")[0] != 200)
        time.sleep(2)
        active.freeze()
        frozen_at = time.monotonic()
        measure_takeover("frozen", lambda: standby.get("/readyz")[0] == 200)
        time.sleep(max(0.0, frozen_at + FROZEN_SECONDS - time.monotonic()))
        active.resume()
        # Its next flush is refused: it drops what it holds, and stands by.
        wait_for(lambda: "standby" in active.get("/readyz")[1], 20)
        assert "was taken by process" in "".join(active.lines)
        feeding.join()
        wait_for(lambda: count_known(standby) >= fire.uses, SETTLE_SECONDS_MAX)
        fire.wait_until_empty()
        failures = standby.read("gapwatch_source_failures_total", call="GetRecords", source=f"kinesis:{STREAM}")
        assert failures.keys() >= {"ExpiredIteratorException", "ProvisionedThroughputExceededException"}, failures
        assert [each.stop() for each in (active, standby)] == [0, 0], active.said + standby.said
        assert "Traceback" not in active.said + standby.said
    check_as_replayed(gapwatch, plain_redis.url, fire, tmp_path)


def find_leases(client: Any, host: str) -> list[bytes]:
    """The shards of the stream that an intake on a host has, or had when it was last seen."""
    places, leases = client.hgetall("gapwatch:files"), client.hgetall("gapwatch:leases")
    return [
        name
        for name, lease in leases.items()
        if f" {host}".encode() in lease and places.get(name, b"k").startswith(b"k")
    ]


def test_in_kafka_mode_intakes_take_over_from_who_is_killed_or_frozen(
    fire: Fire, tmp_path: Path, config: Path, plain_redis: EmbeddedRedis, gapwatch: Gapwatch, apache_kafka: SecureKafka
) -> None:
    reach = ("--brokers", apache_kafka.address, "--prefix", "fire.", "--redis", plain_redis.url, "--config", config)
    run_gapwatch("topics", "create", *reach[:4], "--replication", 1)
    intake = ("intake", *fire.args, *reach)
    with ExitStack() as stack, redis.Redis.from_url(plain_redis.url) as client:
        ledger = stack.enter_context(RunningElsewhere("host-l/1", "ledger", *reach))
        one, two = (stack.enter_context(RunningElsewhere(f"host-{name}/1", *intake)) for name in "ab")
        feeding = fire.feed(32)
        for each in (one, two):
            wait_for(lambda each=each: bool(find_leases(client, each.host)), 30)  # type: ignore[misc]  # as above
        wait_for(lambda: count_known(ledger) > 200, 20)
        one.kill()
        measure_takeover("killed", lambda: not find_leases(client, one.host))
        three = stack.enter_context(RunningElsewhere("host-c/1", *intake))
        wait_for(lambda: bool(find_leases(client, three.host)), 20)
        two.freeze()
        frozen_at = time.monotonic()
        measure_takeover("frozen", lambda: not find_leases(client, two.host))
        time.sleep(max(0.0, frozen_at + FROZEN_SECONDS - time.monotonic()))
        two.resume()
        feeding.join()
        fed_at = time.time()
        wait_for(lambda: count_known(ledger) >= fire.uses, SETTLE_SECONDS_MAX)
        fire.wait_until_empty()
        # All that both intakes read is read up to its end, and the ledger knows.
        as_of = "gapwatch_as_of_timestamp_seconds"
        wait_for(lambda: ledger.read(as_of).get("", 0) > fed_at, SETTLE_SECONDS_MAX)
        assert find_leases(client, two.host)
        assert find_leases(client, three.host)
        ends = [each.stop() for each in (two, three)]
        os.kill(ledger.process.pid, signal.SIGTERM)
        assert [*ends, ledger.process.wait(20)] == [0, 0, 0], two.said + three.said + ledger.said
        assert "Traceback" not in two.said + three.said + ledger.said
    check_as_replayed(gapwatch, plain_redis.url, fire, tmp_path)
