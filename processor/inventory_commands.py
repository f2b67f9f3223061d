"""`gapwatch inventory …`, and the options by which `run` takes its inventory from AWS.

Exit codes: 0 done; 2 usage, or nothing could be read (credentials, a denied call, an endpoint that cannot be reached); 3 some
accounts could not be read, the others were.
"""

import asyncio
import functools
import sys
from collections.abc import Callable, Container
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from processor.saying import warn
from processor.shell.aws_errors import AwsError

if TYPE_CHECKING:
    from processor.live_inventory import StartInventory
    from processor.shell.scans import InventoryPlan

EXIT_UNREAD = 3

Command = TypeVar("Command", bound=Callable[..., Any])


class AccountType(click.ParamType):
    """An account's id, twelve digits."""

    name = "ACCOUNT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        if len(text) != 12 or not text.isdecimal():
            self.fail(f"{text!r} is no account id: it has twelve digits", param, ctx)
        return text


def choose_accounts(command: Command) -> Command:
    """The options that say which accounts are read from AWS, and as whom."""
    for option in reversed(
        (
            click.option(
                "--account", "accounts", type=AccountType(), multiple=True,
                help="An account to read; may be given more than once. Default: our own, or all of the organization.",
            ),
            click.option(
                "--from-organization", is_flag=True,
                help="Read AWS Organizations: its accounts, and SCPs and RCPs down the tree.",
            ),
            click.option(
                "--assume-role", default="gapwatch", show_default=True, metavar="NAME|ARN", envvar="GAPWATCH_ASSUME_ROLE",
                help="The role to assume in other accounts; in an ARN {account} stands for the account.",
            ),
            click.option("--external-id", metavar="TEXT", help="The external id that this role asks for."),
        )
    ):  # fmt: skip
        command = option(command)
    return command


def choose_aws_inventory(command: Command) -> Command:
    """Options of a command that goes on: it gets `inventory_plan`, what to start, or None where no inventory is from AWS."""

    @functools.wraps(command)
    def planned(
        *,
        inventory_from: str | None,
        accounts: tuple[str, ...],
        from_organization: bool,
        assume_role: str,
        external_id: str | None,
        refresh_minutes: int,
        logging_from: str | None,
        eventbridge: bool,
        regions: tuple[str, ...],
        **options: Any,
    ) -> Any:
        if inventory_from is None and (accounts or from_organization or external_id):
            raise click.UsageError(
                "--account, --from-organization and --external-id say what to read --inventory-from aws"
            )
        if logging_from is not None and inventory_from is None:
            raise click.UsageError("--logging-from aws reads the accounts that --inventory-from aws reads: give both")
        if logging_from is None and (eventbridge or regions):
            raise click.UsageError("--eventbridge and --region say how to read --logging-from aws")
        logging = (eventbridge, regions) if logging_from else None
        plan = (
            (accounts, from_organization, assume_role, external_id, refresh_minutes, logging)
            if inventory_from
            else None
        )
        return command(inventory_plan=plan, **options)

    chosen: Any = choose_accounts(planned)
    chosen = click.option(
        "--refresh-minutes", type=click.IntRange(5, 10_080), default=360, show_default=True,
        help="How often each account is read whole; changes that the log shows are read at once.",
    )(chosen)  # fmt: skip
    for option in (
        click.option(
            "--region", "regions", multiple=True, metavar="REGION",
            help="A region that may be used; may be given more than once. Default: all that are turned on.",
        ),
        click.option("--eventbridge", is_flag=True, help="Records come through EventBridge: its rules count, too."),
        click.option(
            "--logging-from", type=click.Choice(("aws",)), help="Read from trails and rules what the log can show."
        ),
    ):  # fmt: skip
        chosen = option(chosen)
    return click.option(  # type: ignore[no-any-return]  # the decorated command, under click's own type
        "--inventory-from",
        type=click.Choice(("aws",)),
        help="Read what may be done from AWS itself, and keep it fresh.",
    )(chosen)


