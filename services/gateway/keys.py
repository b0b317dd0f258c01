"""The key set of an issuer, fetched and kept fresh.

The last good set stays in memory, so verifying is synchronous. No flood of unknown key ids makes it fetch
more than once in 30 seconds, and no token ever chooses what is fetched.
"""

from __future__ import annotations

import asyncio
import functools
import http.client
import os
import random
import re
import stat
import threading
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import urlsplit

import structlog
from prometheus_client import Counter, Gauge

from proto.errors import Refusal
from services.gateway.auth import Misconfigured, UnknownKey, verify
from services.gateway.keyset import KINDS, MAX_DOCUMENT_BYTES, KeySet, KeysInvalid

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from services.gateway.auth import Algorithm, Identity, Keys, Policy, PublicKey

    Version: TypeAlias = tuple[int, ...]
    Reader: TypeAlias = Callable[[Version | None], tuple[Version, bytes] | None]

REFRESH_SECONDS: Final = 300.0
RETRY_SECONDS: Final = 5.0  # after a failure; doubles up to the next one
MAX_RETRY_SECONDS: Final = 30.0
UNKNOWN_KEY_SECONDS: Final = 30.0
TIMEOUT_SECONDS: Final = 5.0
JWKS_SETTING: Final = "CARILLON_AUTH_JWKS"

_HANDLERS: Final = (
    urllib.request.ProxyHandler,
    urllib.request.HTTPHandler,
    urllib.request.HTTPSHandler,
    urllib.request.HTTPDefaultErrorHandler,
    urllib.request.HTTPErrorProcessor,
)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")

_log = structlog.get_logger()
_fetches = Counter("carillon_gateway_jwks_fetches", "Fetches of the key set, file checks included.")
_failures = Counter("carillon_gateway_jwks_failures", "Fetches that failed; old keys stay.")
_keys = Gauge("carillon_gateway_jwks_keys", "Keys in use.")
_skipped = Gauge("carillon_gateway_jwks_skipped_keys", "Keys of the set that do not fit.")


class KeysUnavailable(Refusal):
    """No key set has been fetched yet, so nobody can be told apart from anybody."""

    def __init__(self) -> None:
        super().__init__("unavailable")


