"""Which web origins may read our answers (Fetch standard, CORS). Pure.

A browser sends a user's cookie along from any page; so a request that rests on the cookie is refused
unless its origin is our own or listed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


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
