"""`gapwatch catalogue update`: the actions that exist, as AWS' Service Reference has them now, and what that moves.

Exit codes: 0 done; 1 with --check, where something would move; 2 usage, or an address that is no Service Reference.
"""

import asyncio
import functools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click

from processor.saying import warn


def explain_failure(command: Callable[..., int]) -> Callable[..., NoReturn]:
    """Turn errors of the reference and of files into one line and an exit code."""

    @functools.wraps(command)
    def guarded(**options: Any) -> NoReturn:
        from processor.core.reference import ReferenceRefused
        from processor.shell.reference import ReferenceUnreachable

        try:
            code = command(**options)
        except* (ReferenceRefused, ReferenceUnreachable) as errors:
            first: BaseException = errors
            while isinstance(first, BaseExceptionGroup):
                first = first.exceptions[0]
            warn(f"{first}. Nothing was written.")
            code = 2
        except* OSError as errors:
            warn(f"{errors.exceptions[0]}. Nothing was written.")
            code = 2
        sys.exit(code)

    return guarded


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def catalogue() -> None:
    """The IAM actions that exist."""


@catalogue.command()
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
    help="Where to write it; commands read it from there by GAPWATCH_CATALOGUE=FILE.",
)  # fmt: skip
@click.option("--check", is_flag=True, help="Write nothing; exit with 1 where something would move.")
@click.option("--from", "address", metavar="URL", help="Where the Service Reference is. Default: AWS' own.")
@explain_failure
def update(out: Path | None, check: bool, address: str | None) -> int:
    """Fetch AWS' Service Reference, write it as a catalogue, and name every action that it moves.

    Compared with the catalogue in use. An action that is new is granted to nobody before the next inventory is read, and its
    grants are as old as that: no gap moves silently.
    """
    from processor.core.reference import find_moves, say_moves
    from processor.shell.reference import ADDRESS, fetch_snapshot, write_snapshot
    from processor.shell.tables import build_from_snapshot, load_catalogue

    if (out is None) != check:
        raise click.UsageError("give --out FILE to write it, or --check to compare only")
    before = load_catalogue()
    snapshot = asyncio.run(fetch_snapshot(address or ADDRESS, before, int(time.time()), lambda service: None))
    now = build_from_snapshot(snapshot)
    moves = find_moves(before, now)
    for line in say_moves(moves):
        click.echo(line)
    warn(
        f"{snapshot.version}: {now.size} actions, {before.version} has {before.size}: {len(moves.added)} added, "
        f"{len(moves.gone)} gone, {len(moves.levels)} with another access level, {len(moves.observable)} shown by the log otherwise"
    )
    if out is not None:
        write_snapshot(out, snapshot)
        warn(f"written to {out}: set GAPWATCH_CATALOGUE={out} to use it")
    return 1 if check and moves else 0
