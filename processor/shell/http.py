"""/metrics, /healthz and /readyz, and the pages that a run has beside them."""

import asyncio
import gzip
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web

from processor.settings import BindError

TEXT = "text/plain; version=0.0.4; charset=utf-8"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """An HTTP server for one run. `members` gives the metrics as gzip members, `why_not_ready` None once ready.

    `pages` maps more paths to handlers, of GET unless another method stands before the path: `POST /login`.
    """

    def __init__(
        self,
        members: Callable[[], list[bytes]],
        why_not_ready: Callable[[], str | None],
        pages: Mapping[str, Handler] | None = None,
    ) -> None:
        self._members = members
        self._why_not_ready = why_not_ready
        app = web.Application()
        app.router.add_get("/metrics", self._serve_metrics)
        app.router.add_get("/healthz", self._serve_health)
        app.router.add_get("/readyz", self._serve_readiness)
        for place, handler in (pages or {}).items():
            method, _, path = place.rpartition(" ")
            if method:
                app.router.add_route(method, path, handler)
            else:
                app.router.add_get(path, handler)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=2)
        self.url = ""

    async def start(self, host: str, port: int) -> None:
        """Listen; port 0 takes a free one. Raises BindError."""
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port)
        try:
            await site.start()
        except OSError as error:
            await self._runner.cleanup()
            raise BindError(
                f"cannot listen on {host}:{port}: {error.strerror}; give another --port (0: any that is free)"
            ) from error
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}"

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def _serve_metrics(self, request: web.Request) -> web.StreamResponse:
        members = self._members()
        if "gzip" in request.headers.get("Accept-Encoding", ""):
            return web.Response(body=b"".join(members), headers={"Content-Type": TEXT, "Content-Encoding": "gzip"})
        # 100 MB with many principals, so it is unzipped and sent by and by: in one piece it would hold up everything else.
        answer = web.StreamResponse(headers={"Content-Type": TEXT})
        await answer.prepare(request)
        for member in members:
            await answer.write(gzip.decompress(member))
            await asyncio.sleep(0)
        await answer.write_eof()
        return answer

    async def _serve_health(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _serve_readiness(self, request: web.Request) -> web.Response:
        why = self._why_not_ready()
        return web.Response(text="ready\n") if why is None else web.Response(text=f"{why}\n", status=503)
