"""What several tests use: the shared records, gapwatch as a process of its own, and Kafka brokers."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from aws_server import FaultyAws, MotoServer
from brokers import MeshBroker, SecureKafka, find_missing

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared" / "data"
RUN_SECONDS_MAX = 120

LONG_FILES = (
    "test_notifications", "test_takeover", "test_fleet", "test_replay", "test_telling", "test_kinesis", "test_run", "test_backfill",
    "test_sqs", "test_dashboards", "test_page_browser", "test_simulation", "test_reconcile", "test_stream", "test_cloudformation",
    "test_live_inventory", "test_brokers", "test_topic_commands", "test_fuzz", "test_cli",
)  # fmt: skip
"""Files whose tests take minutes, in the order in which they begin: one that begins last is waited for by all other cores."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first; each file's tests stay together, and in their order."""
    ranks = {name: rank for rank, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: ranks.get(item.path.stem, len(ranks)))


@dataclass(frozen=True, slots=True)
class Ran:
    """A command that ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)


Gapwatch = Callable[..., Ran]


def build_environment() -> dict[str, str]:
    """The environment of a gapwatch process: ours, without settings of its own that a developer may have."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GAPWATCH_")}
    return {**kept, "PYTHONPATH": str(ROOT)}


def start_gapwatch(*args: object, **options: Any) -> subprocess.Popen[bytes]:
    """Start `gapwatch ARGS`; the caller waits for it or kills it."""
    return subprocess.Popen(
        [sys.executable, "-m", "processor", *map(str, args)],
        stdout=options.pop("stdout", subprocess.PIPE),
        stderr=options.pop("stderr", subprocess.PIPE),
        env=build_environment(),
        **options,
    )


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared records; tests that need it are skipped, by name, where it is missing."""
    if not SHARED.is_dir():
        pytest.skip("../shared/data is not here")
    return SHARED


@pytest.fixture(scope="session")
def cloudtrail(shared: Path) -> Path:
    found = shared / "cloudtrail"
    if not found.is_dir():
        pytest.skip("../shared/data/cloudtrail is not here")
    return found


@pytest.fixture(scope="session")
def gapwatch() -> Gapwatch:
    """Runs `gapwatch ARGS` to its end; `given` is what stdin holds, `environment` what is set besides."""

    def run(*args: object, given: bytes = b"", environment: Mapping[str, str] = MappingProxyType({})) -> Ran:
        done = subprocess.run(
            [sys.executable, "-m", "processor", *map(str, args)],
            input=given,
            capture_output=True,
            timeout=RUN_SECONDS_MAX,
            env=build_environment() | environment,
            check=False,
        )
        return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())

    return run


@pytest.fixture(scope="session")
def apache_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureKafka]:
    """One Apache Kafka for all tests; a test that kills or freezes it leaves it running, and each has topics of its own."""
    missing = " and ".join(find_missing())
    if missing and os.environ.get("CI") == "true":
        pytest.fail(f"{missing} missing: apt-get install maven default-jdk-headless")
    if missing:
        pytest.skip(f"Apache Kafka needs {missing}")
    with SecureKafka(tmp_path_factory.mktemp("kafka") / "broker") as broker:
        yield broker


@pytest.fixture(scope="session")
def mesh_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MeshBroker]:
    """One broker in memory for all quick tests; each has topics of its own."""
    with MeshBroker(tmp_path_factory.mktemp("mesh") / "broker") as broker:
        yield broker


@pytest.fixture(scope="session")
def moto() -> Iterator[MotoServer]:
    """One server that speaks AWS' protocols, for all tests; see `aws`."""
    with MotoServer() as server:
        yield server


@pytest.fixture
def aws(moto: MotoServer, monkeypatch: pytest.MonkeyPatch) -> MotoServer:
    """The server with nothing in it, and the environment by which every AWS client of the test finds it."""
    moto.reset()
    set_aws_environment(monkeypatch, moto.url)
    return moto


@pytest.fixture
def faulty_aws(aws: MotoServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyAws]:
    """The same behind a proxy that refuses what a test says."""
    proxy = FaultyAws(aws)
    set_aws_environment(monkeypatch, proxy.url)
    yield proxy
    proxy.close()


def set_aws_environment(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
