"""The options that say what a long-running process reads from AWS, and the feeds that they stand for."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from processor.settings import Settings
    from processor.shell.feeds import OpenFeed

Command = TypeVar("Command", bound=Callable[..., Any])


def choose_endpoint(command: Command) -> Command:
    """Where AWS is, for emulators and private endpoints."""
    return click.option(
        "--endpoint-url", envvar="GAPWATCH_ENDPOINT_URL", metavar="URL",
        help="Where AWS answers. Default: as AWS_ENDPOINT_URL and the region say.",
    )(command)  # fmt: skip


def choose_sources(command: Command) -> Command:
    """The sources of `run` and `intake`: of streams, queues and buckets several intakes can each read a part."""
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
            click.option(
                "--reconcile", "buckets", multiple=True, metavar="s3://BUCKET/PREFIX",
                help="Log files of the same trails, compared with the streams: what these missed is found and counted.",
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
    buckets: tuple[str, ...] = ()
    endpoint_url: str | None = None

    def check_given(self) -> None:
        """Raises click.UsageError where there is nothing to read, or something twice."""
        if not (self.paths or self.streams or self.queues):
            raise click.UsageError("what is to be read? Give --source PATH, --kinesis STREAM or --sqs QUEUE_URL")
        if self.buckets and not (self.streams or self.queues):
            raise click.UsageError("--reconcile compares with a stream: give --kinesis or --sqs, too")
        for option, named in (("--kinesis", self.streams), ("--sqs", self.queues), ("--reconcile", self.buckets)):
            twice = [name for name in named if named.count(name) > 1]
            if twice:
                raise click.UsageError(f"{option} {twice[0]} is given twice")

    async def open(self, settings: "Settings", warn: Callable[[str], None]) -> "tuple[OpenFeed, ...]":
        """What opens the feeds on AWS, each looked at once. Raises SourceError as Feed.check does."""
        if not (self.streams or self.queues):
            return ()
        # Not imported for those who read files only: botocore takes its time.
        from processor.shell.aws import Aws
        from processor.shell.feeds import ALONE, Feed, Positions, Sharing
        from processor.shell.kinesis import KinesisFeed
        from processor.shell.reconcile import ReconcileFeed
        from processor.shell.sqs import SqsFeed

        aws = Aws(self.endpoint_url)
        # Those that read, at the time: they are opened anew when a store is lost.
        streams: dict[str, Feed] = {}

        def open_stream(stream: str, positions: Positions, sharing: Sharing = ALONE) -> Feed:
            streams[stream] = KinesisFeed(stream, aws, positions, warn, settings.run.poll_seconds, sharing)
            return streams[stream]

        def open_queue(url: str, positions: Positions, sharing: Sharing = ALONE) -> Feed:
            streams[url] = SqsFeed(url, aws, positions, warn, sharing)
            return streams[url]

        def open_bucket(url: str, positions: Positions, sharing: Sharing = ALONE) -> Feed:
            return ReconcileFeed(url, aws, positions, warn, streams.values, sharing)

        openers = ((open_stream, self.streams), (open_queue, self.queues), (open_bucket, self.buckets))
        makers: list[OpenFeed] = [partial(open_feed, name) for open_feed, names in openers for name in names]
        await asyncio.gather(*(make({}).check() for make in makers))
        return tuple(makers)
