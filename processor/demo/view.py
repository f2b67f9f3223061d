"""What the demo shows: the fleet's widest gaps and the stories, as they stand, on a terminal and for the page."""

import asyncio
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from processor.core.explain import ascii_safe
from processor.core.fleet import Member
from processor.core.records import format_time
from processor.core.sessions import key_of
from processor.demo.company import Company
from processor.demo.stories import Story
from processor.runner import Held, Runner
from processor.shell.ending import rest_until
from processor.shell.terminal import expect_broken_pipe, silence_output

ROWS = 12
SHOW_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Row:
    """One principal in its widest window."""

    arn: str
    window: str
    granted: int
    used: int
    unused: int
    unsure: int
    index: float


@dataclass(frozen=True, slots=True)
class Told:
    """A story and how the store sees it now; `state` is empty while its time has not come."""

    story: Story
    state: str


@dataclass(frozen=True, slots=True)
class View:
    """All that is shown at one moment."""

    as_of: str
    records: dict[str, int]
    principals: int
    rows: tuple[Row, ...]
    stories: tuple[Told, ...]


def build_view(runner: Runner | None, stories: Sequence[Story], now: float) -> View:
    """The moment's view; empty while nothing is loaded yet."""
    if runner is None or runner.tracker is None or runner.opened is None:
        return View("starting", {}, 0, (), tuple(Told(story, "") for story in stories))
    tracker, tally = runner.tracker, runner.opened.pipeline.tally
    rows = [row for member in tracker.fleet.members() if (row := _build_row(runner, member)) is not None]
    rows.sort(key=lambda row: (-row.index, -row.unused, row.arn))
    return View(
        format_time(tracker.as_of) if tracker.as_of else "starting",
        {"read": tally.read, **tally.classes},
        len(tracker),
        tuple(rows[:ROWS]),
        tuple(Told(story, _tell(runner, story, now)) for story in stories),
    )


def _build_row(runner: Runner, member: Member) -> Row | None:
    key = key_of(member.principal)
    if runner.tracker is None or key not in runner.tracker:
        return None
    _, counts = runner.tracker.count(key)
    if not counts:
        return None
    widest = max(counts, key=lambda found: (found.index, found.verdicts["unused"]))
    verdicts = widest.verdicts
    unsure = verdicts["unobservable"] + verdicts["too_new"] + verdicts["unproven"]
    granted = sum(verdicts.values())
    return Row(member.principal.arn, widest.window, granted, verdicts["used"], verdicts["unused"], unsure, widest.index)


def _tell(runner: Runner, story: Story, now: float) -> str:
    """What the store says of a story's action: its verdicts by window, uses and refusals."""
    if now < story.at or runner.tracker is None:
        return ""
    fleet = runner.tracker.fleet
    action = fleet.catalogue.ids.get(story.action)
    member = next((found for found in fleet.members() if found.principal.arn == story.principal_arn), None)
    if member is None or action is None:
        return "not seen yet"
    cell = None if member.usage is None else member.usage.cells.get(action)
    said = "never used" if cell is None or not cell.last else f"last used {format_time(cell.last)}, {cell.count} times"
    if cell is not None and cell.denied:
        said += f", denied {cell.denied} times"
    if member.granted is None:
        return said
    verdicts = fleet.verdicts_of(member, fleet.gap_of(member, runner.tracker.as_of), runner.tracker.as_of)
    found = [
        f"{window.label} {judged.verdict_of(action) or 'not granted'}"
        for window, judged in zip(fleet.windows, verdicts, strict=True)
    ]
    return f"{said}; {', '.join(found)}"


class Shower:
    """Shows the demo on the terminal: redrawn in place on a real one, as lines elsewhere."""

    def __init__(self, company: Company, held: Held) -> None:
        self._held = held
        self._stories = company.stories()
        self._accounts = len(company.accounts)
        self._told: set[str] = set()
        self._url = ""

    def note_url(self, url: str) -> None:
        """Say where the page is, once it is served."""
        self._url = url
        print(f"A made-up company of {self._accounts} accounts. Page: {url}/  Metrics: {url}/metrics", flush=True)

    async def show(self, stopping: asyncio.Event) -> None:
        """Show until `stopping` is set, and the whole view once more at the end. A reader that goes away ends the demo."""
        try:
            await self._show_until(stopping)
            with expect_broken_pipe():
                print_view(build_view(self._held.runner, self._stories, time.time()))
        except BrokenPipeError:
            silence_output()
            stopping.set()

    async def _show_until(self, stopping: asyncio.Event) -> None:
        shown = 0
        while not stopping.is_set():
            view = build_view(self._held.runner, self._stories, time.time())
            self._print_progress(view, shown)
            shown = view.records.get("read", 0)
            for told in view.stories:
                if told.state and told.state != "not seen yet" and told.story.name not in self._told:
                    self._tell_once(told)
            await rest_until(stopping, SHOW_SECONDS)

    def _print_progress(self, view: View, shown: int) -> None:
        read = view.records.get("read", 0)
        line = f"as of {view.as_of}  {read:,} records read, {view.records.get('use', 0):,} uses, {view.principals} principals"
        if sys.stdout.isatty():
            print(f"\r\x1b[2K{line}", end="", flush=True)
        elif read - shown > 500:
            print(line, flush=True)

    def _tell_once(self, told: Told) -> None:
        """A story's beginning; one that is to be used is told when the store has seen it."""
        story = told.story
        if story.kind == "use" and "never used" in told.state:
            return
        self._told.add(story.name)
        lead = "\r\x1b[2K" if sys.stdout.isatty() else ""
        text = f"{lead}* {story.what}\n    {ascii_safe(story.principal_arn)} {story.action}: {told.state}"
        print(text, flush=True)


def print_view(view: View) -> None:
    """The view as tables."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 160)
    table = Table(box=None, header_style="bold", title=f"The widest gaps as of {view.as_of}", title_justify="left")
    table.add_column("principal", overflow="fold")
    for name in ("window", "granted", "used", "unused", "cannot tell", "gap index"):
        table.add_column(name, justify="right")
    for row in view.rows:
        numbers = (row.granted, row.used, row.unused, row.unsure, row.index)
        table.add_row(ascii_safe(row.arn), row.window, *map(str, numbers))
    console.print()
    console.print(table)
    counts = ", ".join(f"{count:,} {name}" for name, count in view.records.items() if count)
    console.print(f"records: {counts}", highlight=False)
