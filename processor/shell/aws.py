"""AWS clients, and what their errors mean to a person.

Region, credentials, profiles and endpoints are found as all AWS tools find them (AWS_REGION, AWS_PROFILE, AWS_ENDPOINT_URL_…);
`--endpoint-url` wins over them.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,  # noqa: A004 - botocore's own, which is no OSError
    CredentialRetrievalError,
    HTTPClientError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ProfileNotFound,
)

from processor.shell.feeds import Backoff, FeedHealth
from processor.shell.files import SourceError

ACTIONS = {
    "s3:ListObjectsV2": "s3:ListBucket",
    "s3:HeadObject": "s3:GetObject",
    "sqs:DeleteMessageBatch": "sqs:DeleteMessage",
    "sqs:ChangeMessageVisibilityBatch": "sqs:ChangeMessageVisibility",
}
"""IAM actions of calls that have another name."""

DENIED = frozenset(("AccessDenied", "AccessDeniedException", "Forbidden", "403", "KMSAccessDeniedException"))
NOT_ACCEPTED = frozenset(
    (
        "UnrecognizedClientException",
        "InvalidClientTokenId",
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "InvalidSignatureException",
        "IncompleteSignature",
        "MissingAuthenticationToken",
        "ExpiredToken",
        "ExpiredTokenException",
        "AuthFailure",
    )
)
MISSING = frozenset(
    (
        "ResourceNotFoundException",
        "NoSuchBucket",
        "AWS.SimpleQueueService.NonExistentQueue",
        "QueueDoesNotExist",
        "404",
    )
)
THROTTLED = frozenset(
    (
        "ProvisionedThroughputExceededException",
        "LimitExceededException",
        "KMSThrottlingException",
        "Throttling",
        "ThrottlingException",
        "RequestThrottled",
        "RequestLimitExceeded",
        "SlowDown",
        "503",
    )
)

CALL_ERRORS = (ClientError, BotoCoreError, aiohttp.ClientError, OSError, asyncio.TimeoutError)
"""What a call may fail with."""

UNREACHED = (ConnectionError, HTTPClientError, aiohttp.ClientError, OSError, asyncio.TimeoutError)
"""What says that a call did not get there, or its answer not back."""


@dataclass(frozen=True, slots=True)
class Target:
    """What is called for a person's eyes: `stream X`, `s3://bucket/`."""

    what: str
    region: str = ""


@dataclass(slots=True)
class Aws:
    """How to reach AWS; one for a whole process."""

    endpoint_url: str | None = None
    session: AioSession = field(default_factory=AioSession)

    def open_client(
        self, service: str, *, region: str | None = None, attempts: int = 4, connections: int = 16
    ) -> AbstractAsyncContextManager[Any]:
        """A client of a service. `attempts` are those of one call; raises BotoCoreError as its construction does."""
        client: AbstractAsyncContextManager[Any] = self.session.create_client(
            service,
            region_name=region,
            endpoint_url=self.endpoint_url,
            config=AioConfig(
                connect_timeout=5,
                read_timeout=30,
                max_pool_connections=connections,
                retries={"mode": "standard", "total_max_attempts": attempts},
            ),
        )
        return client


def find_code(error: BaseException) -> str:
    """AWS' code of an error, or the name of its class."""
    if isinstance(error, ClientError):
        return str(error.response.get("Error", {}).get("Code", "Unknown"))
    return type(error).__name__


def is_passing(error: BaseException) -> bool:
    """Whether a call may succeed when it is made again: throttled, a server's fault, a network that is away."""
    if isinstance(error, ClientError):
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 400))
        return find_code(error) in THROTTLED or status >= 500
    return isinstance(error, UNREACHED)


def explain(error: BaseException, call: str, target: Target) -> str:
    """One line: the call, what it was made on, what is wrong, what to do. `call` is written like `kinesis:GetRecords`."""
    code = find_code(error)
    place = f"{call} on {target.what}" + (f" in {target.region}" if target.region else "")
    action = ACTIONS.get(call, call)
    text = " ".join(str(error).split())
    if isinstance(error, ClientError):
        text = " ".join(str(error.response.get("Error", {}).get("Message", "")).split())
    if isinstance(error, (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError)):
        return f"{place}: no usable AWS credentials ({text}): set AWS_PROFILE or AWS_ACCESS_KEY_ID, or attach a role"
    if isinstance(error, ProfileNotFound):
        return f"{place}: {text}: set AWS_PROFILE to a profile that exists"
    if isinstance(error, NoRegionError):
        return f"{place}: no region: set AWS_REGION, or name it by its ARN"
    if code in NOT_ACCEPTED:
        return f"{place}: AWS does not accept the credentials ({code}: {text}): renew them, or choose others by AWS_PROFILE"
    if code in DENIED:
        kms = " and kms:Decrypt on its key" if "kms" in (text + code).lower() else ""
        return f"{place}: denied ({code}: {text}): allow {action}{kms} to the role that gapwatch runs as"
    if code in MISSING:
        return f"{place}: there is none ({code}: {text}): check its name, region and account"
    if isinstance(error, UNREACHED):
        return f"{place}: cannot reach AWS ({text or code}): check the network, the region and --endpoint-url"
    return f"{place}: {code}: {text}"


def refuse(error: BaseException, call: str, target: Target, warn: Callable[[str], None]) -> None:
    """Raise SourceError for what will not pass by itself; warn of what may."""
    said = explain(error, call, target)
    if not is_passing(error):
        raise SourceError(said) from error
    warn(f"{said}; trying again")


class Calls:
    """The calls of one feed on one service: what fails is counted, said once, and made again."""

    def __init__(self, service: str, target: Target, health: FeedHealth, warn: Callable[[str], None]) -> None:
        self._service = service
        self._target = target
        self._health = health
        self._warn = warn

    async def persist(self, call: str, make: Callable[..., Awaitable[Any]], **arguments: Any) -> Any:
        """Make a call until it succeeds; `call` is AWS' name of it."""
        backoff = Backoff()
        while True:
            try:
                answer = await make(**arguments)
            except CALL_ERRORS as error:
                self.note_failure(call, error)
                await backoff.wait()
                continue
            self.note_success()
            return answer

    def note_success(self) -> None:
        self._health.trouble = ""

    def note_failure(self, call: str, error: BaseException) -> None:
        """Count it, and say so where the one before succeeded: throttling is everyday."""
        code = find_code(error)
        self._health.count_failure(call, code)
        said = explain(error, f"{self._service}:{call}", self._target)
        if not self._health.trouble and code not in THROTTLED:
            self._warn(f"{said}; trying again")
        self._health.trouble = said
