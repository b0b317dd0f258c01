"""The page at `/`: it follows one order live. Static files, read once at start."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import msgspec
from starlette.routing import Route

from proto.errors import Refusal
from services.gateway.exchange import Reply, answered

if TYPE_CHECKING:
    from starlette.requests import Request

    from services.gateway.exchange import Endpoint
    from services.gateway.settings import GatewaySettings

_FOLDER: Final = Path(__file__).parent / "pages"
_FILES: Final = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/app.js": ("app.js", "text/javascript; charset=utf-8"),
    "/chat.js": ("chat.js", "text/javascript; charset=utf-8"),
    "/people.js": ("people.js", "text/javascript; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/favicon.svg": ("favicon.svg", "image/svg+xml"),
}


class DemoGateway(msgspec.Struct, frozen=True):
    """A gateway the page may connect to."""

    id: str
    url: str


class Demo(msgspec.Struct, frozen=True):
    """What the page is told in the demo."""

    shop: str
    gateways: tuple[DemoGateway, ...]


def page_routes(settings: GatewaySettings) -> list[Route]:
    """The page's files, and `/demo.json`, which is not found outside the demo."""
    demo = _demo(settings)
    headers = _headers(demo)
    routes = [
        Route(path, answered("page", _file(_FOLDER / name, kind, headers)), methods=["GET"])
        for path, (name, kind) in _FILES.items()
    ]
    return [*routes, Route("/demo.json", answered("page", _told(demo)), methods=["GET"])]


def _demo(settings: GatewaySettings) -> Demo | None:
    if settings.demo_shop is None:
        return None
    pairs = (entry.partition("=") for entry in settings.demo_gateways)
    return Demo(settings.demo_shop, tuple(DemoGateway(name, url) for name, _, url in pairs))


def _headers(demo: Demo | None) -> dict[str, str]:
    others = " ".join(_sources(demo)) if demo else ""
    policy = (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        f"connect-src 'self' {others}".rstrip()
        + "; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return {
        "content-security-policy": policy,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-cache",
    }


def _sources(demo: Demo) -> list[str]:
    gateways = [_origin(gateway.url) for gateway in demo.gateways]
    # Not every browser takes http://host to allow ws://host as well.
    return [_origin(demo.shop), *gateways, *(f"ws{gateway.removeprefix('http')}" for gateway in gateways)]


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _file(path: Path, kind: str, headers: dict[str, str]) -> Endpoint:
    content = path.read_bytes()

    async def serve(_request: Request) -> Reply:
        return Reply(content, 200, headers, kind)

    return serve


def _told(demo: Demo | None) -> Endpoint:
    async def tell(_request: Request) -> Reply:
        if demo is None:
            raise Refusal("not_found")
        return Reply(demo)

    return tell
