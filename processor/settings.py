"""What a run is told: one frozen object, from a TOML file, the environment and the command line, validated once.

The command line wins over the environment (GAPWATCH_…), which wins over the file. Every key of the file:

    windows = [7, 30, 90]            # sliding windows, in days, 1 to 400
    only = ["111122223333"]          # accounts, ARNs or names to look at (`*` and `?`); none: all
    skip = ["arn:aws:iam::*:role/ci-*"]
    service_linked_roles = false     # look at roles below /aws-service-role/ too

    [logging."*"]                    # what the trails of every account log, "*", or of one, by its id
    data_events = ["s3", "lambda"]   # services whose data events are logged; ["*"]: all; none by default
    read_only = true                 # whether Get, List and Describe calls reach gapwatch (EventBridge: only from a rule
                                     # in state ENABLED_WITH_ALL_CLOUDTRAIL_MANAGEMENT_EVENTS)
    [run]
    host = "127.0.0.1"               # where /metrics, /healthz and /readyz listen
    port = 9464
    flush_seconds = 0.25             # how long what was read may wait for the store, 0.05 to 1
    poll_seconds = 0.5               # how often files are looked at, 0.05 to 60
    horizon_hours = 2                # how far back a duplicate is recognised, in hours of event time, 1 to 9600
    reject_ratio_max = 0.1           # above this share of the last 10,000 records the process stops

    [page]
    serve = true                     # whether the page and /api are served beside /metrics
    token_file = "/run/secrets/page" # a file with the bearer token that page and /api then ask for; needed where host is not a
                                     # loopback address. /metrics, /healthz and /readyz never ask for it
    [notify]                         # messages to people who have no Alertmanager, none without one of the first two: by `run`, and
                                     # in Kafka mode by `gapwatch notify`, which takes learning_days from [alerts] of the ledgers
    webhook_url_file = "/run/secrets/webhook"  # a file with the address of an incoming webhook (Slack's and its like)
    sns_topic_arn = "arn:aws:sns:REGION:ACCOUNT:NAME"
    every_seconds = 60               # at most one message in so many seconds and channel: what comes faster is put together
    learning_days = 7                # first uses of a younger principal, or of a log known for less, are told only where they are
                                     # privilege escalation or defense evasion
    digest = false                   # once a day (UTC): how many principals hold unused risky grants, and the worst
    behind_seconds = 900             # tell when verdicts stay behind the clock for longer, and when that is over; 0: do not tell
    silent_seconds = 0               # tell when no event has come for so long; 0: do not tell
    page_url = ""                    # where people reach the page, for links: https://gapwatch.example
    [alerts]
    exemptions = "exemptions.toml"   # who has answered for what, and the break-glass principals: core/exemptions.py
    learning_days = 7                # how long first uses are quiet: all in a new log, all but the gravest of a new principal
    alertmanager = "http://127.0.0.1:9093"   # push first uses there, besides the rules; none by default
    page_url = "https://gapwatch.example.com"       # what links in pushed alerts begin with, as external_labels do in
    dashboards_url = "https://grafana.example.com"  # deploy/prometheus/prometheus.yml
    runbooks_url = "https://example.com/runbooks"
    [alerts.labels]                  # labels that Prometheus adds to what it sends (its external_labels): the same here
    cluster = "eu"
"""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from processor.core.gap import Logging, Window
from processor.core.sessions import Scope
from processor.core.watch import LEARNING_DAYS
from processor.settings_error import SettingsError

DAYS_MAX = 400
Days = Annotated[int, Meta(ge=1, le=DAYS_MAX)]


class BindError(SettingsError):
    """The address cannot be listened on; the text says which and why."""


class LoggingSettings(Struct, frozen=True, forbid_unknown_fields=True):
    data_events: tuple[str, ...] = ()
    read_only: bool = True


class RunSettings(Struct, frozen=True, forbid_unknown_fields=True):
    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 9464
    flush_seconds: Annotated[float, Meta(ge=0.05, le=1)] = 0.25
    poll_seconds: Annotated[float, Meta(ge=0.05, le=60)] = 0.5
    horizon_hours: Annotated[int, Meta(ge=1, le=24 * DAYS_MAX)] = 2
    reject_ratio_max: Annotated[float, Meta(gt=0, le=1)] = 0.1


class PageSettings(Struct, frozen=True, forbid_unknown_fields=True):
    serve: bool = True
    token_file: str = ""


class NotifySettings(Struct, frozen=True, forbid_unknown_fields=True):
    """No secret is in here: a store keeps the settings."""

    webhook_url_file: str = ""
    sns_topic_arn: str = ""
    every_seconds: Annotated[float, Meta(ge=1, le=86_400)] = 60
    learning_days: Annotated[int, Meta(ge=0, le=DAYS_MAX)] = 7
    digest: bool = False
    behind_seconds: Annotated[float, Meta(ge=0, le=86_400)] = 900
    silent_seconds: Annotated[float, Meta(ge=0, le=30 * 86_400)] = 0
    page_url: Annotated[str, Meta(pattern=r"^(https?://[^\s<>|]+)?$")] = ""


class AlertsSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """What is told of, to whom, and with which links; see the module's text."""

    exemptions: str = ""
    learning_days: Annotated[int, Meta(ge=0, le=90)] = LEARNING_DAYS
    alertmanager: Annotated[str, Meta(pattern=r"^($|https?://)")] = ""
    page_url: str = ""
    dashboards_url: str = ""
    runbooks_url: str = ""
    labels: dict[str, str] = {}


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """See the module's text for each key."""

    windows: Annotated[tuple[Days, ...], Meta(min_length=1, max_length=8)] = (7, 30, 90)
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    service_linked_roles: bool = False
    logging: dict[str, LoggingSettings] = {}
    run: RunSettings = RunSettings()
    page: PageSettings = PageSettings()
    notify: NotifySettings = NotifySettings()
    alerts: AlertsSettings = AlertsSettings()

    @property
    def gap_windows(self) -> tuple[Window, ...]:
        return tuple(Window(days) for days in sorted(set(self.windows)))

    @property
    def scope(self) -> Scope:
        return Scope(self.only, self.skip, self.service_linked_roles)

    @property
    def logging_by_account(self) -> dict[str, Logging]:
        return {
            account: Logging(frozenset(found.data_events), found.read_only) for account, found in self.logging.items()
        }


def read_settings(path: str | None, overlay: Mapping[str, Any]) -> Settings:
    """The settings of a file (or none) with `overlay`'s keys laid over it; an empty value in it lays over nothing."""
    path = path or os.environ.get("GAPWATCH_CONFIG")
    found: dict[str, Any] = {}
    if path:
        try:
            found = tomllib.loads(Path(path).read_text("utf-8"))
        except OSError as error:
            raise SettingsError(f"--config {path}: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SettingsError(f"--config {path} is no TOML: {error}") from error
    for key, value in overlay.items():
        if isinstance(value, Mapping):
            found[key] = {**found.get(key, {}), **{name: each for name, each in value.items() if each is not None}}
        elif value not in (None, (), False):
            found[key] = list(value) if isinstance(value, tuple) else value
    try:
        return msgspec.convert(found, Settings)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{f'--config {path}' if path else 'settings'}: {error}") from error


def dump_settings(settings: Settings) -> bytes:
    """What a store keeps, so that `report` and `explain` see what the writer saw. Where alerts go is not of it: an
    address may hold a password."""
    return msgspec.json.encode(msgspec.structs.replace(settings, alerts=AlertsSettings()))


def load_settings(stored: bytes | str) -> Settings:
    return msgspec.json.decode(stored, type=Settings, strict=False)
