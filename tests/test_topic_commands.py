"""`gapwatch topics create|check` on real brokers, how they are reached, and what is said when they are not as wanted."""

import asyncio
import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from brokers import Broker, SecureKafka
from click.testing import CliRunner, Result
from conftest import Gapwatch

from processor.settings_error import SettingsError
from processor.shell import brokers as reaching
from processor.shell.brokers import (
    BrokerError,
    BrokerSettings,
    connection_options,
    read_secret,
    split_hosts,
    wait_until_closed,
)
from processor.shell.topics import Found, Replicas, check_topics, compare_topic, create_topics, say_value
from processor.topic_commands import topics as topics_group
from topics import TOPICS, uses

SECURE = {"security": "sasl_ssl", "user": SecureKafka.USER}
_numbers = count()


@pytest.fixture(params=("mesh_broker", "apache_kafka"))
def broker(request: pytest.FixtureRequest) -> Broker:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Broker)
    return found


@pytest.fixture
def prefix() -> str:
    """Topics of its own for each test."""
    return f"t{next(_numbers)}."


def run_topics(*args: object, **environment: str) -> Result:
    """`gapwatch topics ARGS`, in this process."""
    return CliRunner().invoke(topics_group, [str(arg) for arg in args], env=environment)


async def make_topic(address: str, name: str, partitions: int, **entries: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=address)
    await admin.start()
    try:
        settings = {entry.replace("_", "."): value for entry, value in entries.items()}
        answer = await admin.create_topics([NewTopic(name, partitions, 1, topic_configs=settings)])
        assert [error[1] for error in answer.topic_errors] == [0]
    finally:
        await admin.close()


# --- the contract, on both brokers ------------------------------------------------------------------------------------


def test_what_is_made_is_as_it_should_be(broker: Broker, prefix: str) -> None:
    where = ("--brokers", broker.address, "--prefix", prefix)
    missing = run_topics("check", *where)
    assert missing.exit_code == 1
    assert missing.stdout.count("is missing: `gapwatch topics create` makes it") == len(TOPICS)
    made = run_topics("create", *where)
    assert (made.exit_code, made.stderr) == (0, "")
    assert made.stdout.splitlines() == [f"made {topic.full_name(prefix)}, with 1 replica" for topic in TOPICS]
    again = run_topics("create", *where)
    assert again.exit_code == 0
    assert again.stdout.count("kept ") == len(TOPICS)
    checked = run_topics("check", *where)
    assert (checked.exit_code, checked.stdout) == (0, f"all {len(TOPICS)} topics are as they should be\n")


def test_what_exists_is_told_and_never_changed(broker: Broker, prefix: str) -> None:
    entries = {"cleanup_policy": "compact", "retention_ms": "86400000"}
    asyncio.run(make_topic(broker.address, f"{prefix}uses", 12, **entries))
    where = ("--brokers", broker.address, "--prefix", prefix)
    made = run_topics("create", *where)
    assert made.exit_code == 0
    assert made.stdout.splitlines()[-1] == f"kept {prefix}uses, which exists (`gapwatch topics check` compares it)"
    said = run_topics("check", *where)
    assert said.exit_code == 1
    assert said.stderr == ""
    for part in (
        f"{prefix}uses has 12 partitions, the contract says 64 (partition N is shard N): delete it and make it anew",
        f"{prefix}uses: cleanup.policy is compact, the contract says delete",
        f"{prefix}uses: retention.ms is 86400000 (1 day), the contract says 604800000 (7 days)",
    ):
        assert part in said.stdout
    assert all(line.startswith(f"{prefix}uses") for line in said.stdout.splitlines())


def test_replicas_that_are_asked_for_and_not_there_are_told(broker: Broker, prefix: str) -> None:
    where = ("--brokers", broker.address, "--prefix", prefix)
    assert run_topics("create", *where).exit_code == 0
    said = run_topics("check", *where, "--replication", 3)
    assert said.exit_code == 1
    assert f"{prefix}uses has 64 partitions with 1 replica, wanted are 3\n" in said.stdout
    assert f"{prefix}uses: min.insync.replicas is 1, the contract says 2\n" in said.stdout


def test_the_command_itself_says_the_same(gapwatch: Gapwatch, mesh_broker: Broker, prefix: str) -> None:
    where = ("--brokers", f"127.0.0.1:1,{mesh_broker.address}", "--prefix", prefix)
    ran = gapwatch("topics", "check", *where)
    assert (ran.code, ran.stderr) == (1, "")
    assert gapwatch("topics", "create", *where).code == 0
    assert gapwatch("topics", "check", *where).code == 0


