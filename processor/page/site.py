"""The page and /api over HTTP: every request is let in or not, answered, and given the headers that keep a browser safe."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import quote

import msgspec
from aiohttp import web

from processor.core.answers import ErrorAnswer
from processor.page.access import COOKIE, SESSION_SECONDS, Access, read_access
from processor.page.openapi import DOCUMENT_PATH, ROUTES, Route, build_document
from processor.page.pages import Pages
from processor.page.reading import BadQueryError, NotKnownError, NotReadyError, Reader, read_query
from processor.page.rendering import STATIC, Renderer
from processor.settings import Settings
from processor.shell.http import Handler

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Nothing is loaded from elsewhere, no text is a script or a style, no page frames this one, nothing is kept."""

AT_ONCE_MAX = 2
"""Slices of as many follow each other before anything else runs."""

WAITING_MAX = 64
WRONG_TOKEN_SECONDS = 1.0
"""How long a wrong token waits for its answer."""

STATUSES: dict[type[Exception], int] = {BadQueryError: 400, NotKnownError: 404, NotReadyError: 503}


class Site:
    """All routes but those of the metrics. `more` are pages of others, guarded like these; `links` are named at the top of
    each page."""

    def __init__(self, reader: Reader, access: Access, more: Mapping[str, Handler], links: Mapping[str, str]) -> None:
        self._reader = reader
        self._access = access
        self._renderer = Renderer()
        self._pages = Pages(reader, self._renderer, links)
        self._more = more
        self._slots = asyncio.Semaphore(AT_ONCE_MAX)
        self._waiting = 0

    def routes(self) -> dict[str, Handler]:
        """The handlers by path."""
        pages = self._pages
        shown: dict[str, Handler] = {
            "/": pages.show_fleet,
            "/principals": pages.find_principal,
            "/principals/{key}": pages.show_principal,
            **self._more,
        }
        found = {path: self._guard(handler, self._refuse_page) for path, handler in shown.items()}
        for route in ROUTES:
            found[route.path] = self._guard(self._answer_by(route), self._refuse_call)
        found[DOCUMENT_PATH] = self._guard(self._tell_document, self._refuse_call)
        found["/api/{rest:.*}"] = self._guard(self._miss, self._refuse_call)
        for name in STATIC:
            found[f"/static/{name}"] = self._serve_static
        found["/login"] = self._guard(self._ask_token, self._refuse_page, is_open=True)
        found["POST /login"] = self._guard(self._take_token, self._refuse_page, is_open=True)
        return found

    def _guard(
        self,
        handler: Handler,
        refuse: Callable[[web.Request, int, str], Awaitable[web.StreamResponse]],
        *,
        is_open: bool = False,
    ) -> Handler:
        """The handler behind the door: who is let in, how many at once, and errors in words."""

        async def guarded(request: web.Request) -> web.StreamResponse:
            try:
                answer = await self._admit(request, handler, refuse, is_open)
            except web.HTTPException as redirect:
                add_headers(redirect)
                raise
            except tuple(STATUSES) as error:
                answer = await refuse(request, STATUSES[type(error)], str(error))
            add_headers(answer)
            return answer

        return guarded

    async def _admit(
        self,
        request: web.Request,
        handler: Handler,
        refuse: Callable[[web.Request, int, str], Awaitable[web.StreamResponse]],
        is_open: bool,
    ) -> web.StreamResponse:
        if not self._access.knows_host(request):
            return await refuse(
                request, 421, f"{request.host} is no name of this machine: use localhost, or set a token"
            )
        if not (is_open or self._access.allows(request)):
            return await refuse(request, 401, "the token is missing or another one: send Authorization: Bearer TOKEN")
        if self._waiting >= WAITING_MAX:
            return await refuse(request, 503, "too many ask at once: try again in a moment")
        self._waiting += 1
        try:
            async with self._slots:
                return await handler(request)
        finally:
            self._waiting -= 1

    async def _refuse_call(self, request: web.Request, status: int, text: str) -> web.Response:
        more = {"WWW-Authenticate": 'Bearer realm="gapwatch"'} if status == 401 else {}
        return web.Response(
            body=msgspec.json.encode(ErrorAnswer(error=text)),
            status=status,
            content_type="application/json",
            headers=more,
        )

    async def _refuse_page(self, request: web.Request, status: int, text: str) -> web.StreamResponse:
        if status == 401:
            raise web.HTTPSeeOther(f"/login?next={quote(request.path_qs, safe='/')}")
        return await self._pages.show_notice(status, text)

    def _answer_by(self, route: Route) -> Handler:
        read: Callable[..., Awaitable[Any]] = getattr(self._reader, route.reads)

        async def answer(request: web.Request) -> web.Response:
            given: list[Any] = [request.match_info["key"]] if route.keyed else []
            if route.query is not None:
                given.append(read_query(route.query, request.query))
            return web.Response(body=msgspec.json.encode(await read(*given)), content_type="application/json")

        return answer

    async def _tell_document(self, request: web.Request) -> web.Response:
        return web.Response(body=msgspec.json.encode(build_document()), content_type="application/json")

    async def _miss(self, request: web.Request) -> web.StreamResponse:
        return await self._refuse_call(request, 404, f"no such path: {DOCUMENT_PATH} lists all")

    async def _serve_static(self, request: web.Request) -> web.Response:
        name = request.path.rpartition("/")[2]
        # Its address has a hash of its text, so it may be kept.
        headers = {"Cache-Control": "public, max-age=86400"}
        found = self._renderer.static[name]
        answer = web.Response(body=found, content_type=STATIC[name], charset="utf-8", headers=headers)
        add_headers(answer)
        return answer

    async def _ask_token(self, request: web.Request) -> web.StreamResponse:
        if self._access.allows(request):
            raise web.HTTPSeeOther(find_next(request.query.get("next", "")))
        return await self._pages.show_login(find_next(request.query.get("next", "")), "")

    async def _take_token(self, request: web.Request) -> web.StreamResponse:
        given = await request.post()
        target = find_next(str(given.get("next", "")))
        if not self._access.is_token(str(given.get("token", "")).strip()):
            await asyncio.sleep(WRONG_TOKEN_SECONDS)
            return await self._pages.show_login(target, "This is not the token.")
        answer = web.HTTPSeeOther(target)
        secure = request.secure or request.headers.get("X-Forwarded-Proto") == "https"
        # Lax: links from a dashboard or an alert must arrive; nothing here changes anything by GET.
        answer.set_cookie(
            COOKIE, self._access.open_session(), max_age=SESSION_SECONDS, httponly=True, samesite="Lax", secure=secure
        )
        raise answer


def open_pages(
    settings: Settings, reader: Reader, more: Mapping[str, Handler], links: Mapping[str, str]
) -> dict[str, Handler]:
    """What a run serves beside its metrics; nothing where no page is wanted. Raises SettingsError where it would be open to the
    network."""
    access = read_access(settings.run.host, settings.page)
    return {} if access is None else Site(reader, access, more, links).routes()


def add_headers(answer: web.StreamResponse) -> None:
    """Put HEADERS into an answer, but for those that it has already: a page with a style of its own has a policy for it."""
    for name, value in HEADERS.items():
        answer.headers.setdefault(name, value)


def find_next(target: str) -> str:
    """Where to go after the login: a path of this site, else the fleet."""
    plain = target.isascii() and target.isprintable() and "\\" not in target
    return target if plain and target.startswith("/") and not target.startswith("//") else "/"
