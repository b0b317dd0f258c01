"""The gateway put together: the only file that knows all the others."""

from __future__ import annotations

import asyncio
import re
import resource
import secrets
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match, Route

from proto.streams import CHAT, ORDER_OWNERS, ORDERS, PRESENCE_LEASES, PRESENCE_ROSTERS
from runtime.http import Server
from runtime.service import Process, Service
from runtime.service_client import ServiceClient
from runtime.settings import SettingsError
from services.gateway.admission import Admission, AdmissionLimits
from services.gateway.api import OrdersApi
from services.gateway.auth import Misconfigured
from services.gateway.authenticator import Authenticator
from services.gateway.channel_stream import ChannelStream
from services.gateway.channels import Channels
from services.gateway.connections import DEADLINE, Connections
from services.gateway.control import Control, Name, serve_control
from services.gateway.cors import cors
from services.gateway.deflate import DEFLATED
from services.gateway.desk import Desk
from services.gateway.door import door_with
from services.gateway.exchange import http_error, slash_behind
from services.gateway.handshake import CLIENT_PATH, Handshake
from services.gateway.kinds import ORDER, ROOM
from services.gateway.order_stream import OrderStream
from services.gateway.origins import Origins
from services.gateway.pages import page_routes
from services.gateway.policy_watch import PolicyWatch
from services.gateway.presence.presence import Presence
from services.gateway.presence_api import PresenceApi
from services.gateway.rebalance import Rebalance
from services.gateway.relay import Relay
from services.gateway.rights import Rights
from services.gateway.room_access import RoomAccess
from services.gateway.session import Limits
from services.gateway.settings import GatewaySettings
from services.gateway.transports.websocket import Keep, Parsers
from services.gateway.wire import FORMATS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.middleware import Middleware
    from starlette.requests import Request
    from starlette.routing import BaseRoute

    from runtime.bus import Bus
    from runtime.log import Log
    from services.gateway.hub import Listener
    from services.gateway.stream_route import StreamRoute

log = structlog.get_logger(__name__)

LINGER_SECONDS: Final = 2.0
"""After readiness went red: load balancers need a moment to stop sending clients here, and those are still
served.
"""
NO_UPGRADE: Final = "Not found. This is for WebSockets, and the request has no Upgrade; a proxy may drop it."
REQUESTS_SECONDS: Final = 5.0
CONTROL_SECONDS: Final = 1.0
RESERVED_DESCRIPTORS: Final = 64


@asynccontextmanager
async def serve(process: Process[GatewaySettings]) -> AsyncIterator[None]:
    """Serve clients until left, then say goodbye to them, paced, before the port is closed."""
    settings = process.settings
    live, calls = await process.bus("live"), await process.bus("calls")
    origins = Origins(settings.origins)
    authenticator = _authenticator(settings, origins)
    reads = process.log(calls, ORDERS)
    admission = Admission(_admission_limits(settings), time.monotonic())
    relays: dict[str, Relay] = {}
    channels = Channels(relays, reads, process.log(calls, ORDER_OWNERS))

    def author(session_id: str, channel: str) -> Listener | None:
        return handshake.author(session_id, channel)  # made below: it rests on the desk, which rests on this

    presence = Presence(
        live,
        calls,
        settings,
        # Unique in the fleet, as a process id is not: the latest list of a name is what counts.
        gateway=settings.gateway_id or f"{process.instance}-{secrets.token_hex(4)}",
        author=author,
        formats=(*FORMATS.values(), *DEFLATED.values()),
        rosters=_rosters(process, calls),
    )
    chat_service = ServiceClient(calls, "chat")
    room_access = RoomAccess(chat_service, timeout=settings.request_seconds)
    rights = Rights(presence)
    desk = Desk(
        channels,
        authenticator,
        admission,
        presence,
        rights,
        chat_service=chat_service,
        rooms=room_access,
        gateway=process.instance,
        timeout=settings.request_seconds,
    )
    connections = Connections(settings)
    handshake = Handshake(
        desk,
        origins,
        admission,
        connections,
        _keep(settings, connections),
        limits=_limits(settings),
        echo=settings.echo,
        most=_most_connections(),
    )
    most = settings.max_channels
    relay = Relay(live, reads, kind=ORDER, max_channels=most, author=handshake.author)
    rooms = Relay(live, process.log(calls, CHAT), kind=ROOM, max_channels=most, author=handshake.author)
    relays.update({ORDER.name: relay, ROOM.name: rooms})
    order_stream = OrderStream(relay, channels, authenticator, origins, connections, settings)
    channel_stream = ChannelStream(desk, authenticator, origins, connections, settings)
    api = OrdersApi(calls, authenticator, settings)
    app = _app(
        [
            *api.routes(),
            *PresenceApi(calls, authenticator, settings).routes(),
            Route("/api/orders/{order_id}/stream", order_stream, methods=["GET"]),
            Route("/api/stream", channel_stream, methods=["GET"]),
            *page_routes(settings),
        ],
        cors(origins, settings.cors_headers),
    )
    await authenticator.start()
    policies = PolicyWatch(live, room_access, rights, connections.everybody)
    for task in (
        *relay.start(),
        *rooms.start(),
        *presence.start(),
        *policies.start(),
        connections.start(),
    ):
        process.rests_on(task)
    name = Name(process.instance, f"{process.instance}-{secrets.token_hex(4)}")
    rebalance = Rebalance(
        calls, connections, instance=name.instance, per_second=settings.rebalance_per_second
    )
    rebalance.start()
    control = Control(
        name,
        connections,
        relays.values(),
        rebalance,
        drain_seconds=settings.drain_seconds,
        leave=process.stopping.set,
        leaving=process.stopping.is_set,
    )
    controls = serve_control(calls, control, name)
    server = await Server.start(
        app, settings.host, settings.port, http=door_with(handshake), unsent_bytes=settings.unsent_bytes
    )
    log.info("serving", port=server.port, gateway=process.instance)
    try:
        yield
    finally:
        await rebalance.close()
        await _drain((order_stream, channel_stream, handshake), connections, settings.drain_seconds)
        await controls.drain(CONTROL_SECONDS)
        await server.stop(REQUESTS_SECONDS)
        await desk.close(REQUESTS_SECONDS)
        await connections.close()
        await policies.close()
        await presence.close()
        await relay.close()
        await rooms.close()
        await authenticator.close()