def test_variables_say_where(mesh_broker: Broker, prefix: str) -> None:
    said = run_topics("check", GAPWATCH_KAFKA_BROKERS=mesh_broker.address, GAPWATCH_KAFKA_PREFIX=prefix)
    assert said.exit_code == 1
    assert f"{prefix}grants is missing" in said.stdout


async def test_of_two_who_create_at_once_neither_fails(apache_kafka: SecureKafka, prefix: str) -> None:
    settings = BrokerSettings(hosts=(apache_kafka.address,))
    made = await asyncio.gather(*(create_topics(settings, TOPICS, prefix, None) for _ in range(3)))
    names = sorted(name for each in made for name in each.made)
    assert names == sorted(topic.full_name(prefix) for topic in TOPICS)
    assert await check_topics(settings, TOPICS, prefix, None) == []


def test_more_replicas_than_brokers_are_refused_in_one_line(apache_kafka: SecureKafka, prefix: str) -> None:
    said = run_topics("create", "--brokers", apache_kafka.address, "--prefix", prefix, "--replication", 3)
    assert said.exit_code == 2
    assert said.stdout == ""
    (line,) = said.stderr.splitlines()
    assert f"refuses to make {prefix}uses: InvalidReplicationFactor" in line


# --- security ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mechanism", reaching.MECHANISMS)
def test_tls_and_sasl_reach_a_broker(apache_kafka: SecureKafka, prefix: str, tmp_path: Path, mechanism: str) -> None:
    secret = tmp_path / "password"
    secret.write_text(f"{SecureKafka.PASSWORD}\n")
    where = ("--brokers", apache_kafka.secure_address, "--prefix", prefix, "--ca", apache_kafka.ca)
    who = ("--security", "sasl_ssl", "--mechanism", mechanism, "--user", SecureKafka.USER)
    said = run_topics("check", *where, *who, "--password-file", secret)
    assert (said.exit_code, said.stderr) == (1, "")
    said = run_topics("check", *where, *who, GAPWATCH_KAFKA_PASSWORD=SecureKafka.PASSWORD)
    assert (said.exit_code, said.stderr) == (1, "")


async def test_other_clients_connect_by_the_same_options(apache_kafka: SecureKafka) -> None:
    settings = BrokerSettings(
        hosts=(apache_kafka.secure_address,), ca=apache_kafka.ca, password=SecureKafka.PASSWORD, **SECURE
    )
    options = connection_options(settings)
    async with AIOKafkaProducer(**options) as producer:
        assert producer.client.cluster.brokers()
    await wait_until_closed(options["ssl_context"])


async def test_what_is_closed_with_tls_is_waited_for(apache_kafka: SecureKafka) -> None:
    """aiokafka does not wait; a loop that ended then left a socket half closed, and said so in who came next."""
    context = connection_options(BrokerSettings(hosts=("a:1",), security="ssl", ca=apache_kafka.ca))["ssl_context"]
    relays = []

    async def relay(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while chunk := await source.read(65_536):
            await asyncio.sleep(0.2)
            sink.write(chunk)
        sink.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_broker, to_broker = await asyncio.open_connection(*apache_kafka.secure_address.split(":"))
        relays.append(asyncio.gather(relay(reader, to_broker), relay(from_broker, writer)))
        await relays[-1]

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        raw = writer.get_extra_info("socket")
        writer.close()
        await asyncio.sleep(0.05)
        assert raw.fileno() != -1  # The broker's goodbye is on its way.
        await wait_until_closed(context)
        assert raw.fileno() == -1
        await asyncio.gather(*relays)


@pytest.mark.parametrize(
    ("changed", "part"),
    [
        ({"password": "wrong"}, "are --user, the password and --mechanism SCRAM-SHA-512 right?"),
        ({"ca": None}, "is its certificate for this name, and signed by what --ca holds?"),
        ({"security": "plaintext", "user": None, "ca": None}, "--security plaintext what it speaks"),
    ],
    ids=["wrong password", "unknown signer", "no tls"],
)
async def test_a_refused_connection_says_what_to_look_at(
    apache_kafka: SecureKafka, changed: dict[str, Any], part: str, prefix: str
) -> None:
    options = {"ca": apache_kafka.ca, "password": SecureKafka.PASSWORD, **SECURE} | changed
    settings = BrokerSettings(hosts=(apache_kafka.secure_address,), **options)
    with pytest.raises(BrokerError) as raised:
        await check_topics(settings, TOPICS, prefix, None)
    text = str(raised.value)
    assert text.startswith(f"Kafka at {apache_kafka.secure_address} cannot be used: ")
    assert part in text
    assert "\n" not in text
    assert SecureKafka.PASSWORD not in text


# --- brokers that are none --------------------------------------------------------------------------------------------


@contextmanager
def listen(answer: bytes | None) -> Iterator[str]:
    """Something that is no broker: says the same to all, closes at once (b""), or says nothing (None)."""
    held = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                held.append(connection)
                if answer:
                    connection.sendall(answer)
                if answer is not None:
                    connection.shutdown(socket.SHUT_RDWR)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        for connection in held:
            connection.close()


@pytest.mark.parametrize(
    "answer", [None, b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"-ERR unknown\r\n", bytes(64), b"\xff" * 64]
)
def test_what_is_no_broker_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], answer: bytes | None
) -> None:
    monkeypatch.setattr(reaching, "REQUEST_SECONDS_MAX", 0.5)
    with listen(answer) as address:
        said = run_topics("check", "--brokers", address)
    assert said.exit_code == 2
    (line,) = said.stderr.splitlines()
    assert line.startswith(f"gapwatch: Kafka at {address} cannot be used: ")
    assert line.endswith("is it a Kafka broker, and --security plaintext what it speaks on that port?")
    assert "".join(capfd.readouterr()) == ""


