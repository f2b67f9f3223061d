"""Kafka mode as processes on a real Kafka and a real Redis: under fire, and a store that changes its mode."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from brokers import SecureKafka, find_ports
from building import build_details, build_record, write_json, write_lines
from conftest import Gapwatch
from fleet import (
    Fleet,
    FleetFailure,
    Member,
    find_differences,
    make_corpus,
    run_gapwatch,
    run_under_fire,
)
from redis_server import RedisServer

START = 1_780_272_000


@pytest.fixture(scope="module")
def corpus(apache_kafka: object) -> Iterator[Path]:
    with make_corpus(30_000, None) as folder:
        yield folder


def test_a_fleet_under_fire_ends_as_a_replay_says(corpus: Path) -> None:
    """Every process is killed and Redis set back while 30,000 records come; `python tests/fleet.py` is the whole of it."""
    run_under_fire(corpus, seed=20_261_126, seconds=20, heavy=False, say=print)


def write_source(folder: Path, first: int, count: int) -> None:
    names = ("DescribeInstances", "RunInstances", "NothingOfTheKind")
    records = [
        build_record(number, START + 60 * number, eventName=names[number % 3]) for number in range(first, first + count)
    ]
    write_lines(folder / f"{first}.ndjson", [*records, *records[:2]])


def test_a_store_goes_on_in_the_other_mode_and_back(tmp_path: Path, gapwatch: Gapwatch, apache_kafka: object) -> None:
    """A replay, then a fleet, then a replay again into the same store count as one replay does of everything."""
    inventory = write_json(tmp_path / "iam.json", build_details(["ec2:*", "s3:CreateBucket"]))
    first, third = tmp_path / "first", tmp_path / "third"
    for number, folder in enumerate((first, third)):
        folder.mkdir()
        write_source(folder, 50 * number, 40)
    with Fleet(tmp_path / "fleet", [inventory], intakes=1, ledgers=1) as fleet:
        redis = ("--redis", fleet.redis.url)
        assert gapwatch("replay", first, "--inventory", inventory, *redis).code == 0
        write_source(fleet.source, 20, 40)
        fleet.start()
        fleet.wait_until_drained()
        refused = gapwatch("replay", third, *redis)
        assert refused.code == 2, refused.stderr
        assert "Kafka mode" in refused.stderr
        assert fleet.stop() == [0, 0]
        ran = gapwatch("replay", third, "--format", "json", "--actions", *redis)
        assert ran.code == 0, ran.stderr
        every = gapwatch(
            "replay", first, fleet.source, third, "--inventory", inventory, "--format", "json", "--actions"
        )
        assert [*find_differences(every.json, ran.json)] == []
        assert ran.json["records"]["duplicate"] == every.json["records"]["duplicate"] > 20


def test_a_fleet_over_tls_with_a_password(tmp_path: Path, apache_kafka: SecureKafka) -> None:
    """Producer, consumer, admin client and Faust all get through SASL and TLS."""
    secure = (
        "--security", "sasl_ssl", "--user", apache_kafka.USER, "--ca", apache_kafka.ca, "--mechanism", "SCRAM-SHA-512",
        "--prefix", "tls.",
    )  # fmt: skip
    environment = {"GAPWATCH_KAFKA_PASSWORD": apache_kafka.PASSWORD}
    redis = RedisServer(tmp_path / "redis").start()
    (tmp_path / "source").mkdir()
    write_source(tmp_path / "source", 0, 30)
    members = []
    try:
        run_gapwatch("topics", "create", "--brokers", apache_kafka.address, "--replication", 1, "--prefix", "tls.")
        reach = ("--brokers", apache_kafka.secure_address, "--redis", redis.url, *secure)
        members.append(Member("ledger", tmp_path, "ledger", *reach, environment=environment))
        members.append(
            Member("intake", tmp_path, "intake", "--source", tmp_path / "source", *reach, environment=environment)
        )
        wait_for(lambda: members[0].read_labelled("gapwatch_records_total", "use") == 20, members)
        assert [member.stop() for member in reversed(members)] == [0, 0]
        assert not any(apache_kafka.PASSWORD in member.read_log() for member in members)
    finally:
        for member in members:
            member.stop()
        redis.kill()


def test_a_ledger_waits_for_the_broker_and_says_what_is_wrong_with_a_topic(
    tmp_path: Path, apache_kafka: SecureKafka
) -> None:
    redis = RedisServer(tmp_path / "redis").start()
    (port,) = find_ports(1)
    waiting = Member("waiting", tmp_path, "ledger", "--brokers", f"127.0.0.1:{port}", "--redis", redis.url)
    try:
        wait_for(lambda: "cannot be used" in waiting.read_log(), [waiting])
        assert "waiting for it" in waiting.read_log()
        assert waiting.stop() == 0
        with pytest.raises(FleetFailure, match=r"topic none\.uses is missing .* see `gapwatch topics create`"):
            run_gapwatch(
                "ledger", "--brokers", apache_kafka.address, "--redis", redis.url, "--port", 0, "--prefix", "none."
            )
    finally:
        waiting.stop()
        redis.kill()


def wait_for(state: Callable[[], bool], members: list[Member]) -> None:
    """Wait until something is so; where it never is, show what the members said."""
    deadline = time.monotonic() + 90
    while not state():
        said = "\n".join(member.read_log()[-3_000:] for member in members)
        assert time.monotonic() < deadline, said
        time.sleep(0.1)
