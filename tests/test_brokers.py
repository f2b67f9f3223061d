"""The brokers of the tests: they come up, come back where they were after a crash, freeze, and never outlive the tests."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from brokers import Broker, BrokerFailure, MeshBroker, SecureKafka, answers, find_missing, find_ports

from processor.shell.ending import within

HERE = Path(__file__).parent
GONE_SECONDS_MAX = 30.0


def wait_until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + GONE_SECONDS_MAX
    while not reached():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and is waited for by nobody is a zombie, and does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def make_topic(address: str, name: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=address)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, 1, 1)])
    finally:
        await admin.close()


async def send(address: str, topic: str, value: bytes) -> int:
    async with AIOKafkaProducer(bootstrap_servers=address, acks="all", enable_idempotence=True) as producer:
        return int((await producer.send_and_wait(topic, value, partition=0)).offset)


async def read_first(address: str, topic: str) -> bytes:
    async with AIOKafkaConsumer(bootstrap_servers=address) as consumer:
        place = TopicPartition(topic, 0)
        consumer.assign([place])
        consumer.seek(place, 0)
        return bytes((await within(20, consumer.getone())).value)


def is_frozen_and_back(broker: Broker) -> None:
    broker.freeze()
    try:
        assert not answers(broker.port)
    finally:
        broker.resume()
    wait_until(lambda: answers(broker.port))


def test_a_mesh_broker_comes_back_on_its_port(mesh_broker: MeshBroker) -> None:
    before = mesh_broker.pid
    assert answers(mesh_broker.port)
    mesh_broker.kill()
    assert not is_alive(before)
    assert not answers(mesh_broker.port)
    mesh_broker.start()
    assert mesh_broker.pid != before
    is_frozen_and_back(mesh_broker)


async def test_what_apache_kafka_acknowledged_survives_a_crash(apache_kafka: SecureKafka) -> None:
    await make_topic(apache_kafka.address, "crash")
    assert await send(apache_kafka.address, "crash", b"before") == 0
    await asyncio.to_thread(apache_kafka.kill)
    await asyncio.to_thread(apache_kafka.start)
    assert await read_first(apache_kafka.address, "crash") == b"before"
    assert await send(apache_kafka.address, "crash", b"after") == 1
    await asyncio.to_thread(is_frozen_and_back, apache_kafka)


def test_apache_kafka_stops_in_order(apache_kafka: SecureKafka) -> None:
    before = apache_kafka.pid
    apache_kafka.freeze()
    apache_kafka.stop()
    assert not is_alive(before)
    apache_kafka.start()


def test_a_broker_does_not_outlive_a_killed_test(tmp_path: Path) -> None:
    """The process that started it is killed while the thread that did so is long gone."""
    program = (
        "import sys, threading, time; from pathlib import Path; from brokers import MeshBroker\n"
        f"broker = MeshBroker(Path({str(tmp_path)!r}))\n"
        "thread = threading.Thread(target=broker.start); thread.start(); thread.join()\n"
        "time.sleep(0.2); print(broker.pid, broker.port, flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], cwd=HERE, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        pid, port = map(int, starter.stdout.readline().split())
        assert answers(port)
        starter.kill()
    wait_until(lambda: not is_alive(pid))


def test_the_guard_kills_a_frozen_broker_too(tmp_path: Path) -> None:
    with MeshBroker(tmp_path) as broker:
        pid = broker.pid
        broker.freeze()
        assert broker._guard is not None
        assert broker._guard.stdin is not None
        broker._guard.stdin.close()
        wait_until(lambda: not is_alive(pid))


def test_a_broker_that_cannot_start_says_why(tmp_path: Path) -> None:
    class Broken(MeshBroker):
        def build_command(self) -> list[str]:
            return ["/bin/sh", "-c", "echo no disk left; exit 3"]

    broker = Broken(tmp_path)
    with pytest.raises(BrokerFailure, match=r"(?s)ended with 3.*no disk left"):
        broker.start()
    with pytest.raises(AssertionError, match="does not run"):
        broker.freeze()
    broker.stop()


def test_missing_programs_are_named() -> None:
    assert find_missing(lambda program: None) == ["java", "keytool", "mvn"]
    assert find_missing(lambda program: f"/bin/{program}") == []


def test_ports_stay_free_for_a_restart() -> None:
    """None is in the range from which outgoing connections take theirs."""
    limits = Path("/proc/sys/net/ipv4/ip_local_port_range")
    if not limits.exists():
        pytest.skip("the range of outgoing ports is not told here")
    first = int(limits.read_text().split()[0])
    ports = find_ports(5)
    assert len(set(ports)) == 5
    assert all(port < first for port in ports)