def test_nobody_there_is_told_in_one_line(gapwatch: Gapwatch) -> None:
    ran = gapwatch("topics", "create", "--brokers", "127.0.0.1:1")
    assert ran.code == 2
    (line,) = ran.stderr.splitlines()
    assert line.startswith("gapwatch: Kafka at 127.0.0.1:1 cannot be used: ")
    assert line.endswith("is it running there, and reachable from here under the address that it advertises?")


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "hosts",
    [
        "",
        "kafka",
        "kafka:",
        ":9092",
        "kafka:0",
        "kafka:65536",
        "kafka:port",
        "ssl://kafka:9092",
        "::1:9092",
        "a b:9092",
    ],
)
def test_hosts_that_are_none_are_refused(hosts: str) -> None:
    with pytest.raises(SettingsError, match="--brokers"):
        BrokerSettings(hosts=split_hosts(hosts))
    said = run_topics("check", "--brokers", hosts)
    assert said.exit_code == 2
    assert len(said.stderr.splitlines()) == 1


def test_hosts_are_split() -> None:
    assert split_hosts("kafka-1:9092, 10.0.0.1:9093,,[::1]:9094") == ("kafka-1:9092", "10.0.0.1:9093", "[::1]:9094")
    assert BrokerSettings(hosts=split_hosts("kafka-1:9092,[::1]:9094")).where == "kafka-1:9092,[::1]:9094"


PEM = Path("some.pem")


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"security": "tls"}, "--security tls: it is one of"),
        ({"security": "sasl_ssl", "user": "me", "password": "x", "mechanism": "GSSAPI"}, "--mechanism GSSAPI"),
        ({"security": "sasl_ssl"}, "needs a --user"),
        ({"security": "sasl_ssl", "user": "me"}, "in GAPWATCH_KAFKA_PASSWORD or a --password-file"),
        ({"user": "me"}, "--user is of no use with --security plaintext"),
        ({"ca": PEM}, "--ca and --certificate are of no use with --security plaintext"),
        ({"security": "ssl", "certificate": PEM}, "--certificate needs its --key"),
        ({"security": "ssl", "key": PEM}, "--key needs its --certificate"),
    ],
)
def test_settings_that_contradict_themselves_are_refused(options: dict[str, Any], part: str) -> None:
    with pytest.raises(SettingsError, match=part):
        BrokerSettings(hosts=("kafka:9092",), **options)


def test_a_password_is_shown_nowhere() -> None:
    settings = BrokerSettings(hosts=("kafka:9092",), security="sasl_plaintext", user="me", password="hidden")
    assert "hidden" not in repr(settings)
    for command in ("create", "check"):
        text = run_topics(command, "--help").stdout
        assert "--password-file" in text
        assert "--password " not in text
        assert "GAPWATCH_KAFKA_PASSWORD" in "".join(text.split())


def test_options_are_those_of_aiokafka() -> None:
    assert connection_options(BrokerSettings(hosts=("a:1", "b:2"))) == {
        "bootstrap_servers": ["a:1", "b:2"],
        "client_id": "gapwatch",
        "security_protocol": "PLAINTEXT",
    }
    sasl = BrokerSettings(hosts=("a:1",), security="sasl_plaintext", user="me", password="x", mechanism="PLAIN")
    assert connection_options(sasl) == {
        "bootstrap_servers": ["a:1"],
        "client_id": "gapwatch",
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "PLAIN",
        "sasl_plain_username": "me",
        "sasl_plain_password": "x",
    }
    context = connection_options(BrokerSettings(hosts=("a:1",), security="ssl"))["ssl_context"]
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED


