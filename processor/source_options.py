"""The options that say what a long-running process reads from AWS, and the feeds that they stand for."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from processor.settings import Settings

if TYPE_CHECKING:
    from processor.shell.feeds import OpenFeed

Command = TypeVar("Command", bound=Callable[..., Any])


def choose_endpoint(command: Command) -> Command:
    """Where AWS is, for emulators and private endpoints."""
    return click.option(
        "--endpoint-url", envvar="GAPWATCH_ENDPOINT_URL", metavar="URL",
        help="Where AWS answers. Default: as AWS_ENDPOINT_URL and the region say.",
    )(command)  # fmt: skip


def choose_sources(command: Command) -> Command:
    """The sources of `run`."""
    for option in reversed(
        (
            click.option(
                "--source", "paths", multiple=True, metavar="PATH",
                help="A file or folder to follow; may be given more than once.",
            ),
            click.option(
                "--kinesis", "streams", multiple=True, metavar="STREAM",
                help="A Kinesis data stream, by name or ARN, of EventBridge events or CloudWatch Logs batches.",
            ),
            click.option(
                "--sqs", "queues", multiple=True, metavar="QUEUE_URL",
                help="An SQS queue of EventBridge events, or of notifications that name log files in S3.",
            ),
        )
    ):  # fmt: skip
        command = option(command)
    return choose_endpoint(command)


@dataclass(frozen=True, slots=True)
class SourceOrder:
    """What the options of `choose_sources` said."""

    paths: tuple[str, ...] = ()
    streams: tuple[str, ...] = ()
    queues: tuple[str, ...] = ()
    endpoint_url: str | None = None

    def check_given(self) -> None:
        """Raises click.UsageError where there is nothing to read, or something twice."""
        if not (self.paths or self.streams or self.queues):
            raise click.UsageError("what is to be read? Give --source PATH, --kinesis STREAM or --sqs QUEUE_URL")
        for option, named in (("--kinesis", self.streams), ("--sqs", self.queues)):
            twice = [name for name in named if named.count(name) > 1]
            if twice:
                raise click.UsageError(f"{option} {twice[0]} is given twice")

    async def open(self, settings: Settings, warn: Callable[[str], None]) -> "tuple[OpenFeed, ...]":
        """What opens the feeds on AWS, each looked at once. Raises SourceError as Feed.check does."""
        if not (self.streams or self.queues):
            return ()
        # Not imported for those who read files only: botocore takes its time.
        from processor.shell.aws import Aws
        from processor.shell.kinesis import KinesisFeed
        from processor.shell.sqs import SqsFeed

        aws = Aws(self.endpoint_url)
        poll_seconds = settings.run.poll_seconds

        def open_stream(stream: str) -> "OpenFeed":
            return lambda positions: KinesisFeed(stream, aws, positions, warn, poll_seconds)

        def open_queue(url: str) -> "OpenFeed":
            return lambda positions: SqsFeed(url, aws, positions, warn)

        makers = [*map(open_stream, self.streams), *map(open_queue, self.queues)]
        await asyncio.gather(*(make({}).check() for make in makers))
        return tuple(makers)
