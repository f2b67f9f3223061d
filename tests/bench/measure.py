"""How the benchmark measures: CPU time and memory of processes, interleaved rounds, medians with their spread.

Nothing here judges: no assertion on time, and every figure is shown with the lowest and highest that was seen.
Reads /proc, so it runs on Linux only.
"""

import gc
import os
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

Measured = TypeVar("Measured")

CLOCK_TICKS_SECOND = os.sysconf("SC_CLK_TCK")
"""/proc counts CPU in ticks, of 10 ms nearly everywhere: too coarse for another process' work of less than a second."""


def read_cpu_seconds(pid: int) -> float:
    """User and system time of a process, all its threads, without children (proc(5), /proc/PID/stat, fields 14, 15).
    Raises FileNotFoundError where there is no such process."""
    # A process' name, in parentheses, may itself hold spaces and parentheses.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS_SECOND


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory; `anonymous_bytes` is without mapped files, which others may share."""

    resident_bytes: int
    anonymous_bytes: int
    resident_bytes_peak: int


def read_memory(pid: int | None = None) -> Memory:
    """Of this process, or of another (proc(5), /proc/PID/status, in KiB)."""
    lines = Path(f"/proc/{pid or 'self'}/status").read_text().splitlines()
    fields = {name: rest.split()[0] for name, _, rest in (line.partition(":") for line in lines) if rest.strip()}
    return Memory(int(fields["VmRSS"]) * 1024, int(fields["RssAnon"]) * 1024, int(fields["VmHWM"]) * 1024)


@dataclass(frozen=True, slots=True)
class Cost:
    """What a piece of work took: CPU of this process, CPU of the server that it used (0 without one), and the clock."""

    cpu_seconds: float
    server_cpu_seconds: float
    wall_seconds: float

    @property
    def total_cpu_seconds(self) -> float:
        return self.cpu_seconds + self.server_cpu_seconds


def measure_cost(work: Callable[[], object], server_pid: int | None = None) -> Cost:
    """Runs `work` once. Garbage of earlier work is collected first, and is not in the figure."""
    gc.collect()
    server_begun = read_cpu_seconds(server_pid) if server_pid is not None else 0.0
    wall_begun, cpu_begun = time.perf_counter(), time.process_time()
    work()
    cpu_seconds, wall_seconds = time.process_time() - cpu_begun, time.perf_counter() - wall_begun
    server_seconds = read_cpu_seconds(server_pid) - server_begun if server_pid is not None else 0.0
    return Cost(cpu_seconds, server_seconds, wall_seconds)


def run_rounds(variants: Mapping[str, Callable[[], Measured]], rounds: int) -> dict[str, list[Measured]]:
    """Runs A B A B ..., so that a machine that slows down slows all of them. Each call measures itself and answers what
    it found."""
    found: dict[str, list[Measured]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            found[name].append(run())
    return found


@dataclass(frozen=True, slots=True)
class Spread:
    """A median with what lay around it."""

    median: float
    lowest: float
    highest: float

    def show(self, digits: int = 2) -> str:
        return f"{self.median:,.{digits}f} [{self.lowest:,.{digits}f} .. {self.highest:,.{digits}f}]"


def summarise(values: Iterable[float]) -> Spread:
    """Raises StatisticsError without values."""
    ordered = sorted(values)
    return Spread(statistics.median(ordered), ordered[0], ordered[-1])


def compare_rounds(slower: Sequence[float], faster: Sequence[float]) -> Spread:
    """How many times as long the first took, round by round: the spread is that of neighbouring runs. Raises ValueError
    where the numbers of rounds differ."""
    return summarise(slow / fast for slow, fast in zip(slower, faster, strict=True))


def print_table(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """The first column to the left, figures to the right."""
    table = [tuple(headings), *(tuple(row) for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(headings))]
    print(f"\n{title}")
    for place, (first, *figures) in enumerate(table):
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(figures, widths[1:], strict=True))]
        print("  ".join(cells).rstrip())
        if place == 0:
            print("  ".join("-" * width for width in widths))
