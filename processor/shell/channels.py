"""Where notices go: an incoming webhook (as Slack takes it) and an SNS topic.

A webhook's address is a secret, whoever has it can post: it comes from a file and is in no error, log or store.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import aiohttp
from botocore.exceptions import BotoCoreError, ClientError
from xxhash import xxh3_128_hexdigest

from processor.core.notices import Notice, write_lines, write_slack, write_subject
from processor.settings import NotifySettings
from processor.settings_error import SettingsError
from processor.shell.ending import within

SEND_SECONDS_MAX = 10.0
MESSAGE_BYTES_MAX = 200_000
"""SNS takes 256 KB with attributes."""


class ChannelError(Exception):
    """A message was not taken; the text says why and holds no secret. `retry_seconds`: when to try again, as far as said."""

    def __init__(self, text: str, retry_seconds: float = 0.0) -> None:
        super().__init__(text)
        self.retry_seconds = retry_seconds


class Channel(Protocol):
    """One way to people."""

    name: str

    async def send(self, notices: Sequence[Notice], page_url: str) -> None:
        """Raises ChannelError."""


class Webhook:
    """An address that takes Slack-shaped JSON by POST."""

    name = "webhook"

    def __init__(self, client: aiohttp.ClientSession, url: str) -> None:
        self._client = client
        self._url = url

    async def send(self, notices: Sequence[Notice], page_url: str) -> None:
        """Any 2xx says that it was taken; it is not followed elsewhere. Raises ChannelError."""
        try:
            async with self._client.post(
                self._url,
                json=write_slack(notices, page_url),
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=SEND_SECONDS_MAX),
            ) as answer:
                if not 200 <= answer.status < 300:
                    asked = answer.headers.get("Retry-After", "")
                    raise ChannelError(f"it answers {answer.status}", float(asked) if asked.isdecimal() else 0.0)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            # An error's own words may hold the address.
            raise ChannelError(f"it cannot be reached ({type(error).__name__})") from None


class Topic:
    """An SNS topic; credentials come from where AWS' SDKs look for them."""

    name = "sns"

    def __init__(self, client: Any, arn: str) -> None:
        self._client = client
        self._arn = arn

    async def send(self, notices: Sequence[Notice], page_url: str) -> None:
        """Raises ChannelError."""
        text = "\n\n".join(write_lines(notices, page_url)).encode()[:MESSAGE_BYTES_MAX].decode(errors="ignore")
        kinds = ",".join(sorted({notice.kind for notice in notices}))
        more: dict[str, Any] = {}
        if self._arn.endswith(".fifo"):
            ids = xxh3_128_hexdigest(" ".join(notice.id for notice in notices).encode())
            more = {"MessageGroupId": "gapwatch", "MessageDeduplicationId": ids}
        try:
            publishing = self._client.publish(
                TopicArn=self._arn,
                Subject=write_subject(notices),
                Message=text,
                MessageAttributes={"kind": {"DataType": "String", "StringValue": kinds}},
                **more,
            )
            await within(SEND_SECONDS_MAX, publishing)
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            raise ChannelError(f"{self._arn} answers {code or 'an error'}") from None
        except (BotoCoreError, TimeoutError, OSError) as error:
            raise ChannelError(f"{self._arn} cannot be reached ({type(error).__name__})") from None


def read_webhook_url(path: str) -> str:
    """The address in a file. Raises SettingsError, without the address."""
    try:
        url = Path(path).read_text("utf-8").strip()
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and url.isprintable() and " " not in url
    except OSError as error:
        raise SettingsError(f"[notify] webhook_url_file {path}: {error.strerror}") from error
    except ValueError as error:
        raise SettingsError(f"[notify] webhook_url_file {path} holds no URL") from error
    if not good:
        raise SettingsError(f"[notify] webhook_url_file {path} holds no http or https URL")
    return url


def read_region(arn: str) -> str:
    """The region of an SNS topic's ARN. Raises SettingsError."""
    parts = arn.split(":")
    if len(parts) != 6 or parts[0] != "arn" or parts[2] != "sns" or not all(parts[3:]):
        raise SettingsError(f"[notify] sns_topic_arn {arn!r} is no ARN of a topic: arn:aws:sns:REGION:ACCOUNT:NAME")
    return parts[3]


def check_channels(settings: NotifySettings) -> None:
    """Raises SettingsError for what could not be opened."""
    if settings.webhook_url_file:
        read_webhook_url(settings.webhook_url_file)
    if settings.sns_topic_arn:
        read_region(settings.sns_topic_arn)


@asynccontextmanager
async def open_channels(settings: NotifySettings) -> AsyncIterator[list[Channel]]:
    """The channels that are set, closed at the end. Raises SettingsError."""
    async with AsyncExitStack() as stack:
        found: list[Channel] = []
        if settings.webhook_url_file:
            client = await stack.enter_async_context(aiohttp.ClientSession())
            found.append(Webhook(client, read_webhook_url(settings.webhook_url_file)))
        if settings.sns_topic_arn:
            from aiobotocore.session import get_session  # Takes a third of a second: only who asks for it waits.

            region = read_region(settings.sns_topic_arn)
            sns = await stack.enter_async_context(get_session().create_client("sns", region_name=region))
            found.append(Topic(sns, settings.sns_topic_arn))
        yield found
