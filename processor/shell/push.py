"""First uses pushed to Alertmanager as they are met, beside the rule that finds them at the next scrape.

An alert carries the labels of the rule GapwatchPrivilegedFirstUse, so that the two are one to Alertmanager and are told once. It
ends NEWS_SECONDS after it became news; until then it is posted again every minute, because Alertmanager forgets all at a restart.
Nothing waits for Alertmanager: what cannot be sent is tried again with the next post, and the rule tells it meanwhile.
"""

import asyncio
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from time import time
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp

from processor.core.first_uses import NEWS_SECONDS, FirstUse
from processor.core.privileged import is_told
from processor.settings import AlertsSettings
from processor.shell.ending import end_tasks, rest_until

AGAIN_SECONDS = 60.0
POST_SECONDS_MAX = 5.0
RETRY_SECONDS_MAX = 30.0

ALERT = "GapwatchPrivilegedFirstUse"
LABELS = {"alertname": ALERT, "severity": "page", "kind": "first_use"}
"""The rule's own; a test holds them against it."""

Json = dict[str, Any]


class Pusher:
    """Keeps an Alertmanager told of the first uses that are news. `counts` are of posts, by outcome."""

    def __init__(self, settings: AlertsSettings, warn: Callable[[str], None], clock: Callable[[], float]) -> None:
        self.counts = {"sent": 0, "failed": 0}
        self._settings = settings
        self._url = settings.alertmanager.rstrip("/") + "/api/v2/alerts"
        self._warn = warn
        self._clock = clock
        self._told: dict[tuple[int, str], FirstUse] = {}
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._failing = False

    def note(self, uses: Iterable[FirstUse]) -> None:
        """Take in the first uses that are known; those that are news and not told yet are posted at once."""
        begun = self._clock() - NEWS_SECONDS
        news = {(use.key, use.action): use for use in uses if use.seen > begun and is_told(use.risk, use.quiet)}
        # A restart of the run finds the use's own time: what was told stays as it was told.
        fresh = {place: use for place, use in news.items() if place not in self._told}
        self._told = {place: use for place, use in self._told.items() if use.seen > begun} | fresh
        if fresh:
            self._woken.set()

    def start(self) -> None:
        self._task = asyncio.create_task(self._push_forever())

    async def stop(self) -> None:
        """End at once: what was not sent is posted at the next start, or told by the rule."""
        if self._task is not None:
            await end_tasks(self._task)

    async def _push_forever(self) -> None:
        timeout = aiohttp.ClientTimeout(total=POST_SECONDS_MAX)
        pause = AGAIN_SECONDS
        async with aiohttp.ClientSession(timeout=timeout) as client:
            while True:
                await rest_until(self._woken, pause)
                self._woken.clear()
                if not self._told or await self._post(client):
                    pause = AGAIN_SECONDS
                else:
                    pause = min(RETRY_SECONDS_MAX, 1.0 if pause == AGAIN_SECONDS else 2 * pause)
                    # Also where new ones come in meanwhile: an Alertmanager that is down is not asked at each flush.
                    await asyncio.sleep(pause)
                    self._woken.set()

    async def _post(self, client: aiohttp.ClientSession) -> bool:
        alerts = [build_alert(use, self._settings) for use in self._told.values()]
        try:
            async with client.post(self._url, json=alerts) as answer:
                if answer.status == 200:
                    self.counts["sent"] += 1
                    self._failing = False
                    return True
                why = f"it answers {answer.status}: {(await answer.text())[:200]}"
        except aiohttp.InvalidURL:
            why = "its address is no URL"  # Which may hold a password, and is not repeated.
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            why = str(error) or type(error).__name__
        self.counts["failed"] += 1
        if not self._failing:
            self._warn(f"Alertmanager could not be told of {len(alerts)} first uses, tried again until it can: {why}")
        self._failing = True
        return False


def build_pusher(settings: AlertsSettings, warn: Callable[[str], None]) -> Pusher | None:
    """The pusher that the settings ask for, if they do."""
    return Pusher(settings, warn, time) if settings.alertmanager else None


def build_alert(use: FirstUse, settings: AlertsSettings) -> Json:
    """An alert as Alertmanager's API v2 takes it. Nothing of a record goes in but what is named here."""
    told = find_links(ALERT, use.account_id, use.arn, use.key, settings)
    return {
        "labels": {
            **settings.labels,
            **LABELS,
            "account": use.account_id,
            "principal": use.arn,
            "action": use.action,
        },
        "annotations": {
            "summary": f"First use of {use.action} by {use.arn}",
            "description": f"{use.arn} in account {use.account_id} has used the privileged action {use.action} (class {use.risk}) "
            "for the first time that its log knows of. Ask the operator named on the role's page whether this was planned. If "
            "it was not, revoke the role's sessions.",
            **told,
        },
        "startsAt": format_instant(use.seen),
        "endsAt": format_instant(use.seen + NEWS_SECONDS),
        "generatorURL": told.get("page_url", ""),
    }


def find_links(alert: str, account_id: str, arn: str, key: int, settings: AlertsSettings) -> dict[str, str]:
    """The annotations of an alert on a principal that lead somewhere, as far as the settings say where that is."""
    role = urlencode({"var-account": account_id, "var-principal": arn})
    links = {
        "runbook_url": (settings.runbooks_url, f"/{quote(alert)}.md"),
        "dashboard_url": (settings.dashboards_url, f"/d/gapwatch-role?{role}"),
        "page_url": (settings.page_url, f"/principals/{key:016x}"),
    }
    return {name: f"{start.rstrip('/')}{rest}" for name, (start, rest) in links.items() if start}


def format_instant(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
