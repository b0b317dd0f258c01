"""`GET /api/orders/{id}/stream`: one order, for its owner, from where the client was. 404 and 403 come before
the stream starts; a finished stream that was seen to its end gets 204, which stops EventSource for good."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import Response

from proto.frames import ResetReason
from proto.positions import InvalidPosition, Position, parse_position
from services.gateway import access
from services.gateway.kinds import ORDER_KIND
from services.gateway.relay import Start
from services.gateway.stream_route import StreamRoute, head_only, position_text
from services.gateway.transports.sse import SseConnection

if TYPE_CHECKING:
    from starlette.requests import Request

    from services.gateway.auth import Identity
    from services.gateway.authenticator import Authenticator
    from services.gateway.channels import Channels
    from services.gateway.connections import Connections
    from services.gateway.hub import Channel
    from services.gateway.origins import Origins
    from services.gateway.relay import Relay
    from services.gateway.settings import GatewaySettings


class OrderStream(StreamRoute):
    """The route."""

    def __init__(
        self,
        relay: Relay,
        channels: Channels,
        authenticator: Authenticator,
        origins: Origins,
        connections: Connections,
        settings: GatewaySettings,
    ) -> None:
        super().__init__(authenticator, origins, connections, settings)
        self._relay = relay
        self._channels = channels

    async def follow(self, request: Request, identity: Identity, request_id: str) -> Response | None:
        """See StreamRoute."""
        access.require_orders(identity)
        position, broken = _position_of(request)
        channel = await self._channel(identity, access.order_id(request.path_params["order_id"]))
        with self._relay.pinned(channel):
            start = await self._relay.start_for(channel, position)
            if broken is not None:
                start = Start(channel.last, [], broken)
            if _has_seen_the_end(position, start):
                return Response(status_code=204)
            if request.method == "HEAD":
                return head_only()
            turned_away = self._turned_away()
            if turned_away is not None:
                return turned_away
            # No await from here on: between `start` and listening nothing may happen on the channel.
            head, retry_ms = self._head(request, request_id), self._connections.retry_ms()
            self._open(
                request,
                identity,
                lambda common: SseConnection(channel, **common),
                lambda stream: stream.open(head, start, retry_ms),
                lambda: self._relay.release(channel),
            )
        return None

    async def _channel(self, identity: Identity, order_id: str) -> Channel:
        place = await self._channels.find(identity, f"{ORDER_KIND}:{order_id}")
        channel = None if place is None else await place.relay.open(place.subject)
        if channel is None:
            raise access.order_not_found()
        return channel


def _position_of(request: Request) -> tuple[Position | None, ResetReason | None]:
    text = position_text(request)
    if not text:
        return None, None
    try:
        return parse_position(text), None
    except InvalidPosition:
        return None, ResetReason.MALFORMED


def _has_seen_the_end(position: Position | None, start: Start) -> bool:
    return position is not None and position.ended and not start.missed and start.reset is None
