"""Where a request carries its token. Pure: raw ASGI headers and query string in, the token out.

Browsers cannot set headers on an `EventSource` or a `WebSocket`, hence the cookie and the query.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl

from services.gateway.auth import Unauthorized

if TYPE_CHECKING:
    from collections.abc import Sequence

COOKIE: Final = b"carillon_token"
PARAMETER: Final = "token"
MAX_QUERY_FIELDS: Final = 100
_PLACES: Final = (b"authorization", b"cookie")
_PLAIN: Final = re.compile(rb"token=([A-Za-z0-9._-]+)")
"""The whole query of nearly everybody who sends the token there."""


def token_from(headers: Sequence[tuple[bytes, bytes]], query: bytes) -> str:
    """The token: of `Authorization: Bearer`, else of the cookie, else of the query. It is not yet verified.

    An empty value counts as absent, and so does a scheme other than Bearer. Raises `Unauthorized`:
    token_missing, or token_invalid when the place that decides holds two (RFC 6750 section 2).
    """
    sent = [header for header in headers if header[0].lower() in _PLACES]
    found = _bearer(sent) or _cookies(sent) or _queried(query) if sent else _queried(query)
    if not found:
        raise Unauthorized("token_missing", "no token in header, cookie or query")
    if len(found) > 1:
        raise Unauthorized("token_invalid", "two tokens in one place")
    return found[0]


def rests_on_cookie(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    """Whether `token_from` takes the cookie's token: the one a browser sends along whoever wrote the page."""
    return not _bearer(headers) and bool(_cookies(headers))


def _bearer(headers: Sequence[tuple[bytes, bytes]]) -> list[str]:
    values = _values(headers, b"authorization")
    if len(values) > 1:
        raise Unauthorized("token_invalid", "two Authorization headers")
    credentials = [value.strip().partition(b" ") for value in values]
    return [_text(token) for scheme, _, token in credentials if scheme.lower() == b"bearer" and token.strip()]


def _cookies(headers: Sequence[tuple[bytes, bytes]]) -> list[str]:
    # HTTP/2 may split cookies over several headers (RFC 9113 section 8.2.3).
    pairs = [pair.partition(b"=") for value in _values(headers, b"cookie") for pair in value.split(b";")]
    return [_text(value) for name, _, value in pairs if name.strip() == COOKIE and value.strip()]


def _queried(query: bytes) -> list[str]:
    plain = _PLAIN.fullmatch(query)
    if plain is not None:
        return [plain[1].decode("ascii")]
    try:
        fields = parse_qsl(query.decode("latin-1"), max_num_fields=MAX_QUERY_FIELDS)
    except ValueError:
        raise Unauthorized("token_invalid", "too many query fields") from None
    return [value for name, value in fields if name == PARAMETER]


def _values(headers: Sequence[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    return [value for header, value in headers if header.lower() == name]


def _text(value: bytes) -> str:
    return value.strip().decode("latin-1")
