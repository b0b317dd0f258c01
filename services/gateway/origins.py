"""Which web origins may read our answers (Fetch standard, CORS). Pure.

A browser sends a user's cookie along from any page; so a request that rests on the cookie is refused
unless its origin is our own or listed.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


_ORIGIN: Final = re.compile(
    r"[a-z][a-z0-9+.-]*://(?P<host>[a-z0-9._~-]+|\[[0-9a-f:.]+\])(?P<port>:[0-9]{1,5})?"
)
_BEHIND: Final = frozenset("/?#")
_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}


def unfit(origin: str) -> str:
    """Why no browser would ever send this as an origin (RFC 6454 section 6.2); empty if one would."""
    return next((reason for reason in _reasons(origin)), "")


def _reasons(origin: str) -> Iterator[str]:
    """Of what is wrong, first what is most likely meant."""
    scheme, divided, rest = origin.partition("://")
    found = _ORIGIN.fullmatch(origin)
    if "*" in origin:
        yield "a wildcard matches nothing: list each origin"
    if origin == "null":
        yield "null is every sandboxed page and every file, whoever wrote it"
    if not divided:
        yield f"expected a scheme in front, such as https://{origin}"
    if not _BEHIND.isdisjoint(rest):
        yield f"expected {scheme}://{re.split('[/?#]', rest)[0]}, without a path or a slash behind it"
    if not origin.isascii():
        yield "browsers send names in ASCII (xn--...)"
    if origin != origin.lower():
        yield f"browsers send small letters: {origin.lower()}"
    if found is None:
        yield "expected scheme://host or scheme://host:port"
    elif found["port"] and found["port"] == _DEFAULT_PORTS.get(scheme):
        yield f"browsers leave the usual port out: {origin.removesuffix(found['port'])}"


class Origins:
    """The listed origins, exactly as browsers send them (`https://shop.example`, no path, no wildcard)."""

    def __init__(self, listed: Iterable[str]) -> None:
        self._listed = frozenset(listed)

    def allows(self, origin: str, host: str) -> bool:
        """Whether a page of `origin` may use the API served at `host` (the Host header). Our own origin
        always may.
        """
        own = (f"http://{host}".lower(), f"https://{host}".lower()) if host else ()
        return origin in self._listed or origin.lower() in own

    def allow_request(self, headers: Sequence[tuple[bytes, bytes]]) -> bool:
        """Whether what a browser sends by itself may count in a request with these headers: it names no
        origin, or one, which is allowed.
        """
        named = [value for name, value in headers if name == b"origin"]
        if not named:
            return True
        host = b"".join(value for name, value in headers if name == b"host")
        return len(named) == 1 and self.allows(named[0].decode("latin-1"), host.decode("latin-1"))

    def headers(self, origin: str | None) -> list[tuple[str, str]]:
        """What lets a page of a listed origin read the answer; nothing for others, our own needs none."""
        if origin is None or origin not in self._listed:
            return []
        return [
            ("access-control-allow-origin", origin),
            ("access-control-allow-credentials", "true"),
            ("vary", "Origin"),
        ]

    @property
    def listed(self) -> frozenset[str]:
        """For the preflight's middleware."""
        return self._listed
