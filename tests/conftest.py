"""What several tests use: the shared records, gapwatch as a process of its own, and Kafka brokers."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from brokers import MeshBroker, SecureKafka, find_missing

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared" / "data"
RUN_SECONDS_MAX = 120


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
    """Runs `gapwatch ARGS` to its end; `given` is what stdin holds."""

    def run(*args: object, given: bytes = b"") -> Ran:
        done = subprocess.run(
            [sys.executable, "-m", "processor", *map(str, args)],
            input=given,
            capture_output=True,
            timeout=RUN_SECONDS_MAX,
            env=build_environment(),
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
