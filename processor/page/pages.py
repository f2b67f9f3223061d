"""The pages for people: the fleet, one principal, the login and notices. All of them work without scripts."""

from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web

from processor.core.board import FleetQuery
from processor.core.profile import ActionsQuery, PolicyQuery
from processor.page.reading import NotKnownError, Reader, read_query
from processor.page.rendering import Renderer, link

LAG_SECONDS_MAX = 300
"""Behind by more than this a page says so on top: CloudTrail itself takes some five minutes to deliver to S3."""


class Pages:
    """Handlers that answer with HTML. `links` are shown at the top of each page, by name."""

    def __init__(self, reader: Reader, renderer: Renderer, links: Mapping[str, str]) -> None:
        self._reader = reader
        self._renderer = renderer
        self._links = dict(links)

    async def _show(self, template: str, status: int = 200, **given: Any) -> web.Response:
        told = await self._reader.tell_status()
        warning = None
        if not told.ready:
            warning = f"Not ready: {told.why_not}. What is shown may be old."
        elif told.store_waiting:
            warning = "The store does not answer: what is shown is what was known before."
        elif told.lag_seconds is not None and told.lag_seconds > LAG_SECONDS_MAX:
            warning = f"Behind by {told.lag_seconds:,.0f} seconds: what happened since is not in here."
        text = await self._renderer.render(template, status=told, warning=warning, links=self._links, **given)
        headers = {"Retry-After": "2"} if status == 503 else {}
        return web.Response(text=text, content_type="text/html", status=status, headers=headers)

    async def show_fleet(self, request: web.Request) -> web.StreamResponse:
        query = read_query(FleetQuery, request.query)
        fleet = await self._reader.list_fleet(query)
        return await self._show("fleet.html", fleet=fleet, query=msgspec.structs.asdict(query))

    async def find_principal(self, request: web.Request) -> web.StreamResponse:
        """`/principals?arn=ARN`, for links of dashboards and alerts, which know no key: the principal's page, or the list where
        several have the ARN or none has. `action`, `service`, `verdict` and `window` are passed on."""
        arn = request.query.get("arn", "")
        keys = self._reader.find_keys(arn)
        if len(keys) != 1:
            raise web.HTTPSeeOther(link("/", {"q": arn[:256]}))
        passed = {
            name: request.query.get(name, "")[:256] for name in ("action", "service", "verdict", "risk", "window")
        }
        raise web.HTTPSeeOther(link(f"/principals/{keys[0]:016x}", passed))

    async def show_principal(self, request: web.Request) -> web.StreamResponse:
        """One principal whole, with the page of its actions that is asked for."""
        key = request.match_info["key"]
        query = read_query(ActionsQuery, request.query)
        principal = await self._reader.summarise(key)
        actions = await self._reader.list_actions(key, query)
        timeline = await self._reader.draw_timeline(key)
        try:
            policy = await self._reader.write_policy(key, PolicyQuery(window=request.query.get("policy", "")))
        except NotKnownError:
            policy = None
        return await self._show(
            "principal.html",
            principal=principal,
            actions=actions,
            timeline=timeline,
            policy=policy,
            query=msgspec.structs.asdict(query),
        )

    async def show_login(self, target: str, wrong: str) -> web.StreamResponse:
        return await self._show("login.html", 403 if wrong else 200, target=target, wrong=wrong)

    async def show_notice(self, status: int, text: str) -> web.StreamResponse:
        return await self._show("notice.html", status, text=text)