def test_certificates_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.touch()
    for option, given in (("--ca", {"ca": empty}), ("--certificate", {"certificate": empty, "key": empty})):
        with pytest.raises(SettingsError, match=f"{option} .*empty.pem: no usable PEM file"):
            connection_options(BrokerSettings(hosts=("a:1",), security="ssl", **given))
        gone = dict.fromkeys(given, tmp_path / "gone.pem")
        with pytest.raises(SettingsError, match=f"{option} .*gone.pem: No such file"):
            connection_options(BrokerSettings(hosts=("a:1",), security="ssl", **gone))


def test_an_encrypted_key_is_not_asked_for_on_the_terminal(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    made = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-days",
        "1",
        "-subj",
        "/CN=client",
        "-passout",
        "pass:right",
    ]
    try:
        subprocess.run([*made, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    except FileNotFoundError:
        assert os.environ.get("CI") != "true", "openssl missing: apt-get install openssl"
        pytest.skip("openssl is not here")
    options = {"hosts": ("a:1",), "security": "ssl", "certificate": certificate, "key": key}
    for wrong in (None, "wrong"):
        with pytest.raises(SettingsError, match="GAPWATCH_KAFKA_KEY_PASSWORD right"):
            connection_options(BrokerSettings(**options, key_password=wrong))
    assert connection_options(BrokerSettings(**options, key_password="right"))["ssl_context"]


def test_a_secret_is_read_from_one_place(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b" two words \r\n")
    assert read_secret("V", path, "--file", {}) == " two words "
    assert read_secret("V", None, "--file", {"V": "x"}) == "x"
    assert read_secret("V", None, "--file", {"V": ""}) is None
    for content, environment, part in (
        (b"x", {"V": "y"}, "exclude each other"),
        (b"\n", {}, "empty"),
        (b"x" * 5_000, {}, "too long"),
        (b"\xff", {}, "no text"),
    ):
        path.write_bytes(content)
        with pytest.raises(SettingsError, match=part):
            read_secret("V", path, "--file", environment)
    with pytest.raises(SettingsError, match="No such file"):
        read_secret("V", tmp_path / "gone", "--file", {})


def test_a_prefix_that_no_topic_can_have_is_refused() -> None:
    for prefix in ("a b", "a/b", "é", "x" * 201):
        said = run_topics("check", "--brokers", "127.0.0.1:1", "--prefix", prefix)
        assert said.exit_code == 2
        assert "topics' names have letters" in said.stderr


# --- comparing --------------------------------------------------------------------------------------------------------


def test_replicas_are_measured_by_what_was_asked_for() -> None:
    """A fourth replica, or a broker that is down just now, makes no difference; too few replicas do."""
    like = dict(uses.TOPIC.settings(3))
    for found, wanted, differs in (
        (3, Replicas(2, None), False),
        (4, Replicas(3, None), False),
        (4, Replicas(3, 3), True),
        (3, Replicas(3, 3), False),
    ):
        said = compare_topic(uses.TOPIC, "uses", Found(64, {found: 64}, like), wanted)
        assert bool(said) == differs, said
    (said,) = compare_topic(uses.TOPIC, "uses", Found(64, {3: 63, 2: 1}, like), Replicas(3, None))
    assert said == "uses has 1 partition with 2 replicas, wanted are 3 or more"


def test_values_are_compared_as_brokers_mean_them() -> None:
    topic = TOPICS[1]
    like = dict(topic.settings(1)) | {"min.cleanable.dirty.ratio": "0.10", "cleanup.policy": " compact"}
    assert compare_topic(topic, "grants", Found(64, {1: 64}, like), Replicas(1, 1)) == []
    both = like | {"cleanup.policy": "compact,delete"}
    (said,) = compare_topic(topic, "grants", Found(64, {1: 64}, both), Replicas(1, 1))
    assert said == "grants: cleanup.policy is compact,delete, the contract says compact"
    del like["segment.ms"]
    (said,) = compare_topic(topic, "grants", Found(64, {1: 64}, like), Replicas(1, 1))
    assert said == "grants: segment.ms is not set, the contract says 86400000 (1 day)"


@pytest.mark.parametrize(
    ("entry", "value", "said"),
    [
        ("retention.ms", "604800000", "604800000 (7 days)"),
        ("retention.ms", "86400000", "86400000 (1 day)"),
        ("retention.ms", "-1", "-1 (for ever)"),
        ("retention.ms", "5400000", "5400000 (1.5 hours)"),
        ("retention.ms", "odd", "odd"),
        ("min.compaction.lag.ms", "0", "0"),
        ("max.message.bytes", "1048588", "1048588"),
    ],
)
def test_times_are_said_for_people(entry: str, value: str, said: str) -> None:
    assert say_value(entry, value) == said
