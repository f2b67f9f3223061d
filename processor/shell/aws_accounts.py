"""AWS accounts and the calls into them: our own by the credentials that the environment gives (AWS' own variables, files and
instance roles; AWS_ENDPOINT_URL for an endpoint), every other one by a role that is assumed there.

Every failure is one AwsError, whose text says which call failed in which account, why, and what to do.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession, get_session
from botocore import xform_name
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    NoAuthTokenError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
    TokenRetrievalError,
)
from botocore.exceptions import ConnectionError as AwsConnectionError
from botocore.parsers import ResponseParserError

from processor.core.records import AUTHENTICATION_ERRORS, AUTHORIZATION_ERRORS
from processor.shell.aws_errors import AwsError

Json = dict[str, Any]

REGION_WITHOUT_ANY = "us-east-1"
"""IAM and Organizations live there; STS, too, has an endpoint there."""

ROLE_SECONDS = 3_600
"""Roles that are assumed from a role can be held for no longer (IAM User Guide, role chaining)."""

RENEW_BEFORE_SECONDS = 600
CALLS_PER_SECOND = 10.0
CALLS_AT_ONCE = 20
"""IAM's and Organizations' limits are per account and not published; throttled calls are tried again, ever more slowly."""

_NO_CREDENTIALS = (
    NoCredentialsError,
    PartialCredentialsError,
    CredentialRetrievalError,
    ProfileNotFound,
    SSOError,
    TokenRetrievalError,
    NoAuthTokenError,
)
_THROTTLED = frozenset(("Throttling", "ThrottlingException", "TooManyRequestsException", "RequestLimitExceeded"))
_MISSING = frozenset(("NoSuchEntity", "AWSOrganizationsNotInUseException"))


def explain_error(error: Exception, call: str, account_id: str, endpoint: str = "") -> AwsError:
    """The AwsError of what botocore raised."""
    where = f"{call} in account {account_id}" if account_id else call
    if isinstance(error, ClientError):
        code = str(error.response.get("Error", {}).get("Code", ""))
        said = str(error.response.get("Error", {}).get("Message", "")).strip().replace("\n", " ")
        last = code.rpartition(".")[2]
        if last in AUTHORIZATION_ERRORS:
            return AwsError("denied", call, account_id, f"{where} is denied: allow {call} ({code}: {said:.300})")
        if last in AUTHENTICATION_ERRORS or last == "InvalidToken":
            return AwsError(
                "credentials", call, account_id, f"{where}: AWS refuses the credentials ({code}: {said:.300})"
            )
        if last in _THROTTLED:
            return AwsError("throttled", call, account_id, f"{where} is throttled, also after several tries ({code})")
        kind = "missing" if last in _MISSING else "failed"
        return AwsError(kind, call, account_id, f"{where} failed: {code}: {said:.300}")
    if isinstance(error, _NO_CREDENTIALS):
        return AwsError(
            "credentials", call, account_id,
            f"{where}: no usable AWS credentials ({error}): give them by AWS' environment variables, AWS_PROFILE or a role",
        )  # fmt: skip
    if isinstance(error, HTTPClientError | AwsConnectionError | OSError):
        named = f" at {endpoint}" if endpoint and endpoint not in str(error) else ""
        return AwsError("unreachable", call, account_id, f"{where}: AWS{named} cannot be reached: {error}")
    if isinstance(error, ResponseParserError):
        return AwsError(
            "failed", call, account_id, f"{where}: {endpoint or 'the endpoint'} does not answer as AWS does"
        )
    return AwsError("failed", call, account_id, f"{where} failed: {error}")


class Pacer:
    """Lets at most so many calls through a second, some at once."""

    def __init__(self, per_second: float = CALLS_PER_SECOND, at_once: int = CALLS_AT_ONCE) -> None:
        self._step = 1 / per_second
        self._room = at_once * self._step
        self._next = 0.0

    async def wait(self) -> None:
        """Wait for the next call's turn."""
        now = time.monotonic()
        self._next = max(self._next, now - self._room) + self._step
        if self._next > now:
            await asyncio.sleep(self._next - now)


