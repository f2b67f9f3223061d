"""Kafka brokers: where they are, how to reach them securely, and what went wrong in one line when they cannot be.

One frozen `BrokerSettings` serves every client: the admin client of `gapwatch topics`, an intake's producer, a ledger's consumer.
Secrets come from the environment or from files only: a command line is seen by every user of the machine. aiokafka is
imported where it is used, so that commands without Kafka do not pay for it.
"""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from processor.settings_error import SettingsError

if TYPE_CHECKING:
    from aiokafka.admin import AIOKafkaAdminClient

SECURITIES = ("plaintext", "ssl", "sasl_plaintext", "sasl_ssl")
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")

PASSWORD_VARIABLE = "GAPWATCH_KAFKA_PASSWORD"  # noqa: S105 - a variable's name, no password
KEY_PASSWORD_VARIABLE = "GAPWATCH_KAFKA_KEY_PASSWORD"  # noqa: S105

SECRET_BYTES_MAX = 4_096
REQUEST_SECONDS_MAX = 10.0
"""Of one request of an admin client: a person waits for it."""


CLOSING_SECONDS_MAX = 1.0
CLOSING_STEP_SECONDS = 0.01

_open_tls: "WeakSet[_WatchedTls]" = WeakSet()


class BrokerError(Exception):
    """The brokers cannot be used; the text says which, why and what to do."""


