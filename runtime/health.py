"""Whether this process is ready for traffic, and the internal port that says so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from proto.errors import CATALOGUE
from runtime import metrics

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request

Reason = Literal["starting", "streams_missing", "ok", "failing", "down", "recovering", "draining"]
"""starting: no success yet. streams_missing: likewise, and not before they are provisioned. failing: ready
still, but the last check failed. down: failed for too long. recovering: succeeds again, not often enough yet.
draining: for good.
"""

_ERRORS: Final = {404: "not_found", 405: "method_not_allowed"}


class Readiness:
    """Ready or not, with hysteresis, from checks that somebody else makes. Pure: `now` is monotonic seconds.

    Green after `up_after` (at least 1) successes in a row, red once the checks have failed without a success
    between for `down_after` seconds (0: at the first failure), red for good after drain().
    """

    def __init__(self, down_after: float = 5.0, up_after: int = 2) -> None:
        self._down_after, self._up_after = down_after, up_after
        self._green = self._was_green = self._draining = False
        self._lacking = self._missing = False
        self._successes = 0
        self._failing_since: float | None = None

    def observe(self, ok: bool, now: float) -> None:
        """Take in the result of one check."""
        self._green = self._green and not self._lapsed(now)
        if not ok:
            self._successes = 0
            self._failing_since = now if self._failing_since is None else self._failing_since
            return
        self._failing_since = None
        if self._lacking:
            return
        self._successes += 1
        self._green = self._green or self._successes >= self._up_after
        self._was_green = self._was_green or self._green

    def lack(self, lacking: bool, *, missing: bool) -> None:
        """Whether it lacks streams that it must have before its first traffic; `missing`: that is known.
        Once it was ready, a lost one is no reason to take everything else away too.
        """
        self._lacking = lacking and not self._was_green
        self._missing = missing
        if self._lacking:
            self._successes = 0

    def drain(self) -> None:
        """Never ready again."""
        self._draining = True

    def ready(self, now: float) -> bool:
        """Whether traffic may come."""
        return self.reason(now) in ("ok", "failing")

    def reason(self, now: float) -> Reason:
        """Why, in a word."""
        if self._draining:
            return "draining"
        if self._green and not self._lapsed(now):
            return "ok" if self._failing_since is None else "failing"
        if not self._was_green:
            return "streams_missing" if self._lacking and self._missing else "starting"
        return "recovering" if self._successes else "down"

    def _lapsed(self, now: float) -> bool:
        return self._failing_since is not None and now - self._failing_since >= self._down_after


class _Answer(msgspec.Struct):
    ready: bool
    reason: Reason


def internal_app(
    readiness: Readiness,
    clock: Callable[[], float],
    alive: Callable[[], bool] = lambda: True,
    exposition: Callable[[str | None], tuple[bytes, str]] = metrics.render,
) -> Starlette:
    """The application of the internal port.

    GET /livez    200 `ok` whenever the loop answers; 503 only if `alive` says that a critical task died
    GET /readyz   200 or 503 and {"ready":bool,"reason":str}; `clock` is the one that observe() is called with
    GET /metrics  what `exposition` makes of the Accept header

    HEAD counts as GET. Errors are {"code","message"} of the catalogue.
    """

    async def livez(_request: Request) -> Response:
        return PlainTextResponse("ok") if alive() else PlainTextResponse("a critical task died", 503)

    async def readyz(_request: Request) -> Response:
        answer = _Answer(readiness.ready(now := clock()), readiness.reason(now))
        return _json(answer, 200 if answer.ready else 503)

    async def scrape(request: Request) -> Response:
        body, content_type = exposition(request.headers.get("accept"))
        return Response(body, headers={"content-type": content_type})

    routes = [Route("/livez", livez), Route("/readyz", readyz), Route("/metrics", scrape)]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _refuse, Exception: _refuse})
    app.router.redirect_slashes = False
    return app


async def _refuse(_request: Request, exc: Exception) -> Response:
    status, headers = (exc.status_code, exc.headers) if isinstance(exc, HTTPException) else (500, None)
    row = CATALOGUE[_ERRORS.get(status, "internal")]
    return _json({"code": row.code, "message": row.message}, status, dict(headers or {}))


def _json(body: _Answer | dict[str, str], status: int, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(body), status, headers, "application/json")
