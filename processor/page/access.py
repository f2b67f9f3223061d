"""Who may look: everybody on a loopback address, else whoever knows the token.

A program sends `Authorization: Bearer TOKEN`. A browser cannot, so /login takes the token and gives a cookie: its end and an
HMAC of that by the token, so that nothing is kept and a new token ends all sessions. On a loopback address without a token
the name in `Host` must be one of this machine's: else a foreign page could read this one under a name of its own (DNS
rebinding).
"""

import hashlib
import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from aiohttp import web

from processor.settings import PageSettings
from processor.settings_error import SettingsError

COOKIE = "gapwatch_session"
SESSION_SECONDS = 12 * 3600
TOKEN_CHARS_MIN, TOKEN_CHARS_MAX = 16, 1_024


@dataclass(frozen=True, slots=True)
class Access:
    """`token` None: a loopback address, open to all on this machine who come by one of `hosts`."""

    token: str | None
    hosts: frozenset[str]
    clock: Callable[[], float] = time.time

    def allows(self, request: web.Request) -> bool:
        """Whether a request shows the token, or needs none."""
        if self.token is None:
            return True
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self.is_token(given.strip()):
            return True
        return self._is_session(request.cookies.get(COOKIE, ""))

    def knows_host(self, request: web.Request) -> bool:
        """Whether the request came by a name of this machine; with a token any name will do."""
        return self.token is not None or _name_of(request.host) in self.hosts

    def is_token(self, given: str) -> bool:
        """Compared in constant time, and hashed before, so that not even the length shows."""
        digests = (hashlib.sha256(text.encode(errors="replace")).digest() for text in (given, self.token or ""))
        return self.token is not None and hmac.compare_digest(*digests)

    def open_session(self) -> str:
        """A cookie's value, good for SESSION_SECONDS."""
        end = str(int(self.clock()) + SESSION_SECONDS)
        return f"{end}.{self._sign(end)}"

    def _is_session(self, value: str) -> bool:
        end, _, signed = value.partition(".")
        if not (end.isascii() and end.isdigit()) or len(end) > 12:
            return False
        right = hmac.compare_digest(signed.encode(errors="replace"), self._sign(end).encode())
        return right and int(end) > self.clock()

    def _sign(self, text: str) -> str:
        return hmac.new((self.token or "").encode(), f"page session {text}".encode(), hashlib.sha256).hexdigest()


def is_loopback(host: str) -> bool:
    """Whether an address to listen on is of this machine only; of names, only `localhost` is."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _name_of(host: str) -> str:
    """`Host` without its port."""
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() else host).strip("[]").lower()


def read_access(host: str, settings: PageSettings) -> Access | None:
    """How the page at an address is guarded; None where no page is wanted. Raises SettingsError where it would be open to the
    network, or the token's file is none."""
    if not settings.serve:
        return None
    hosts = frozenset(("localhost", "127.0.0.1", "::1", host.strip("[]").lower()))
    if settings.token_file:
        return Access(read_token(settings.token_file), hosts)
    if not is_loopback(host):
        raise SettingsError(
            f"--host {host}: the page would be open to the network. Give --token-file PATH, a file that holds a token of your "
            "making (/metrics, /healthz and /readyz stay open), or [page] serve = false in --config for metrics only"
        )
    return Access(None, hosts)


def read_token(path: str) -> str:
    """The token of a file, white space around it left out. Raises SettingsError."""
    try:
        token = Path(path).read_text("utf-8").strip()
    except OSError as error:
        raise SettingsError(f"--token-file {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"--token-file {path}: not text") from error
    if not TOKEN_CHARS_MIN <= len(token) <= TOKEN_CHARS_MAX or not (token.isascii() and token.isprintable()):
        raise SettingsError(
            f"--token-file {path}: the token must have {TOKEN_CHARS_MIN} to {TOKEN_CHARS_MAX} printable ASCII characters; "
            "`openssl rand -hex 32` makes one"
        )
    return token
