"""The command line: reads settings, builds the parts, runs them: the one place that knows all of them.

Exit codes: 0 done; 1 findings, where --fail-on asks for it; 2 usage, bad input, or a store that is refused; 3 the store or
a source failed on the way (what was stored is kept: start again).
"""

import asyncio
import functools
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TypeVar

import click

from processor import early
from processor.core.records import parse_time
from processor.inventory_commands import choose_aws_inventory, start_plan
from processor.saying import warn
from processor.source_options import SourceOrder, choose_sources

if TYPE_CHECKING:
    from processor.opening import Place
    from processor.settings import Settings

early.end()

EXIT_FINDINGS = 1
EXIT_FAILED = 3

Command = TypeVar("Command", bound=Callable[..., Any])


class TimeType(click.ParamType):
    """A time such as 2026-11-24T00:00:00Z, as seconds since 1970."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = parse_time(value if "T" in value else f"{value}T00:00:00Z")
        if found is None:
            self.fail(f"{value!r} is no time: write it as 2026-11-24T00:00:00Z or 2026-11-24", param, ctx)
        return found


def choose_store(command: Command) -> Command:
    """The options that say where the store is."""
    command = click.option(
        "--redis",
        "url",
        envvar="GAPWATCH_REDIS",
        metavar="URL",
        help="A Redis of yours: redis://, rediss:// (TLS), unix://.",
    )(command)
    return click.option(
        "--state",
        "folder",
        envvar="GAPWATCH_STATE",
        type=click.Path(file_okay=False, path_type=Path),
        metavar="DIR",
        help="Keep an embedded Redis' data in this folder.",
    )(command)


def choose_settings(command: Command) -> Command:
    """The options that narrow a run and say what is logged."""
    for option in reversed(
        (
            click.option("--config", type=click.Path(dir_okay=False), metavar="FILE", help="Settings (TOML)."),
            click.option(
                "--window", "windows", type=click.IntRange(1, 400), multiple=True, metavar="DAYS",
                help="A sliding window; may be given more than once. Default: 7, 30 and 90.",
            ),
            click.option("--only", multiple=True, metavar="PATTERN", help="Only these accounts, ARNs or names (* and ?)."),
            click.option("--skip", multiple=True, metavar="PATTERN", help="Not these accounts, ARNs or names."),
            click.option("--service-linked", is_flag=True, help="Look at service-linked roles too."),
            click.option(
                "--data-events", multiple=True, metavar="SERVICE",
                help="A service whose data events all accounts log (s3, lambda, …; '*' for all). Default: none.",
            ),
            click.option(
                "--no-read-only", is_flag=True, help="Get, List and Describe calls are not in the log that is read."
            ),
        )
    ):  # fmt: skip
        command = option(command)
    return command


def choose_inventory(command: Command) -> Command:
    """Options that say what may be done: inventories and organizations."""
    command = click.option(
        "--organization", "organizations", type=click.Path(exists=True, dir_okay=False), multiple=True, metavar="FILE",
        help="SCPs and RCPs: {management_account, tree, policies}. May be given more than once.",
    )(command)  # fmt: skip
    return click.option(
        "--inventory", "inventories", type=click.Path(exists=True, dir_okay=False), multiple=True, metavar="FILE",
        help="Output of `aws iam get-account-authorization-details`. May be given more than once.",
    )(command)  # fmt: skip


def choose_format(command: Command) -> Command:
    """The options that say what is printed, and what is a finding."""
    command = click.option("--actions", "with_actions", is_flag=True, help="List every granted action, too.")(command)
    command = click.option(
        "--fail-on", type=click.Choice(("unused", "high-risk")),
        help="Exit with 1 where a grant is unused in the longest window (high-risk: one with a risk class).",
    )(command)  # fmt: skip
    return click.option(
        "--format", "style", type=click.Choice(("table", "json")), default="table", show_default=True,
        help="A table for people or JSON for programs.",
    )(command)  # fmt: skip


def gather_settings(
    config: str | None,
    windows: tuple[int, ...] = (),
    only: tuple[str, ...] = (),
    skip: tuple[str, ...] = (),
    service_linked: bool = False,
    data_events: tuple[str, ...] = (),
    no_read_only: bool = False,
    **sections: dict[str, Any],
) -> "Settings":
    """The settings of a command: what its options say, over the environment and the file."""
    from processor.settings import read_settings

    overlay: dict[str, Any] = {"windows": windows, "only": only, "skip": skip, "service_linked_roles": service_linked}
    if data_events or no_read_only:
        overlay["logging"] = {"*": {"data_events": list(data_events), "read_only": not no_read_only}}
    return read_settings(config, {**overlay, **sections})


def choose_place(url: str | None, folder: Path | None, *, needed: bool = False) -> "Place":
    """Where the options say that the store is; `needed`: there must be one. Raises click.UsageError for two or none."""
    from processor.opening import Place

    if url and folder:
        raise click.UsageError("--redis and --state exclude each other: a store is in one place")
    if needed and not (url or folder):
        raise click.UsageError("which store? Give --redis URL or --state DIR, where replay or run wrote to")
    if needed and folder is not None and not folder.is_dir():
        raise click.UsageError(f"--state {folder}: there is no such folder, so no store in it")
    return Place(url, folder)


def explain_failure(command: Callable[..., int]) -> Callable[..., NoReturn]:
    """Turn the errors that a person can do something about into one line and an exit code."""

    @functools.wraps(command)
    def guarded(**options: Any) -> NoReturn:
        early.begin()  # Nearly all of the program comes with these: --help and completion need none of it.
        from processor.core.explain import UnknownActionError
        from processor.core.inventory import InventoryError
        from processor.core.organizations import OrganizationError
        from processor.core.reference import ReferenceRefused
        from processor.replay import AsOfError
        from processor.settings_error import SettingsError
        from processor.shell.aws_errors import AwsError
        from processor.shell.files import SourceError
        from processor.shell.redis import StoreBusy, StoreError, StoreRefused
        from processor.shell.terminal import silence_output

        early.end()
        try:
            code = command(**options)
        except (
            SettingsError,
            InventoryError,
            OrganizationError,
            AsOfError,
            SourceError,
            StoreBusy,
            StoreRefused,
            UnknownActionError,
            AwsError,
            ReferenceRefused,
        ) as error:
            warn(str(error))
            code = 2
        except StoreError as error:
            warn(str(error))
            code = EXIT_FAILED
        except KeyboardInterrupt:
            warn("interrupted: what was stored is kept")
            code = 130
        except BrokenPipeError:
            silence_output()
            code = 0
        sys.exit(code)

    return guarded


class LazyGroup(click.Group):
    """Imports the commands of `GROUPS` when they are called or listed: most runs need none of them."""

    GROUPS: ClassVar = {
        "backfill": "processor.backfill_command",
        "catalogue": "processor.catalogue_commands",
        "export": "processor.export_command",
        "inventory": "processor.inventory_commands",
        "topics": "processor.topic_commands",
        "intake": "processor.fleet_commands",
        "ledger": "processor.fleet_commands",
        "notify": "processor.telling_commands",
        "page": "processor.telling_commands",
    }

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *self.GROUPS])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.GROUPS:
            return super().get_command(ctx, cmd_name)
        found: click.Command = getattr(import_module(self.GROUPS[cmd_name]), cmd_name)
        return found


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "GAPWATCH"})
@click.version_option(package_name="gapwatch")
def main() -> None:
    """Keeps, for every IAM role and user, the gap between what it may do and what it did.

    Try `gapwatch demo`, or `gapwatch replay --inventory iam.json cloudtrail/`.

    Completion for bash: eval "$(_GAPWATCH_COMPLETE=bash_source gapwatch)"; for zsh and fish, zsh_source and fish_source.
    """


@main.command()
@choose_inventory
@choose_settings
@click.option("--as-of", type=TimeType(), help="The time of the report. Default: the newest event.")
@click.option(
    "--covered-since", type=TimeType(), help="Since when the logs are complete. Default: each account's first record."
)
@choose_format
@choose_store
@click.argument("paths", nargs=-1, required=True, metavar="PATH...|-")
@explain_failure
def replay(
    paths: Sequence[str],
    inventories: Sequence[str],
    organizations: Sequence[str],
    as_of: int | None,
    covered_since: int | None,
    with_actions: bool,
    style: str,
    fail_on: str | None,
    url: str | None,
    folder: Path | None,
    **narrowing: Any,
) -> int:
    """Read files, folders or stdin (-), print the report and end.

    The form is recognised: S3 log files, NDJSON of records, EventBridge events or CloudWatch Logs batches, LookupEvents
    output; plain or gzip. With --redis or --state it goes on where an earlier run ended.
    """
    from processor.batch import ReplayOrder, run_replay

    order = ReplayOrder(
        tuple(paths), tuple(inventories), tuple(organizations), gather_settings(**narrowing), as_of, covered_since
    )
    return asyncio.run(run_replay(order, choose_place(url, folder), (style, with_actions, fail_on), warn))


@main.command()
@click.option(
    "--as-of", type=TimeType(), help="The time of the report. Default: the newest event, or the last run's own."
)
@choose_format
@choose_store
@explain_failure
def report(
    as_of: int | None, with_actions: bool, style: str, fail_on: str | None, url: str | None, folder: Path | None
) -> int:
    """Print the report of what a store holds."""
    from processor.batch import run_report

    return asyncio.run(run_report(choose_place(url, folder, needed=True), as_of, (style, with_actions, fail_on), warn))


@main.command()
@click.option(
    "--as-of", type=TimeType(), help="The time of the verdicts. Default: the newest event, or the last run's own."
)
@click.option("--format", "style", type=click.Choice(("text", "json")), default="text", show_default=True)
@choose_store
@click.argument("principal")
@click.argument("action", required=False)
@explain_failure
def explain(
    principal: str, action: str | None, as_of: int | None, style: str, url: str | None, folder: Path | None
) -> int:
    """Say why: the evidence for the verdicts of a PRINCIPAL (ARN, unique id or name), or of one ACTION of it."""
    from processor.batch import run_explain

    return asyncio.run(run_explain(choose_place(url, folder, needed=True), principal, action, as_of, style, warn))


@main.command()
@choose_sources
@choose_inventory
@choose_aws_inventory
@choose_settings
@click.option("--host", metavar="ADDRESS", help="Where to serve /metrics. Default: 127.0.0.1.")
@click.option("--port", type=click.IntRange(0, 65535), help="Its port; 0 takes a free one. Default: 9464.")
@click.option("--token-file", metavar="PATH", help="A file with the token that the page asks for, for a wider --host.")
@click.option("--exemptions", metavar="FILE", help="Who has answered for what, and the break-glass principals (TOML).")
@click.option("--alertmanager", metavar="URL", help="Push first uses to this Alertmanager at once, besides the rules.")
@choose_store
@explain_failure
def run(
    paths: Sequence[str],
    streams: Sequence[str],
    queues: Sequence[str],
    buckets: Sequence[str],
    endpoint_url: str | None,
    inventories: Sequence[str],
    organizations: Sequence[str],
    host: str | None,
    port: int | None,
    token_file: str | None,
    exemptions: str | None,
    alertmanager: str | None,
    url: str | None,
    folder: Path | None,
    inventory_plan: Any,
    **narrowing: Any,
) -> int:
    """Follow files and streams as they grow, and serve the gap as metrics and as a page until SIGTERM.

    Serves the page at /, /api, /metrics, /healthz and /readyz. Without --redis or --state the store is gone at the end.
    """
    from processor.batch import read_inventories
    from processor.run import run_forever
    from processor.runner import RunOrder
    from processor.shell.push import build_pusher
    from processor.stopping import stop_on_signals
    from processor.watching import find_inventory_time, read_watching

    sources = SourceOrder(tuple(paths), tuple(streams), tuple(queues), tuple(buckets), endpoint_url)
    sources.check_given()
    alerts = {"exemptions": exemptions, "alertmanager": alertmanager}
    settings = gather_settings(
        **narrowing, run={"host": host, "port": port}, page={"token_file": token_file}, alerts=alerts
    )
    watching = read_watching(settings.alerts)
    inventory = read_inventories(inventories, organizations, warn)
    order = RunOrder(tuple(paths), settings, inventory, watching, find_inventory_time(inventories))
    order.pusher = build_pusher(settings.alerts, warn)
    order.start_inventory = start_plan(inventory_plan, tuple(organizations), settings.logging)
    place = choose_place(url, folder)

    def say_url(at: str) -> None:
        warn(f"serving {at}/metrics{f' and the page at {at}/' if settings.page.serve else ''}")

    async def run_here() -> int:
        order.feeds = await sources.open(settings, warn)
        return await run_forever(order, place, warn, say_url, stop_on_signals())

    return asyncio.run(run_here())


@main.command()
@click.option("--seconds", type=click.IntRange(1, 86_400), help="End after so many seconds. Default: at Ctrl-C.")
@click.option(
    "--weeks", type=click.IntRange(1, 12), default=6, show_default=True, help="Weeks of history to play at speed."
)
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Where to serve. Default: any free port.")
@explain_failure
def demo(seconds: int | None, weeks: int, port: int) -> int:
    """Play a made-up company and show its gap, on the terminal and at a URL. Needs nothing.

    Seven accounts, engineers and machines, DEV, QA and PROD: weeks of activity at speed, then live, with a few stories
    planted. Everything runs in a temporary folder that is gone at the end.
    """
    from processor.demo.play import play_demo

    return asyncio.run(play_demo(seconds, weeks, port, warn))


if __name__ == "__main__":
    main()
