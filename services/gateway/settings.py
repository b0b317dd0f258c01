"""What the gateway is told by its environment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta

from proto.presence import GRACE_SECONDS
from runtime.settings import ProcessSettings, Secret, variable
from services.gateway.auth import MAX_LEEWAY_SECONDS, Misconfigured
from services.gateway.keyset import SharedSecret
from services.gateway.origins import unfit

if TYPE_CHECKING:
    from collections.abc import Iterable

Count = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0)]
Limit = Annotated[float, Meta(ge=0)]
HeaderName = Annotated[
    str, Meta(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$", description="names of headers, comma-separated")
]


class GatewaySettings(ProcessSettings, frozen=True, kw_only=True):
    """Besides those of every process:

    port                    TCP port for clients; 0 = any free port
    gateway_id              name of this gateway in logs and on the demo page; unset = from the process id,
                            in a container from its host name
    auth_algorithm          HS256, RS256, ES256 or EdDSA: the only one accepted
    auth_secret             HS256's secret, 32 bytes or more
    auth_jwks               the others' public keys: path or http(s) URL of a JSON Web Key Set
    auth_issuer             `iss` that a token must have; unset = any
    auth_audience           `aud` that a token must have; unset = tokens that name an audience are refused
    auth_leeway_seconds     how far clocks may differ, at most 30
    origins                 web origins besides our own that may use the API, comma-separated, as browsers
                            send them: https://shop.example, without a slash behind, a path or a wildcard
    cors_headers            headers besides our own that pages of those origins may send, comma-separated
    heartbeat_seconds       time between two comments on an SSE stream
    ping_interval           seconds between two pings on a WebSocket
    ping_timeout            seconds a client has to answer one, by anything
    auth_seconds            how long a WebSocket may stay without a token
    echo                    1 mounts a WebSocket /echo that returns what it gets, without a token
    deflate                 1 lets WebSockets compress messages (RFC 7692)
    messages_per_second     frames one WebSocket may send in the long run, 100 and twice as many at once
    handshakes_per_second   WebSocket handshakes in the long run, twice as many at once; 0 = no limit
    connections_per_user    WebSockets of one user at once; 0 = no limit
    connections_per_address WebSockets of one address at once; 0 = no limit (behind a proxy all share one)
    rebalance_per_second    connections at most that a gateway with too many sends to the others; 0 = none
    max_connection_seconds  longest life of a connection, 80 to 120 % of it; 0 = no limit
    max_message_bytes       largest request body and largest WebSocket message
    outbox_bytes            what may wait for one slow connection before it is cut and has to resume
    unsent_bytes            what the kernel takes of it besides, per connection; 0 = as it likes (megabytes)
    max_connections         streams at once; one more is told to come back later
    max_channels            channels at once, as above
    presence_roster_limit   members of a scope above which clients are told how many there are, and not who
    presence_linger_seconds how long somebody whose connection broke is still there
    presence_grace_seconds  how long somebody whom we sent to another gateway is still here
    request_seconds         how long a request may take; a write outlives a leader election (15 s)
    sse_retry_ms            pause before a client reconnects; each gets its own, 50 to 150 % of this
    demo_shop               address of the demo's shop, which has orders and tokens; unset = no demo
    demo_gateways           addresses of the demo's gateways as id=url, comma-separated
    """

    port: Annotated[int, Meta(ge=0, le=65535)] = 8080
    gateway_id: (
        Annotated[
            str, Meta(pattern=r"^[A-Za-z0-9._-]{1,64}$", description="1 to 64 letters, digits, . _ and -")
        ]
        | None
    ) = None
    auth_algorithm: Literal["HS256", "RS256", "ES256", "EdDSA"] = "HS256"
    auth_secret: Secret | None = None
    auth_jwks: str | None = None
    auth_issuer: str | None = None
    auth_audience: str | None = None
    auth_leeway_seconds: Annotated[float, Meta(ge=0, le=MAX_LEEWAY_SECONDS)] = 5.0
    origins: tuple[str, ...] = ()
    cors_headers: tuple[HeaderName, ...] = ()
    heartbeat_seconds: Seconds = 15.0
    ping_interval: Seconds = 25.0
    ping_timeout: Seconds = 10.0
    auth_seconds: Seconds = 10.0
    echo: bool = False
    deflate: bool = False
    messages_per_second: Seconds = 50.0
    handshakes_per_second: Limit = 1000.0
    connections_per_user: Annotated[int, Meta(ge=0)] = 100
    connections_per_address: Annotated[int, Meta(ge=0)] = 0
    rebalance_per_second: Limit = 50.0
    max_connection_seconds: Limit = 0.0
    max_message_bytes: Count = 65536
    outbox_bytes: Count = 262144
    unsent_bytes: Annotated[int, Meta(ge=0, le=2**30)] = 131072
    max_connections: Count = 100_000
    max_channels: Count = 100_000
    presence_roster_limit: Count = 1000
    presence_linger_seconds: Limit = 5.0
    presence_grace_seconds: Limit = GRACE_SECONDS
    request_seconds: Seconds = 20.0
    sse_retry_ms: Count = 2000
    demo_shop: str | None = None
    demo_gateways: tuple[str, ...] = ()

    def faults(self) -> Iterable[str]:
        """What is wrong between fields."""
        yield from super().faults()
        for origin in self.origins:
            if reason := unfit(origin):
                yield f"{variable('origins')}: {origin}: {reason}"
        if self.auth_algorithm == "HS256":
            if self.auth_secret is None:
                yield f"{variable('auth_secret')}: required with HS256"
            else:
                yield from _unfit(self.auth_secret)
            if self.auth_jwks is not None:
                yield f"{variable('auth_jwks')}: needs an algorithm with public keys, not HS256"
        elif self.auth_jwks is None:
            yield f"{variable('auth_jwks')}: required with {self.auth_algorithm}"


def _unfit(secret: Secret) -> Iterable[str]:
    try:
        SharedSecret(secret.reveal())
    except Misconfigured as error:
        yield f"{error.setting}: {error.reason}"
