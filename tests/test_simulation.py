"""Kafka mode under all that may happen to it, in virtual time: see simulation.py, which runs as many seeds as one likes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from faults import FAULTS

SIMULATION = Path(__file__).parent / "simulation.py"
SEEDS = 100 if os.environ.get("CI") == "true" else 50
FAULT_SEEDS = 80
"""A planted fault shows in one of five seeds, or more often."""

RARE = {"told_over_unseen": 300}
"""It takes a takeover while something told is on its way."""


def simulate(*args: object) -> subprocess.CompletedProcess[str]:
    """Run seeds in a process of their own: what is killed in there leaves files and tasks behind, as a killed process does."""
    command = [sys.executable, str(SIMULATION), "--stop", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def test_seeds_end_as_a_naive_reading_says() -> None:
    done = simulate("--seeds", SEEDS)
    assert done.returncode == 0, done.stdout + done.stderr[-2_000:]
    assert done.stdout.endswith(f"{SEEDS} seeds, 0 failed\n")


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_a_planted_fault_is_found(fault: str) -> None:
    done = simulate("--seeds", RARE.get(fault, FAULT_SEEDS), "--fault", fault)
    assert done.returncode == 1, done.stdout + done.stderr[-2_000:]
    assert done.stdout.startswith("seed ")