GivenPlan = tuple[tuple[str, ...], bool, str, str | None, int, tuple[bool, tuple[str, ...]] | None]


def start_plan(
    given: GivenPlan | None, organizations: tuple[str, ...], explicit: Container[str] = ()
) -> "StartInventory | None":
    """What starts the inventory that was asked for; settings say what the `explicit` accounts log. Raises as `open_plan`."""
    plan = open_plan(given, organizations)
    if plan is None:
        return None
    from processor.live_inventory import plan_inventory

    return plan_inventory(plan, explicit)


def open_plan(given: GivenPlan | None, organizations: tuple[str, ...]) -> "InventoryPlan | None":
    """The plan that was asked for, after a look whether AWS lets us read it. Raises AwsError, OrganizationError."""
    if given is None:
        return None
    from processor.shell.scans import probe
    from processor.shell.tables import load_catalogue

    plan = build_plan(*given, organizations=organizations)
    asyncio.run(probe(plan, load_catalogue()))
    return plan


def build_plan(
    accounts: tuple[str, ...],
    from_organization: bool,
    assume_role: str,
    external_id: str | None,
    refresh_minutes: int,
    logging: tuple[bool, tuple[str, ...]] | None = None,
    organizations: tuple[str, ...] = (),
) -> "InventoryPlan":
    """A plan of what the options say. Raises OrganizationError."""
    from processor.batch import read_document
    from processor.core.organizations import read_organization
    from processor.shell.aws_accounts import RolePlan
    from processor.shell.scans import InventoryPlan
    from processor.shell.trails import LoggingPlan

    known = tuple(read_organization(read_document(path), path) for path in organizations)
    role = RolePlan(assume_role, external_id)
    logged = None if logging is None else LoggingPlan(*logging)
    return InventoryPlan(accounts, from_organization, role, refresh_minutes * 60, known, logged)


def explain_failure(command: Callable[..., int]) -> Callable[..., NoReturn]:
    """Turn the errors of AWS and of files into one line and an exit code."""

    @functools.wraps(command)
    def guarded(**options: Any) -> NoReturn:
        try:
            code = command(**options)
        except AwsError as error:
            warn(str(error))
            code = 2
        except OSError as error:
            warn(f"{error.filename or 'a file'}: {error.strerror or error}")
            code = 2
        except KeyboardInterrupt:
            warn("interrupted: files that were written are whole")
            code = 130
        sys.exit(code)

    return guarded


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def inventory() -> None:
    """What may be done, as AWS has it."""


@inventory.command()
@choose_accounts
@click.option(
    "--out", "folder", type=click.Path(file_okay=False, path_type=Path), required=True, metavar="DIR",
    help="Where to write iam-ACCOUNT.json and organization.json.",
)  # fmt: skip
@explain_failure
def fetch(
    accounts: tuple[str, ...], from_organization: bool, assume_role: str, external_id: str | None, folder: Path
) -> int:
    """Write the files that `replay` and `run` read by --inventory and --organization.

    Credentials are AWS' own: environment variables, profile or role. A file of an account that cannot be read stays as it was.
    """
    from processor.shell.inventory_files import fetch_files
    from processor.shell.scans import Scanner
    from processor.shell.tables import load_catalogue

    async def fetch_all() -> int:
        scanner = Scanner(build_plan(accounts, from_organization, assume_role, external_id, 360), load_catalogue())
        fetched = await fetch_files(scanner, folder, lambda account_id: None)
        for path in fetched.written:
            click.echo(str(path))
        sets = f", {len(fetched.permission_sets)} Identity Center permission sets" if fetched.permission_sets else ""
        warn(f"{fetched.accounts} accounts read: {fetched.roles} roles, {fetched.users} users{sets}")
        for why in fetched.unread:
            warn(f"not read: {why}")
        if fetched.unread:
            return EXIT_UNREAD if fetched.accounts else 2
        return 0

    return asyncio.run(fetch_all())
