"""What a person sees: the progress bar and the report's table."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from processor.core.explain import ascii_safe
from processor.shell.files import STDIN, Source

ROWS_MAX = 50


@contextmanager
def show_progress(sources: Sequence[Source]) -> Iterator[Callable[[Source, int], None]]:
    """A bar over the sources' bytes where standard error is a terminal; yields what is called after each source."""
    if not sys.stderr.isatty():
        yield lambda source, size: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    total = sum(Path(source.path).stat().st_size for source in sources if source.path != STDIN)
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("reading", total=total or None)
        yield lambda source, size: progress.advance(task, size)


def silence_output() -> None:
    """Let standard output go nowhere: its reader has gone (`gapwatch … | head`), and has what it wanted."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def expect_broken_pipe() -> Iterator[None]:
    """Raise BrokenPipeError where rich, at a reader that has gone, would end the whole process with 1."""
    try:
        yield
    except SystemExit as error:
        raise BrokenPipeError from error


def print_report(report: dict[str, Any], *, with_actions: bool) -> None:
    """The report as tables on standard output: the widest gaps first."""
    from rich.console import Console
    from rich.table import Table

    console = Console(soft_wrap=not sys.stdout.isatty(), width=None if sys.stdout.isatty() else 200)
    records = report["records"]
    catalogue = report["catalogue"]
    console.print(
        f"as of {report['as_of']}, {records['read']} records read: "
        + ", ".join(f"{count} {name}" for name, count in records.items() if name != "read" and count),
        highlight=False,
    )
    console.print(f"catalogue {catalogue['version']}, {catalogue['actions']} actions", highlight=False)
    principals = sorted(report["principals"], key=_by_gap)
    labels = next((list(found["windows"]) for found in principals if found["windows"]), [])
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("principal", overflow="fold")
    for name in ("granted", *(f"unused {label}" for label in labels), "cannot tell", "used, not granted", "gap index"):
        table.add_column(name, justify="right")
    for found in principals[:ROWS_MAX]:
        table.add_row(*_row(found, labels))
    console.print(table)
    if len(principals) > ROWS_MAX:
        console.print(f"… and {len(principals) - ROWS_MAX} more principals: --format json has all", highlight=False)
    if with_actions:
        _print_grants(console, principals[:ROWS_MAX], labels)


def _by_gap(found: dict[str, Any]) -> tuple[float, int, str]:
    windows = found["windows"]
    if not windows:
        return (1.0, 0, found["arn"])
    widest = max(windows.values(), key=lambda window: (window["gap_index"], window["unused"]))
    return (-widest["gap_index"], -widest["unused"], found["arn"])


def _row(found: dict[str, Any], labels: Sequence[str]) -> list[str]:
    from rich.markup import escape

    name = escape(ascii_safe(found["arn"]))
    windows = found["windows"]
    if not windows:
        return [name, "?", *("" for _ in labels), "", "", ""]
    longest = windows[labels[-1]]
    unsure = sum(longest[verdict] for verdict in ("unobservable", "too_new", "unproven"))
    return [
        name,
        str(longest["granted"]),
        *(str(windows[label]["unused"]) for label in labels),
        str(unsure),
        str(longest["used_not_granted"]),
        str(max(window["gap_index"] for window in windows.values())),
    ]


def _print_grants(console: Any, principals: Sequence[dict[str, Any]], labels: Sequence[str]) -> None:
    for found in principals:
        if found.get("grants"):
            console.print(f"\n{ascii_safe(found['arn'])}", markup=False, highlight=False)
        for action, grant in found.get("grants", {}).items():
            verdicts = "  ".join(f"{label} {grant['verdict'][label]}" for label in labels)
            risk = f"  [{', '.join(grant['risk'])}]" if grant["risk"] else ""
            mark = "  conditional" if grant["conditional"] else ""
            console.print(f"  {action}  {verdicts}{risk}{mark}", markup=False, highlight=False)
