"""Preflights (Fetch standard, CORS): what a page of another origin may send, and which part of it may not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from proto.errors import Refusal
from services.gateway import rejections
from services.gateway.exchange import refused

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.datastructures import Headers
    from starlette.responses import Response

    from services.gateway.origins import Origins

METHODS: Final = ("GET", "POST")
HEADERS: Final = ("authorization", "content-type", "idempotency-key", "last-event-id", "x-request-id")
EXPOSED: Final = ("x-request-id", "idempotency-replayed", "location", "retry-after")
SECONDS: Final = 600


class Preflights(CORSMiddleware):
    """Starlette's, whose refusals name what they refuse."""

    def preflight_response(self, request_headers: Headers) -> Response:
        """The answer to OPTIONS."""
        response = super().preflight_response(request_headers)
        if response.status_code == 200:
            return response
        if not self.is_allowed_origin(request_headers["origin"]):
            rejections.foreign_preflight(request_headers["origin"])
        refusal = refused(Refusal("invalid_request", self._refused(request_headers)))
        for name in ("access-control-allow-origin", "vary"):
            if name in response.headers:
                refusal.headers[name] = response.headers[name]
        return refusal

    def _refused(self, asked: Headers) -> str:
        if not self.is_allowed_origin(asked["origin"]):
            return f"CORS: the origin {asked['origin']} is not listed in CARILLON_ORIGINS."
        method = asked["access-control-request-method"]
        if method not in self.allow_methods:
            return f"CORS: {method} is not allowed."
        names = [name.strip() for name in asked.get("access-control-request-headers", "").lower().split(",")]
        foreign = [name for name in names if name not in self.allow_headers]
        if foreign:
            return f"CORS: headers not in CARILLON_CORS_HEADERS: {', '.join(foreign)}."
        return "CORS: this is not allowed."  # a private network


def cors(origins: Origins, more: Iterable[str]) -> Middleware:
    """For pages of the listed origins, which may send the headers of `more` besides those that we read."""
    return Middleware(
        Preflights,
        allow_origins=sorted(origins.listed),
        allow_credentials=True,
        allow_methods=METHODS,
        allow_headers=sorted({*HEADERS, *map(str.lower, more)}),
        expose_headers=EXPOSED,
        max_age=SECONDS,
    )