class JwksSource:
    """The key set behind a file path or an http(s) URL, kept in memory and kept fresh.

    Fetched at `start`, then every `refresh_seconds` (jittered; 0: never), and at most once in 30 seconds for
    an unknown key id. A failed fetch keeps the keys from before and is tried again after 5 to 30 seconds.
    A fetch may take 5 seconds and follows no redirect. A file is read again when its time, size or inode
    changed. One owner starts and closes it (`async with`); while it is not open it fetches nothing.
    `fetches` and `failures` count since the start; `clock` is monotonic seconds, `chance` returns 0.0 to 1.0.

    Raises `Misconfigured` for another scheme, a URL without a host or with a password, and for HS256.
    """

    def __init__(
        self,
        location: str,
        algorithm: Algorithm,
        *,
        refresh_seconds: float = REFRESH_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        if algorithm not in KINDS:
            raise Misconfigured(JWKS_SETTING, f"needs an algorithm with public keys, not {algorithm}.")
        self._read = _reader(location)
        self._place = _place(location)
        self._version: Version | None = None
        self._algorithm: Algorithm = algorithm
        self._refresh_seconds = refresh_seconds
        self._clock = clock
        self._chance = chance
        self._keys: KeySet | None = None
        self._asked_at = float("-inf")
        self._open = False
        self._failed_in_a_row = 0
        self._flight: asyncio.Task[None] | None = None
        self._refresher: asyncio.Task[None] | None = None
        self.fetches = 0
        self.failures = 0

    async def __aenter__(self) -> Self:
        """Starts it."""
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Closes it."""
        await self.close()

    @property
    def ready(self) -> bool:
        """Whether a key set has been fetched."""
        return self._keys is not None

    async def start(self) -> None:
        """Fetches once and goes on refreshing. A failed fetch does not raise, see `ready`."""
        self._open = True
        await asyncio.wait([self._fly()])
        if self._refresh_seconds > 0:
            self._refresher = asyncio.create_task(self._refresh(), name="jwks-refresh")

    async def close(self) -> None:
        """Ends the refreshing and the fetch in flight. Keys already fetched can still be found."""
        self._open = False
        tasks = [task for task in (self._refresher, self._flight) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def find(self, kid: str | None) -> PublicKey | None:
        """The key with this id in memory, or None. Without an id: the only key there is, or None."""
        return self._keys.find(kid) if self._keys else None

    async def lookup(self, kid: str | None) -> PublicKey | None:
        """Like `find`, after a fetch if the key is unknown and none was made for that in the last 30 seconds.

        Callers share a fetch that is under way; cancelling one of them leaves it to the others.
        Raises `KeysUnavailable` when there is still no key set at all.
        """
        if (key := self.find(kid)) is not None:
            return key
        await self._ask(kid)
        if self._keys is None:
            raise KeysUnavailable
        return self.find(kid)

    async def _ask(self, kid: str | None) -> None:
        if not self._flying:
            # A newer set cannot tell which key a token without an id means.
            pointless = not self._open or (kid is None and self.ready)
            if pointless or self._clock() - self._asked_at < UNKNOWN_KEY_SECONDS:
                return
            self._asked_at = self._clock()
        # `wait`, because it neither cancels the fetch with its caller nor the caller with the fetch.
        await asyncio.wait([self._fly()])

    @property
    def _flying(self) -> bool:
        return self._flight is not None and not self._flight.done()

    def _fly(self) -> asyncio.Task[None]:
        if self._flight is None or self._flight.done():
            self._flight = asyncio.create_task(self._fetch(), name="jwks-fetch")
        return self._flight

    async def _fetch(self) -> None:
        self.fetches += 1
        _fetches.inc()
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                found = await asyncio.to_thread(self._load)
        except (OSError, http.client.HTTPException, ValueError, KeysInvalid) as error:
            self._fail(error)
        else:
            self._accept(found)

    def _load(self) -> tuple[Version, KeySet] | None:
        found = self._read(self._version)
        return found and (found[0], KeySet(found[1], self._algorithm))

    def _fail(self, error: Exception) -> None:
        self.failures += 1
        self._failed_in_a_row += 1
        _failures.inc()
        _log.warning(
            "jwks_fetch_failed",
            setting=JWKS_SETTING,
            place=self._place,
            reason=_reason(error),
            in_a_row=self._failed_in_a_row,
            keys_kept=self.ready,
        )

    def _accept(self, found: tuple[Version, KeySet] | None) -> None:
        self._failed_in_a_row = 0
        if found is not None:
            self._version, self._keys = found
            _keys.set(self._keys.size)
            _skipped.set(self._keys.skipped)

    async def _refresh(self) -> None:
        while True:
            await asyncio.sleep(self._pause())
            await asyncio.wait([self._fly()])

    def _pause(self) -> float:
        pause = self._refresh_seconds
        if self._failed_in_a_row:
            pause = min(pause, MAX_RETRY_SECONDS, RETRY_SECONDS * 2 ** min(self._failed_in_a_row - 1, 16))
        # 80 to 120 %: gateways that started together do not ask together for ever.
        return pause * (0.8 + 0.4 * self._chance())


async def identify(token: str, keys: Keys, policy: Policy, now: Callable[[], float]) -> Identity:
    """`verify`, and once more if the key was unknown and a `JwksSource` then fetched it (after a rotation).
    `now` gives the time in epoch seconds: while keys are fetched a token may expire.

    Raises `Unauthorized`, or `KeysUnavailable` when no key set could be fetched so far.
    """
    try:
        return verify(token, keys, policy, now())
    except UnknownKey as unknown:
        if not isinstance(keys, JwksSource) or await keys.lookup(unknown.kid) is None:
            raise
    return verify(token, keys, policy, now())


def _reader(location: str) -> Reader:
    if not _SCHEME.match(location):
        return functools.partial(_read_file, location)
    if not _is_fetchable(location):
        raise Misconfigured(JWKS_SETTING, "must be a file path or an http(s) URL without a password.")
    return _Download(location)


def _place(location: str) -> str:
    """Where the keys are, for the log: a path, or an address without its query, which may hold a secret."""
    return location.partition("?")[0].partition("#")[0] if _SCHEME.match(location) else location


def _reason(error: Exception) -> str:
    if isinstance(error, KeysInvalid):
        return error.message
    told = getattr(error, "strerror", None) or getattr(getattr(error, "reason", None), "strerror", None)
    return f"{type(error).__name__}: {told}" if told else type(error).__name__


def _is_fetchable(url: str) -> bool:
    try:
        parts = urlsplit(url)
        named = bool(parts.hostname) and "@" not in parts.netloc and parts.port != 0
    except ValueError:
        return False
    return named and parts.scheme in {"http", "https"} and re.fullmatch("[!-~]+", url) is not None


def _read_file(path: str, seen: Version | None) -> tuple[Version, bytes] | None:
    """The file and its version, or None when it still is the version `seen`."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise KeysInvalid("The path is not a file.")
    version = (status.st_mtime_ns, status.st_size, status.st_ino)
    if version == seen:
        return None
    with open(path, "rb") as file:
        return version, file.read(MAX_DOCUMENT_BYTES + 1)


class _Download:
    """Gets a document over HTTP. It knows no redirects, so it never leaves the host it was given."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._busy = threading.Lock()
        self._opener = urllib.request.OpenerDirector()
        self._opener.addheaders = [
            ("User-Agent", "carillon"),
            ("Accept", "application/jwk-set+json, application/json"),
        ]
        for handler in _HANDLERS:
            self._opener.add_handler(handler())

    def __call__(self, seen: Version | None) -> tuple[Version, bytes]:  # noqa: ARG002 - always read again
        # A server that drips its headers holds this thread past the deadline: one thread, never a second.
        if not self._busy.acquire(blocking=False):
            raise KeysInvalid("The fetch before this one still hangs.")
        try:
            return (), self._get()
        except urllib.error.HTTPError as error:
            error.close()
            raise KeysInvalid(f"The server answered {error.code}.") from None
        finally:
            self._busy.release()

    def _get(self) -> bytes:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        document = bytearray()
        with self._opener.open(self._url, timeout=TIMEOUT_SECONDS) as response:
            # One byte more than allowed tells a document that is too long from one that just fits.
            while chunk := response.read1(MAX_DOCUMENT_BYTES + 1 - len(document)):
                document += chunk
                if time.monotonic() > deadline:
                    raise TimeoutError
        return bytes(document)