class AwsClient:
    """One service of one account. Operations bear the names of AWS' API reference."""

    def __init__(self, client: Any, service: str, account_id: str, pacer: Pacer) -> None:
        self.account_id = account_id
        self._client = client
        self._service = service
        self._pacer = pacer

    async def call(self, operation: str, **parameters: Any) -> Json:
        """The answer to one call. Raises AwsError."""
        await self._pacer.wait()
        try:
            answer: Json = await getattr(self._client, xform_name(operation))(**parameters)
        except (BotoCoreError, ClientError, ResponseParserError, OSError) as error:
            endpoint = str(self._client.meta.endpoint_url)
            raise explain_error(error, f"{self._service}:{operation}", self.account_id, endpoint) from error
        return answer

    async def pages(self, operation: str, next_by: str = "NextToken", **parameters: Any) -> AsyncIterator[Json]:
        """All pages of an operation; `next_by` is the member that stands for the next page."""
        more: Json = {}
        while True:
            page = await self.call(operation, **parameters, **more)
            yield page
            if not page.get(next_by):
                return
            more = {next_by: page[next_by]}

    async def gather(self, operation: str, key: str, next_by: str = "NextToken", **parameters: Any) -> list[Any]:
        """The elements of `key` of all pages."""
        return [each async for page in self.pages(operation, next_by, **parameters) for each in page.get(key) or ()]


@dataclass(frozen=True, slots=True)
class RolePlan:
    """The role to assume in other accounts: a name, or an ARN in which {account} stands for the account."""

    role: str = "gapwatch"
    external_id: str | None = None

    def find_arn(self, account_id: str, partition: str) -> str:
        """The role's ARN in an account."""
        if self.role.startswith("arn:"):
            return self.role.replace("{account}", account_id)
        return f"arn:{partition}:iam::{account_id}:role/{self.role}"


@dataclass(slots=True)
class _Keys:
    """Credentials of an assumed role, and until when they hold by this process' clock."""

    given: Mapping[str, str]
    until: float


@dataclass(slots=True)
class Accounts:
    """Opens clients in any account. Bound to one event loop."""

    plan: RolePlan
    session: AioSession = field(default_factory=get_session)
    own_account: str = ""
    own_arn: str = ""
    _keys: dict[str, _Keys] = field(default_factory=dict)
    _pacers: dict[tuple[str, str], Pacer] = field(default_factory=dict)

    async def find_own(self) -> str:
        """Our own account. Raises AwsError where the credentials are none, or AWS cannot be reached."""
        async with self._open("sts", "", None, {}) as client:
            answer = await client.call("GetCallerIdentity")
        self.own_account, self.own_arn = str(answer["Account"]), str(answer["Arn"])
        return self.own_account

    @asynccontextmanager
    async def open(self, service: str, account_id: str, region: str | None = None) -> AsyncIterator[AwsClient]:
        """A client for a service of an account. Raises AwsError where its role cannot be assumed."""
        keys = {} if account_id == self.own_account else await self._assume(account_id)
        async with self._open(service, account_id, region, keys) as client:
            yield client

    @asynccontextmanager
    async def _open(
        self, service: str, account_id: str, region: str | None, keys: Mapping[str, str]
    ) -> AsyncIterator[AwsClient]:
        pacer = self._pacers.setdefault((service, account_id), Pacer())
        async with AsyncExitStack() as stack:
            try:
                region = region or self.session.get_config_variable("region") or REGION_WITHOUT_ANY
                client = await stack.enter_async_context(
                    self.session.create_client(service, region_name=region, config=_CONFIG, **keys)
                )
            except (BotoCoreError, ClientError, OSError, ValueError) as error:
                raise explain_error(error, service, account_id) from error
            yield AwsClient(client, service, account_id, pacer)

    async def _assume(self, account_id: str) -> Mapping[str, str]:
        known = self._keys.get(account_id)
        if known is not None and known.until > time.monotonic():
            return known.given
        arn = self.plan.find_arn(account_id, self.own_arn.split(":")[1] if self.own_arn else "aws")
        more = {"ExternalId": self.plan.external_id} if self.plan.external_id else {}
        try:
            async with self._open("sts", "", None, {}) as client:
                answer = await client.call(
                    "AssumeRole", RoleArn=arn, RoleSessionName="gapwatch", DurationSeconds=ROLE_SECONDS, **more
                )
        except AwsError as error:
            text = f"cannot assume {arn}: {error}"
            if error.kind == "denied":
                text += f"; its trust policy must name {self.own_arn}"
            raise AwsError(error.kind, error.call, account_id, text) from error
        found = answer["Credentials"]
        given = {
            "aws_access_key_id": str(found["AccessKeyId"]),
            "aws_secret_access_key": str(found["SecretAccessKey"]),
            "aws_session_token": str(found["SessionToken"]),
        }
        self._keys[account_id] = _Keys(given, time.monotonic() + ROLE_SECONDS - RENEW_BEFORE_SECONDS)
        return given


_CONFIG = AioConfig(
    connect_timeout=5,
    read_timeout=60,
    retries={"mode": "standard", "total_max_attempts": 4},
    user_agent_extra="gapwatch",
)
