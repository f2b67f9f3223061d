"""What several tests use: the shared records, and gapwatch as a process of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

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
