"""What the page's buttons do: end a gateway, and answer once it serves again. Listens on loopback only; the
shop passes a page's press on, with the token that the shop's sessions carry.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Final, Protocol

import msgspec
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from deploy.demo.errors import StartFailed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request

AT_ONCE: Final = {"restart": False, "kill": True}
"""By the path's last word: whether a gateway is killed, or may say goodbye."""


class Gateway(Protocol):
    """A process that can be ended and comes back: deploy.demo.children.Child."""

    @property
    def pid(self) -> int:
        """Of the process that runs now."""

    async def again(self, *, at_once: bool) -> None:
        """End it, and return when it serves again. Raises StartFailed."""


def app(gateways: Mapping[str, Gateway], token: str) -> Starlette:
    """POST /gateways/{id}/restart and /kill with `Authorization: Bearer <token>`: 200 `{"pid": n}` when the
    gateway is back, 401, 404, and 503 while another press on it is under way or when it stays away.
    """
    pressed: set[str] = set()

    async def press(request: Request) -> Response:
        if not _opens(request, token):
            return Response(status_code=401)
        name, how = request.path_params["id"], request.path_params["how"]
        if name not in gateways or how not in AT_ONCE:
            return Response(status_code=404)
        if name in pressed:
            return Response(status_code=503)
        pressed.add(name)
        try:
            await gateways[name].again(at_once=AT_ONCE[how])
        except StartFailed:
            return Response(status_code=503)
        finally:
            pressed.discard(name)
        return Response(msgspec.json.encode({"pid": gateways[name].pid}), media_type="application/json")

    return Starlette(routes=[Route("/gateways/{id}/{how}", press, methods=["POST"])])


def _opens(request: Request, token: str) -> bool:
    given = request.headers.get("authorization", "")
    return hmac.compare_digest(given.encode(), f"Bearer {token}".encode())
