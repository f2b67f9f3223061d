"""In Kafka mode one intake reads AWS for all, another goes on when it is gone, and the gaps of the ledgers follow."""

import asyncio
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import redis
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aws_server import MotoServer, allow, make_role
from brokers import SecureKafka
from conftest import start_gapwatch
from fleet import run_gapwatch
from test_live_inventory import make_change, wait_grants
from test_run import FAST, Running, add_lines, plain_redis, wait_for

from processor.fleet_inventory import INVENTORY
from processor.shell.embedded import EmbeddedRedis
from topics import grants
from topics.contract import SHARDS

__all__ = ["plain_redis"]

SECONDS_MAX = 60.0
CALLS = ("Create", "Delete", "Purge", "Tag")


class Member(Running):
    """An intake or a ledger."""

    def start(self, *args: object) -> subprocess.Popen[bytes]:
        return start_gapwatch(*args, stdin=subprocess.DEVNULL)


def find_leader(client: "redis.Redis", members: list[Member]) -> Member:
    """The intake that reads AWS."""
    found: list[Member] = []

    def look() -> bool:
        lease: Any = client.hget("gapwatch:leases", INVENTORY)
        found[:] = [each for each in members if lease is not None and f":{each.process.pid}:".encode() in lease]
        return bool(found)

    wait_for(look, SECONDS_MAX)
    return found[0]


def make_trail(aws: MotoServer) -> Callable[[list[str]], None]:
    """A trail that logs no data events; returns what selects those of objects in some buckets' ARNs."""
    aws.open("s3").create_bucket(Bucket="trail-bucket")
    cloudtrail = aws.open("cloudtrail")
    cloudtrail.create_trail(Name="main", S3BucketName="trail-bucket", IsMultiRegionTrail=True)
    cloudtrail.start_logging(Name="main")

    def select(values: list[str]) -> None:
        resources = [{"Type": "AWS::S3::Object", "Values": values}] if values else []
        selector = {"ReadWriteType": "All", "IncludeManagementEvents": True, "DataResources": resources}
        cloudtrail.put_event_selectors(TrailName="main", EventSelectors=[selector])

    return select


async def count_behind_a_tombstone(address: str, role: str) -> int:
    """Say in topic `grants` that a role is gone; how many messages of it come behind that."""
    consumer = AIOKafkaConsumer(bootstrap_servers=address, enable_auto_commit=False)
    producer = AIOKafkaProducer(bootstrap_servers=address)
    await consumer.start()
    await producer.start()
    try:
        partitions = [TopicPartition("inv.grants", shard) for shard in range(SHARDS)]
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        key = None
        while key is None:
            for messages in (await consumer.getmany(timeout_ms=1_000)).values():
                key = next((each.key for each in messages if each.value and role.encode() in each.value), key)
        await consumer.seek_to_end(*partitions)
        await producer.send_and_wait("inv.grants", None, key=key, partition=grants.TOPIC.partition_of(key))
        count, told = 0, False
        end = time.monotonic() + SECONDS_MAX
        while not count and time.monotonic() < end:
            for messages in (await consumer.getmany(timeout_ms=200)).values():
                for each in messages:
                    told = told or (each.key == key and each.value is None)
                    count += told and each.key == key and each.value is not None
        return count
    finally:
        await consumer.stop()
        await producer.stop()


def test_a_change_moves_the_gap_whoever_reads_the_record_and_whoever_reads_aws(
    aws: MotoServer, tmp_path: Path, plain_redis: EmbeddedRedis, apache_kafka: SecureKafka
) -> None:
    iam, select = aws.open("iam"), make_trail(aws)
    role = make_role(iam, "builder", "/team/", work=allow("ec2:RunInstances", "s3:GetObject"))["Arn"]
    config, source = tmp_path / "fast.toml", tmp_path / "source"
    config.write_text(FAST)
    source.mkdir()
    reach = ("--brokers", apache_kafka.address, "--prefix", "inv.", "--redis", plain_redis.url, "--config", config)
    run_gapwatch("topics", "create", *reach[:4], "--replication", 1)
    fresh = ("--inventory-from", "aws", "--logging-from", "aws", "--region", "us-east-1", "--refresh-minutes", 10_000)
    number = iter(range(1, 1_000))

    def tell(name: str, parameters: dict[str, Any], service: str = "iam") -> None:
        add_lines(source / f"{(each := next(number))}.ndjson", [make_change(name, parameters, each, service)])

    with ExitStack() as stack, redis.Redis.from_url(plain_redis.url) as client:
        ledger = stack.enter_context(Member("ledger", *reach))
        intakes = [stack.enter_context(Member("intake", "--source", source, *reach, *fresh)) for _ in "ab"]
        wait_grants(ledger, role, SECONDS_MAX, too_new=1, unobservable=1)
        leader = find_leader(client, intakes)
        (other,) = (each for each in intakes if each is not leader)
        assert leader.read("gapwatch_inventory_failed") != {}
        assert other.read("gapwatch_inventory_failed") == {}
        # Files are read by whichever intake finds them first.
        for each in range(4):
            iam.put_role_policy(
                RoleName="builder", PolicyName=f"more-{each}", PolicyDocument=allow(f"sqs:{CALLS[each]}Queue")
            )
            tell("PutRolePolicy", {"roleName": "builder", "policyName": f"more-{each}"})
            took = wait_grants(ledger, role, SECONDS_MAX, too_new=2 + each, unobservable=1)
            print(f"PutRolePolicy to the gap of a ledger: {took:.2f} s")
        leader.kill()
        assert find_leader(client, [other]) is other
        select(["arn:aws:s3"])
        tell("PutEventSelectors", {"trailName": "main"}, "cloudtrail")
        wait_grants(ledger, role, SECONDS_MAX, too_new=6)
        iam.delete_role_policy(RoleName="builder", PolicyName="more-0")
        tell("DeleteRolePolicy", {"roleName": "builder", "policyName": "more-0"})
        wait_grants(ledger, role, SECONDS_MAX, too_new=5)
        # What an intake writes late that was frozen while it read AWS is written over.
        assert asyncio.run(count_behind_a_tombstone(apache_kafka.address, role)) >= 1
        wait_grants(ledger, role, SECONDS_MAX, too_new=5)
        assert other.stop() == 0, other.said
        assert ledger.stop() == 0, ledger.said
        assert "Traceback" not in other.said + ledger.said
        assert client.hget("gapwatch:leases", INVENTORY) is None