class StalledError(Exception):
    """What Kafka was asked for is neither done nor refused: a new process goes on from what is stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerSettings:
    """Where the brokers are and how to reach them. Raises SettingsError for what contradicts itself.

    `hosts` are HOST:PORT of some brokers; the others are learnt from them. `ca` is a PEM file (None: the system's);
    `certificate` and `key` are the client's own, PEM, for mutual TLS.
    """

    hosts: tuple[str, ...]
    security: str = "plaintext"
    mechanism: str = "SCRAM-SHA-512"
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    key_password: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not self.hosts:
            raise SettingsError("--brokers: which? Give HOST:PORT of one broker or more, with commas between them")
        for host in self.hosts:
            _check_host(host)
        if self.security not in SECURITIES:
            raise SettingsError(f"--security {self.security}: it is one of {', '.join(SECURITIES)}")
        if self.mechanism not in MECHANISMS:
            raise SettingsError(f"--mechanism {self.mechanism}: it is one of {', '.join(MECHANISMS)}")
        self._check_sasl()
        self._check_tls()

    def _check_sasl(self) -> None:
        sasl = self.security.startswith("sasl")
        if sasl and not self.user:
            raise SettingsError(f"--security {self.security} needs a --user")
        if sasl and not self.password:
            raise SettingsError(
                f"--security {self.security} needs the user's password, in {PASSWORD_VARIABLE} or a --password-file"
            )
        if self.user and not sasl:
            raise SettingsError(f"--user is of no use with --security {self.security}: say sasl_ssl or sasl_plaintext")

    def _check_tls(self) -> None:
        if self.certificate and not self.key:
            raise SettingsError("--certificate needs its --key")
        if self.key and not self.certificate:
            raise SettingsError("--key needs its --certificate")
        if (self.ca or self.certificate) and not self.security.endswith("ssl"):
            raise SettingsError(
                f"--ca and --certificate are of no use with --security {self.security}: say ssl or sasl_ssl"
            )

    @property
    def where(self) -> str:
        return ",".join(self.hosts)


def _check_host(text: str) -> None:
    """Raise SettingsError unless it is HOST:PORT, a name, an IPv4 address or an IPv6 address in brackets."""
    host, colon, port = text.rpartition(":")
    bare = host.startswith("[") and host.endswith("]")
    if not colon or not host or not (port.isascii() and port.isdigit() and 0 < int(port) < 65_536):
        raise SettingsError(f"--brokers {text}: it is HOST:PORT, such as kafka-1.example.com:9092")
    if "/" in host or "@" in host or (":" in host and not bare) or any(each.isspace() for each in text):
        raise SettingsError(f"--brokers {text}: it is HOST:PORT with no scheme, and an IPv6 address in [brackets]")


def split_hosts(text: str) -> tuple[str, ...]:
    """The elements of `HOST:PORT[,HOST:PORT...]`."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def read_secret(variable: str, path: Path | None, option: str, environment: Mapping[str, str]) -> str | None:
    """A secret from a variable of the environment or a file whose last line end is cut off. Raises SettingsError."""
    found = environment.get(variable) or None
    if path is None:
        return found
    if found is not None:
        raise SettingsError(f"{variable} and {option} exclude each other: a secret is in one place")
    try:
        with path.open("rb") as file:
            raw = file.read(SECRET_BYTES_MAX + 1)
        secret = raw.decode().removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise SettingsError(f"{option} {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{option} {path}: it is no text") from error
    if not secret or len(raw) > SECRET_BYTES_MAX:
        raise SettingsError(f"{option} {path}: it is empty, or too long for a secret")
    return secret


def connection_options(settings: BrokerSettings) -> dict[str, Any]:
    """The keyword arguments that every aiokafka client takes to connect. Raises SettingsError for unusable certificates."""
    options: dict[str, Any] = {
        "bootstrap_servers": list(settings.hosts),
        "client_id": "gapwatch",
        "security_protocol": settings.security.upper(),
    }
    if settings.security.endswith("ssl"):
        options["ssl_context"] = build_ssl_context(settings)
    if settings.security.startswith("sasl"):
        options["sasl_mechanism"] = settings.mechanism
        options["sasl_plain_username"] = settings.user
        options["sasl_plain_password"] = settings.password
    return options


def build_ssl_context(settings: BrokerSettings) -> ssl.SSLContext:
    """A context that checks the brokers' certificates and names. Raises SettingsError, naming the file."""
    option, path = "--ca", settings.ca
    try:
        context = ssl.create_default_context(cafile=settings.ca)
        if settings.certificate is not None:
            option, path = "--certificate", settings.certificate
            # An empty password is a wrong one; none at all would have OpenSSL ask on the terminal.
            context.load_cert_chain(settings.certificate, settings.key, settings.key_password or "")
    except ssl.SSLError as error:
        hint = f"; is its key encrypted, and {KEY_PASSWORD_VARIABLE} right?" if option == "--certificate" else ""
        raise SettingsError(f"{option} {path}: no usable PEM file ({error.reason or error}){hint}") from error
    except OSError as error:
        raise SettingsError(f"{option} {path}: {error.strerror}") from error
    context.sslobject_class = _WatchedTls
    return context


class _WatchedTls(ssl.SSLObject):
    """A TLS session that is in `_open_tls` from its handshake until either side has said that it ends."""

    def do_handshake(self) -> None:
        _open_tls.add(self)
        with self._ending():
            super().do_handshake()

    def unwrap(self) -> None:
        with self._ending():
            super().unwrap()
        _open_tls.discard(self)

    @contextmanager
    def _ending(self) -> Iterator[None]:
        """What fails, other than for want of bytes, ends the session."""
        try:
            yield
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError:
            _open_tls.discard(self)
            raise


async def wait_until_closed(context: ssl.SSLContext | None) -> None:
    """Wait, a second at most, for the TLS sessions under `context` to end.

    aiokafka closes connections without waiting for them, and one with TLS asks its peer first: a loop that ends at once
    leaves it half closed.
    """
    deadline = monotonic() + CLOSING_SECONDS_MAX
    while any(each.context is context for each in _open_tls) and monotonic() < deadline:  # noqa: ASYNC110 - nobody tells of it
        await asyncio.sleep(CLOSING_STEP_SECONDS)
    await asyncio.sleep(CLOSING_STEP_SECONDS)  # Who is told of an end closes the socket in the loop's next turns.


class _LastWords(logging.Handler):
    """Keeps what aiokafka said last, which is where it says why: its exceptions tell only that."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        text = " ".join(record.getMessage().split())
        if "in the clear" not in text:  # A warning of its own, about sasl_plaintext; no reason why anything failed.
            self.text = text


@contextmanager
def hear_aiokafka() -> Iterator[_LastWords]:
    """Listen to aiokafka's warnings. A program that configures no logging then prints none of them either."""
    logger = logging.getLogger("aiokafka")
    heard = _LastWords()
    logger.addHandler(heard)
    try:
        yield heard
    finally:
        logger.removeHandler(heard)


@asynccontextmanager
async def connect_admin(settings: BrokerSettings) -> "AsyncIterator[AIOKafkaAdminClient]":
    """An admin client, connected. Raises BrokerError, then and for whatever Kafka refuses within."""
    from aiokafka.admin import AIOKafkaAdminClient
    from aiokafka.errors import KafkaConnectionError, KafkaError

    options = connection_options(settings)
    with hear_aiokafka() as heard:
        admin = AIOKafkaAdminClient(request_timeout_ms=int(REQUEST_SECONDS_MAX * 1_000), **options)
        try:
            await admin.start()
            heard.text = ""  # One of several brokers may have been away.
            yield admin
        except (KafkaConnectionError, OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            raise BrokerError(say_unreachable(settings, heard.text or str(error) or type(error).__name__)) from error
        except KafkaError as error:
            raise BrokerError(f"Kafka at {settings.where} refuses: {error}") from error
        finally:
            await admin.close()
            await wait_until_closed(options.get("ssl_context"))


ADVICE = (
    (("sasl", "authentication"), "are --user, the password and --mechanism {mechanism} right?"),
    (("certificate",), "is its certificate for this name, and signed by what --ca holds?"),
    (
        ("no answer", "closed", "wrong_version", "wrong version"),
        "is it a Kafka broker, and --security {security} what it speaks on that port?",
    ),
    (("",), "is it running there, and reachable from here under the address that it advertises?"),
)
"""Words in a reason -> what to look at; the first that fits."""


def say_unreachable(settings: BrokerSettings, reason: str) -> str:
    """One line: where, why, and what to look at."""
    if reason.endswith(":"):  # aiokafka puts a TimeoutError there, whose text is empty.
        reason += " no answer"
    advice = next(text for words, text in ADVICE if any(word in reason.lower() for word in words))
    looked_at = advice.format(mechanism=settings.mechanism, security=settings.security)
    return f"Kafka at {settings.where} cannot be used: {reason}; {looked_at}"
