"""Tokens signed with the shared secret: for trying things out, and for the command line itself."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import jwt

from carillon import defaults
from carillon.exits import USAGE, Failed
from services.gateway.auth import Misconfigured
from services.gateway.keyset import SharedSecret

if TYPE_CHECKING:
    from collections.abc import Sequence

    from carillon.settings import CliSettings

DEFAULT_TTL: Final = 3600
_DURATION: Final = re.compile(r"(\d{1,9})([smhd]?)")
_UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(text: str) -> int:
    """`90`, `90s`, `15m`, `1h`, `7d`. Raises Failed."""
    found = _DURATION.fullmatch(text)
    if found is None or not int(found[1]):
        raise Failed(USAGE, "usage", f"{text!r} is no duration: write 90s, 15m, 1h or 7d.")
    return int(found[1]) * _UNITS[found[2]]


def claims_for(
    settings: CliSettings,
    user: str,
    now: float,
    *,
    scope: str = defaults.SCOPE,
    ttl: int = DEFAULT_TTL,
    name: str = "",
    rooms: Sequence[str] = (),
) -> dict[str, Any]:
    """What the token says. `now` is seconds since 1970."""
    claims: dict[str, Any] = {"sub": user, "scope": scope, "iat": int(now), "exp": int(now) + ttl}
    extra = {"name": name, "rooms": list(rooms), "iss": settings.auth_issuer, "aud": settings.auth_audience}
    return claims | {key: value for key, value in extra.items() if value}


def sign(settings: CliSettings, claims: dict[str, Any]) -> str:
    """The token. Raises Failed: only the shared secret of HS256 can sign here."""
    if settings.auth_algorithm != "HS256" or settings.auth_secret is None:
        raise Failed(
            USAGE,
            "settings",
            "CARILLON_AUTH_SECRET is required to make a token, and only tokens of HS256 are made here; "
            "to connect with a token from elsewhere, set CARILLON_TOKEN.",
        )
    try:
        SharedSecret(settings.auth_secret.reveal())
    except Misconfigured as error:
        raise Failed(USAGE, "settings", f"{error.setting}: {error.reason}") from None
    return jwt.encode(claims, settings.auth_secret.reveal(), "HS256")


def for_client(settings: CliSettings, user: str, now: float) -> str:
    """CARILLON_TOKEN, or a fresh one for `user`. Raises Failed."""
    if settings.token is not None:
        return settings.token.reveal()
    return sign(settings, claims_for(settings, user, now))
