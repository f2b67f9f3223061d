"""What somebody has answered for: exemptions from alerts, with an end, and the break-glass roles.

[break_glass]
principals = ["arn:aws:iam::*:role/break-glass"]   # never alerted on as unused, always alerted on when used

[exemptions.quarterly-restore]                     # the name stands in the alert when the exemption has expired
principal = "arn:aws:iam::444455556666:role/restore-*"   # an ARN; `*` and `?` stand for anything
action = "iam:*"                                   # likewise; upper and lower case are the same
alerts = ["unused"]                                # and "first_use"; unused alone by default
owner = "platform@example.com"
reason = "Restores are rehearsed once a quarter."
expires = 2026-12-31                               # the last day, UTC; or a time with its offset
"""

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from fnmatch import translate
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from processor.core.catalogue import Catalogue, mask_of_ids
from processor.core.gap import FOREVER
from processor.core.records import DAY_SECONDS

EXEMPTIONS_MAX = 1_000
PATTERN_CHARS_MAX = 2_048

Pattern = Annotated[str, Meta(min_length=1, max_length=PATTERN_CHARS_MAX)]
Said = Annotated[str, Meta(min_length=1, max_length=1_024)]
Alerts = Literal["unused", "first_use"]


class ExemptionsError(ValueError):
    """A file of exemptions that cannot be used; the text says which, where and what to do."""


class _Written(Struct, forbid_unknown_fields=True):
    """An exemption as it stands in the file."""

    principal: Pattern
    action: Pattern
    owner: Said
    reason: Said
    expires: Any  # A date or a time, as TOML has both; msgspec takes no union of them.
    alerts: Annotated[tuple[Alerts, ...], Meta(min_length=1)] = ("unused",)


class _BreakGlass(Struct, frozen=True, forbid_unknown_fields=True):
    principals: Annotated[tuple[Pattern, ...], Meta(max_length=EXEMPTIONS_MAX)] = ()


class _File(Struct, forbid_unknown_fields=True):
    break_glass: _BreakGlass = _BreakGlass()
    exemptions: Annotated[
        dict[Annotated[str, Meta(min_length=1, max_length=128)], Any], Meta(max_length=EXEMPTIONS_MAX)
    ] = {}


@dataclass(frozen=True, slots=True)
class Exemption:
    """Quiets `alerts` about actions of principals, both by pattern, until `expires` (seconds since 1970)."""

    name: str
    principal: str
    action: str
    owner: str
    reason: str
    expires: int
    alerts: tuple[Alerts, ...] = ("unused",)


@dataclass(slots=True, eq=False)
class Exemptions:
    """All of a file. The masks and matches that were found are kept, so that one is for one catalogue."""

    listed: Sequence[Exemption] = ()
    break_glass: Sequence[str] = ()
    _matches: dict[str, tuple[Exemption, ...]] = field(default_factory=dict)
    _masks: dict[str, int] = field(default_factory=dict)
    _glass: dict[str, bool] = field(default_factory=dict)

    def says_the_same(self, other: "Exemptions") -> bool:
        return (self.listed, self.break_glass) == (other.listed, other.break_glass)

    def is_break_glass(self, arn: str) -> bool:
        """Whether a principal is one for emergencies."""
        if not self.break_glass:
            return False
        found = self._glass.get(arn)
        if found is None:
            found = self._glass[arn] = any(re.match(translate(pattern), arn) for pattern in self.break_glass)
        return found

    def exempt_mask(self, catalogue: Catalogue, arn: str, alerts: Alerts, at: int) -> int:
        """The actions of a principal that such alerts are not to tell of at a time."""
        if alerts == "unused" and self.is_break_glass(arn):
            return catalogue.all_mask
        mask = 0
        for exemption in self._find(arn):
            if exemption.expires > at and alerts in exemption.alerts:
                mask |= self._expand(catalogue, exemption.action)
        return mask

    def next_expiry(self, after: int) -> int:
        """The earliest time after `after` at which an exemption ends."""
        return min((each.expires for each in self.listed if each.expires > after), default=FOREVER)

    def _find(self, arn: str) -> tuple[Exemption, ...]:
        if not self.listed:
            return ()
        found = self._matches.get(arn)
        if found is None:
            found = self._matches[arn] = tuple(
                each for each in self.listed if re.match(translate(each.principal), arn) is not None
            )
        return found

    def _expand(self, catalogue: Catalogue, pattern: str) -> int:
        found = self._masks.get(pattern)
        if found is None:
            matches = re.compile(translate(pattern.lower())).match
            found = mask_of_ids(number for name, number in catalogue.lower.items() if matches(name))
            self._masks[pattern] = found
        return found


def read_exemptions(text: str, where: str) -> Exemptions:
    """The exemptions of a TOML document. Raises ExemptionsError; `where` names the document in its text."""
    try:
        found = msgspec.convert(tomllib.loads(text), _File)
    except tomllib.TOMLDecodeError as error:
        raise ExemptionsError(f"{where} is no TOML: {error}") from error
    except msgspec.ValidationError as error:
        raise ExemptionsError(f"{where}: {error}; it holds [break_glass] and [exemptions.NAME]") from error
    listed = tuple(_read_exemption(name, each, where) for name, each in found.exemptions.items())
    return Exemptions(listed, found.break_glass.principals)


def _read_exemption(name: str, found: object, where: str) -> Exemption:
    try:
        each = msgspec.convert(found, _Written)
    except msgspec.ValidationError as error:
        raise ExemptionsError(
            f"{where}: exemptions.{name}: {error}; it needs principal, action, owner, reason and expires"
        ) from error
    return Exemption(
        name, each.principal, each.action, each.owner, each.reason, _end_of(name, each.expires, where), each.alerts
    )


def _end_of(name: str, expires: object, where: str) -> int:
    """A day ends with its last second; a time says which it is only with its offset."""
    if isinstance(expires, datetime) and expires.tzinfo is not None:
        return int((expires - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds())
    if isinstance(expires, date) and not isinstance(expires, datetime):
        return (expires - date(1970, 1, 1)).days * DAY_SECONDS + DAY_SECONDS
    raise ExemptionsError(
        f"{where}: exemptions.{name}.expires is {expires}: write a day, 2026-12-31, or a time with its offset, "
        "2026-12-31T18:00:00Z, without quotes"
    )