def _rosters(process: Process[GatewaySettings], calls: Bus) -> Log:
    process.log(calls, PRESENCE_LEASES)  # written over a connection of its own, and just as necessary
    return process.log(calls, PRESENCE_ROSTERS)


def _authenticator(settings: GatewaySettings, origins: Origins) -> Authenticator:
    try:
        return Authenticator(settings, origins)
    except Misconfigured as error:
        raise SettingsError([f"{error.setting}: {error.reason}"]) from None


def _most_connections() -> int:
    """As many as there are file descriptors, less what NATS, the internal port, files and logs need."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return max(int(hard) - RESERVED_DESCRIPTORS, 1)


def _limits(settings: GatewaySettings) -> Limits:
    usual, rate = Limits(), settings.messages_per_second
    return usual._replace(rate=rate, burst=2 * rate + usual.channels)


def _keep(settings: GatewaySettings, connections: Connections) -> Keep:
    return Keep(
        ping_interval=settings.ping_interval,
        ping_timeout=settings.ping_timeout,
        auth_timeout=settings.auth_seconds,
        outbox_bytes=settings.outbox_bytes,
        parsers=Parsers(settings.max_message_bytes),
        reschedule=connections.reschedule,
        inflaters=Parsers(settings.max_message_bytes, inflate=True) if settings.deflate else None,
    )


def _admission_limits(settings: GatewaySettings) -> AdmissionLimits:
    return AdmissionLimits(
        rate=settings.handshakes_per_second,
        burst=2 * settings.handshakes_per_second,
        connections=settings.max_connections,
        per_user=settings.connections_per_user,
        per_address=settings.connections_per_address,
    )


async def _drain(
    entrances: tuple[StreamRoute | Handshake, ...], connections: Connections, window: float
) -> None:
    DEADLINE.set(time.time() + LINGER_SECONDS + window + REQUESTS_SECONDS)
    if len(connections) and window:
        await asyncio.sleep(min(LINGER_SECONDS, window / 2))
    for entrance in entrances:
        entrance.draining = True
    log.info("goodbyes", streams=len(connections), seconds=window)
    await connections.drain(window)


def _app(routes: list[BaseRoute], guard: Middleware) -> Starlette:
    app = Starlette(routes=routes, middleware=[guard], exception_handlers={HTTPException: _router_refused})
    app.router.redirect_slashes = False
    for route in [route for route in routes if isinstance(route, Route)]:
        # Starlette's `$` also matches before a last line end, and `/api/orders%0A` is not `/api/orders`.
        route.path_regex = re.compile(route.path_regex.pattern.removesuffix("$") + r"\Z")
    return app


async def _router_refused(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    if request.scope["path"] == "*":  # OPTIONS, about the server as a whole (RFC 9110 section 9.3.7)
        return Response(status_code=204, headers={"allow": "GET, HEAD, POST"})
    allow = _methods(request) if status == 405 else ()
    return http_error(status, allow, _hint(request) if status == 404 else None)


def _hint(request: Request) -> str | None:
    path = request.scope["path"].rstrip("/")
    if path == CLIENT_PATH:
        return NO_UPGRADE
    if path == request.scope["path"] or not path:
        return None
    scope = {**request.scope, "path": path}
    there = any(route.matches(scope)[0] is not Match.NONE for route in request.app.routes)
    return slash_behind(path) if there else None


def _methods(request: Request) -> set[str]:
    # Several routes share a path; Starlette names the methods of the first only.
    methods: set[str] = set()
    for route in request.app.routes:
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE:
            methods |= route.methods or set()
    return methods


GATEWAY: Final = Service("gateway", GatewaySettings, serve)
