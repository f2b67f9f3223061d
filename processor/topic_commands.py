"""`gapwatch topics create|check`, and the options by which every command finds the Kafka brokers.

Exit codes: 0 done, nothing differs; 1 `check` found differences; 2 usage, or brokers that cannot be reached or refuse.
"""

import asyncio
import functools
import os
import re
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from processor.settings_error import SettingsError
from processor.shell.brokers import (
    KEY_PASSWORD_VARIABLE,
    MECHANISMS,
    PASSWORD_VARIABLE,
    SECURITIES,
    BrokerError,
    BrokerSettings,
    read_secret,
    split_hosts,
)
from processor.shell.topics import check_topics, create_topics
from topics import TOPICS
from topics.contract import PREFIX

Command = TypeVar("Command", bound=Callable[..., Any])
Task = Callable[..., Coroutine[Any, Any, int]]

PREFIX_FORM = re.compile(r"[a-zA-Z0-9._-]{0,200}")
"""What Kafka takes in a name, which has at most 249 characters."""

PEM = click.Path(dir_okay=False, path_type=Path)


def check_prefix(ctx: click.Context, param: click.Parameter, prefix: str) -> str:
    """Refuse what no topic's name can begin with."""
    if not PREFIX_FORM.fullmatch(prefix):
        raise click.BadParameter(f"{prefix!r}: topics' names have letters, digits, dots, dashes and underscores")
    return prefix


def choose_brokers(command: Command) -> Command:
    """The options that say where the Kafka brokers are, how to reach them, and what topics' names begin with."""
    for option in reversed(
        (
            click.option(
                "--brokers", required=True, envvar="GAPWATCH_KAFKA_BROKERS", metavar="HOST:PORT[,..]",
                help="Some of the Kafka brokers; the others are learnt from them.",
            ),
            click.option(
                "--prefix", envvar="GAPWATCH_KAFKA_PREFIX", default=PREFIX, show_default=True, metavar="P",
                callback=check_prefix,
                help="What the topics' names begin with.",
            ),
            click.option(
                "--security", envvar="GAPWATCH_KAFKA_SECURITY", type=click.Choice(SECURITIES),
                default=SECURITIES[0], show_default=True, help="How to talk to the brokers.",
            ),
            click.option(
                "--mechanism", envvar="GAPWATCH_KAFKA_MECHANISM", type=click.Choice(MECHANISMS),
                default=MECHANISMS[-1], show_default=True, help="Of SASL. PLAIN shows the password to the network without ssl.",
            ),
            click.option(
                "--user", envvar="GAPWATCH_KAFKA_USER", metavar="NAME",
                help=f"Of SASL. Its password is in {PASSWORD_VARIABLE} or in --password-file.",
            ),
            click.option(
                "--password-file", envvar="GAPWATCH_KAFKA_PASSWORD_FILE", type=PEM, metavar="FILE",
                help="Holds the password.",
            ),
            click.option("--ca", envvar="GAPWATCH_KAFKA_CA", type=PEM, metavar="FILE", help="Who signs the brokers (PEM)."),
            click.option(
                "--certificate", envvar="GAPWATCH_KAFKA_CERTIFICATE", type=PEM, metavar="FILE",
                help="The client's own, for mutual TLS (PEM).",
            ),
            click.option(
                "--key", envvar="GAPWATCH_KAFKA_KEY", type=PEM, metavar="FILE",
                help=f"Its key (PEM); the password of an encrypted one is in {KEY_PASSWORD_VARIABLE}.",
            ),
        )
    ):  # fmt: skip
        command = option(command)
    return command


def gather_brokers(
    brokers: str,
    security: str,
    mechanism: str,
    user: str | None,
    password_file: Path | None,
    ca: Path | None,
    certificate: Path | None,
    key: Path | None,
) -> BrokerSettings:
    """The settings that the options of `choose_brokers` and the secrets of the environment make. Raises SettingsError."""
    return BrokerSettings(
        hosts=split_hosts(brokers),
        security=security,
        mechanism=mechanism,
        user=user or None,
        password=read_secret(PASSWORD_VARIABLE, password_file, "--password-file", os.environ),
        ca=ca,
        certificate=certificate,
        key=key,
        key_password=read_secret(KEY_PASSWORD_VARIABLE, None, "", os.environ),
    )


def choose_replication(command: Command) -> Command:
    return click.option(
        "--replication", envvar="GAPWATCH_KAFKA_REPLICATION", type=click.IntRange(1, 100), metavar="N",
        help="Replicas of each partition. Default: 3, or as many as there are brokers.",
    )(command)  # fmt: skip


def run_to_exit(task: Task) -> Callable[..., NoReturn]:
    """A command from a coroutine: its result is the exit code, and what a person can mend is one line."""

    @functools.wraps(task)
    def run(**options: Any) -> NoReturn:
        try:
            code = asyncio.run(task(**options))
        except (SettingsError, BrokerError) as error:
            click.echo(f"gapwatch: {error}", err=True)
            code = 2
        except KeyboardInterrupt:
            code = 130
        sys.exit(code)

    return run


@click.group()
def topics() -> None:
    """Make the Kafka topics, or compare them with what gapwatch needs."""


@topics.command()
@choose_brokers
@choose_replication
@run_to_exit
async def create(prefix: str, replication: int | None, **connection: Any) -> int:
    """Make the topics that are missing. What exists is not changed."""
    making = await create_topics(gather_brokers(**connection), TOPICS, prefix, replication)
    for name in making.made:
        click.echo(f"made {name}, with {making.replication} replica{'s' if making.replication > 1 else ''}")
    for name in making.kept:
        click.echo(f"kept {name}, which exists (`gapwatch topics check` compares it)")
    return 0


@topics.command()
@choose_brokers
@choose_replication
@run_to_exit
async def check(prefix: str, replication: int | None, **connection: Any) -> int:
    """Say how the topics differ from what gapwatch needs; exit with 1 where they do."""
    differences = await check_topics(gather_brokers(**connection), TOPICS, prefix, replication)
    for difference in differences:
        click.echo(difference)
    if not differences:
        click.echo(f"all {len(TOPICS)} topics are as they should be")
    return 1 if differences else 0
