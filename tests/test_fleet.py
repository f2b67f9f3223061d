"""Kafka mode as processes on a real Kafka and a real Redis: under fire, and a store that changes its mode."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from building import build_details, build_record, write_json, write_lines
from conftest import Gapwatch
from fleet import Fleet, find_differences, make_corpus, run_under_fire

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
