"""A request's identity, as the gateway is configured to prove it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import structlog

from proto.errors import Refusal
from runtime.metrics import counter
from services.gateway import rejections
from services.gateway.auth import Policy, Unauthorized, UnknownKey, verify
from services.gateway.credentials import rests_on_cookie, token_from
from services.gateway.keys import JwksSource, identify
from services.gateway.keyset import SharedSecret

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from services.gateway.auth import Identity
    from services.gateway.origins import Origins
    from services.gateway.settings import GatewaySettings

log = structlog.get_logger(__name__)

ORIGIN_REFUSED: Final = "This origin is not allowed: it is not listed in CARILLON_ORIGINS."

REJECTED = counter("gateway_auth_rejected", "Requests without a valid token, by code", ["code"])


class Authenticator:
    """Tokens in, identities out. Raises services.gateway.auth.Misconfigured when the settings make no
    sense.
    """

    def __init__(self, settings: GatewaySettings, origins: Origins) -> None:
        self._policy = Policy(
            algorithm=settings.auth_algorithm,
            issuer=settings.auth_issuer,
            audience=settings.auth_audience,
            leeway=settings.auth_leeway_seconds,
        )
        self._origins = origins
        self._keys: SharedSecret | JwksSource
        if settings.auth_jwks is not None:
            self._keys = JwksSource(settings.auth_jwks, settings.auth_algorithm)
        else:
            assert settings.auth_secret is not None  # GatewaySettings.faults
            self._keys = SharedSecret(settings.auth_secret.reveal())

    async def start(self) -> None:
        """Fetch the keys. A key set that cannot be had yet does not stop the start: requests get
        `unavailable`.
        """
        if isinstance(self._keys, JwksSource):
            await self._keys.start()

    async def close(self) -> None:
        """Stop fetching."""
        if isinstance(self._keys, JwksSource):
            await self._keys.close()

    async def identity(self, scope: Mapping[str, Any]) -> Identity:
        """Who sends this request (an ASGI scope). Raises Unauthorized, KeysUnavailable, and Refusal
        "forbidden" for a foreign origin with the cookie.
        """
        self._check_origin(scope["headers"])
        try:
            token = token_from(scope["headers"], scope["query_string"])
        except Unauthorized as refusal:
            _rejected(refusal)
            raise
        return await self.prove(token)

    def prove_now(self, token: str) -> Identity | None:
        """Whose token this is; None: no key at hand tells, `prove` may. Raises Unauthorized."""
        try:
            return verify(token, self._keys, self._policy, time.time())
        except UnknownKey:
            return None
        except Unauthorized as refusal:
            _rejected(refusal)
            raise

    async def prove(self, token: str) -> Identity:
        """Whose token this is. Raises Unauthorized, KeysUnavailable."""
        try:
            return await identify(token, self._keys, self._policy, time.time)
        except Unauthorized as refusal:
            _rejected(refusal)
            raise

    def _check_origin(self, headers: Sequence[tuple[bytes, bytes]]) -> None:
        if self._origins.allow_request(headers):
            return
        # Only what a browser sends by itself can be abused by a foreign page: the cookie.
        try:
            abused = rests_on_cookie(headers)
        except Unauthorized as refusal:
            _rejected(refusal)
            raise
        if not abused:
            rejections.foreign_origin(headers, "answered, and browsers keep it from the page")
            return
        rejections.foreign_origin(headers, "refused: it rests on the cookie")
        REJECTED.labels("forbidden").inc()
        raise Refusal("forbidden", ORIGIN_REFUSED)


def _rejected(refusal: Unauthorized) -> None:
    REJECTED.labels(refusal.code).inc()
    log.info("rejected", code=refusal.code, detail=refusal.detail)
