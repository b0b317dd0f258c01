"""services/gateway/keys.py, against a real HTTP server on loopback and real files."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import os
import threading
from typing import TYPE_CHECKING, Literal

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from services.gateway import keys as keys_module
from services.gateway.auth import Identity, Misconfigured, Unauthorized, UnknownKey, verify
from services.gateway.keys import JwksSource, KeysUnavailable, identify
from services.gateway.keyset import KeySet, SharedSecret
from tests.services.gateway.tokens import NOW, SECRET, hs_token, jwks, policy, signing_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

OLD, NEW = signing_key("ES256", "old"), signing_key("ES256", "new")
RULES = policy("ES256")


class IssuerServer(http.server.ThreadingHTTPServer):
    """An issuer's key endpoint: what it answers can be set, and a cleared `gate` holds answers back."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Endpoint)
        self.document = jwks(OLD)
        self.status = 200
        self.location: str | None = None
        self.hits: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.drips: Literal["", "head", "body"] = ""
        self.drop = b" "
        self.sent = 0

    @property
    def url(self) -> str:
        """Where the keys are."""
        return f"http://127.0.0.1:{self.server_port}/keys"


class _Endpoint(http.server.BaseHTTPRequestHandler):
    server: IssuerServer

    def do_GET(self) -> None:
        self.server.hits.append(self.path)
        if self.server.drips:
            self._drip()
        else:
            self._answer()

    def _answer(self) -> None:
        self.server.gate.wait(10)
        self.send_response(self.server.status)
        if self.server.location:
            self.send_header("Location", self.server.location)
        self.send_header("Content-Length", str(len(self.server.document)))
        self.end_headers()
        with contextlib.suppress(OSError):  # who reads only the beginning hangs up
            self.wfile.write(self.server.document)

    def _drip(self) -> None:
        """Sends drop after drop, each well before any timeout, until the gate is set."""
        self.wfile.write(b"HTTP/1.0 200 OK\r\n" + (b"\r\n" if self.server.drips == "body" else b"X-Drip: "))
        with contextlib.suppress(OSError):
            while not self.server.gate.wait(0.01):
                self.server.sent += self.wfile.write(self.server.drop)

    def log_message(self, *_: object) -> None:
        pass


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def issuer() -> Iterator[IssuerServer]:
    """A running key endpoint that publishes OLD."""
    server = IssuerServer()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.gate.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def clock() -> Clock:
    """The clock of a source under test."""
    return Clock()


def source_at(location: str, clock: Clock, refresh_seconds: float = 0) -> JwksSource:
    """A source that refreshes only when told to."""
    return JwksSource(location, "ES256", clock=clock, refresh_seconds=refresh_seconds, chance=lambda: 0.0)


async def eventually(condition: Callable[[], object]) -> None:
    """Waits until the condition holds; ten seconds at most."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - a condition in a thread has no event
            await asyncio.sleep(0.005)


def at_now() -> float:
    """The time does not pass."""
    return NOW


async def code_of(token: str, source: JwksSource) -> str:
    """The code of the refusal of this token."""
    with pytest.raises(Unauthorized) as refused:
        await identify(token, source, RULES, at_now)
    return refused.value.code


# --- fetching


async def test_a_known_key_is_found_without_waiting(issuer: IssuerServer, clock: Clock) -> None:
    """After the start a token is verified from memory."""
    async with source_at(issuer.url, clock) as source:
        assert verify(OLD.token(), source, RULES, NOW).user == "alice"
        assert (await identify(OLD.token(), source, RULES, at_now)).user == "alice"

        assert (source.ready, source.fetches, source.failures) == (True, 1, 0)
    assert issuer.hits == ["/keys"]


async def test_a_rotated_key_is_accepted_after_one_fetch(issuer: IssuerServer, clock: Clock) -> None:
    """The first token with the new kid fetches once; the key that is gone is refused from then on."""
    async with source_at(issuer.url, clock) as source:
        issuer.document = jwks(NEW)

        with pytest.raises(UnknownKey):
            verify(NEW.token(), source, RULES, NOW)
        assert (await identify(NEW.token(), source, RULES, at_now)).user == "alice"
        assert verify(NEW.token(), source, RULES, NOW).user == "alice"
        assert await code_of(OLD.token(), source) == "token_invalid"

        assert len(issuer.hits) == 2


async def test_a_flood_of_unknown_kids_fetches_once_in_thirty_seconds(
    issuer: IssuerServer, clock: Clock
) -> None:
    """However many strangers knock, the issuer hears of it once in 30 seconds."""
    forgeries = [OLD.token(header={"kid": f"kid-{number}"}) for number in range(200)]
    async with source_at(issuer.url, clock) as source:
        codes = await asyncio.gather(*(code_of(token, source) for token in forgeries))
        assert set(codes) == {"token_invalid"}
        assert len(issuer.hits) == 2

        clock.now += 29.9
        assert await code_of(forgeries[0], source) == "token_invalid"
        assert len(issuer.hits) == 2

        clock.now += 0.1
        codes = [await code_of(token, source) for token in forgeries]
        assert set(codes) == {"token_invalid"}
        assert len(issuer.hits) == source.fetches == 3


async def test_waiting_callers_share_a_fetch_and_leave_it_to_each_other(
    issuer: IssuerServer, clock: Clock
) -> None:
    """A cancelled caller takes nothing from the others."""
    async with source_at(issuer.url, clock) as source:
        issuer.document = jwks(OLD, NEW)
        issuer.gate.clear()
        callers = [asyncio.create_task(source.lookup("new")) for _ in range(10)]
        await eventually(lambda: len(issuer.hits) == 2)

        for caller in callers[:5]:
            caller.cancel()
        await asyncio.wait(callers[:5])
        issuer.gate.set()
        found = await asyncio.gather(*callers[5:])

        assert all(caller.cancelled() for caller in callers[:5])
        assert found == [source.find("new")] * 5
        assert None not in found
        assert len(issuer.hits) == 2


async def test_a_token_without_a_kid_does_not_fetch(issuer: IssuerServer, clock: Clock) -> None:
    """A newer set cannot tell which of two keys is meant."""
    issuer.document = jwks(OLD, NEW)
    async with source_at(issuer.url, clock) as source:
        assert await source.lookup(None) is None
        assert len(issuer.hits) == 1


async def test_a_shared_secret_needs_no_fetch() -> None:
    """`identify` takes any keys, whether they can be fetched or not."""
    assert (await identify(hs_token(), SharedSecret(SECRET), policy(), at_now)).user == "alice"
    with pytest.raises(UnknownKey):
        await identify(NEW.token(), KeySet(jwks(OLD), "ES256"), RULES, at_now)


# --- failing


@pytest.mark.parametrize(
    ("status", "document"),
    [
        (500, jwks(NEW)),
        (404, b"not here"),
        (304, b""),
        (200, b"<html>maintenance</html>"),
        (200, b'{"keys":[]}'),
        (200, jwks(signing_key("RS256", "new"))),
        (200, jwks(NEW) + b" " * 300_000),
        (200, b'{"keys":[' + b" " * 5_000_000 + b"]}"),
    ],
    ids=lambda value: str(value)[:20],
)
async def test_a_bad_answer_keeps_the_old_keys(
    issuer: IssuerServer, clock: Clock, status: int, document: bytes
) -> None:
    """An error, a document that is no key set, or one that is too long changes nothing."""
    async with source_at(issuer.url, clock) as source:
        issuer.status, issuer.document = status, document

        assert await code_of(NEW.token(), source) == "token_invalid"
        assert verify(OLD.token(), source, RULES, NOW).user == "alice"
        assert (source.fetches, source.failures) == (2, 1)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(issuer: IssuerServer, clock: Clock, status: int) -> None:
    """Only the configured URL is ever asked."""
    async with source_at(issuer.url, clock) as source:
        issuer.document, issuer.status, issuer.location = jwks(NEW), status, "/elsewhere"

        assert await code_of(NEW.token(), source) == "token_invalid"
        assert issuer.hits == ["/keys", "/keys"]
        assert source.failures == 1


async def test_a_token_that_expires_while_keys_are_fetched_is_refused(
    issuer: IssuerServer, clock: Clock
) -> None:
    """It is good or not at the moment at which that is said."""
    async with source_at(issuer.url, clock) as source:
        issuer.document = jwks(NEW)
        times = iter([NOW, NOW + 1e9])

        with pytest.raises(Unauthorized) as refused:
            await identify(NEW.token(), source, RULES, lambda: next(times))
        assert refused.value.code == "token_expired"


async def test_an_issuer_that_is_down_keeps_the_old_keys(issuer: IssuerServer, clock: Clock) -> None:
    """Known users get in while the issuer is away, and new keys once it is back."""
    async with source_at(issuer.url, clock) as source:
        issuer.status = 503
        assert await code_of(NEW.token(), source) == "token_invalid"
        assert verify(OLD.token(), source, RULES, NOW).user == "alice"

        issuer.status, issuer.document = 200, jwks(NEW)
        clock.now += 30
        assert (await identify(NEW.token(), source, RULES, at_now)).user == "alice"


async def test_before_the_first_fetch_nobody_can_be_told(issuer: IssuerServer, clock: Clock) -> None:
    """Without any keys a token is neither good nor bad: unavailable. The start does not fail."""
    issuer.status = 503
    async with source_at(issuer.url, clock) as source:
        with pytest.raises(KeysUnavailable) as refused:
            await identify(OLD.token(), source, RULES, at_now)
        assert refused.value.code == "unavailable"
        assert not source.ready

        issuer.status = 200
        with pytest.raises(KeysUnavailable):
            await identify(OLD.token(), source, RULES, at_now)
        clock.now += 30
        assert (await identify(OLD.token(), source, RULES, at_now)).user == "alice"
        assert len(issuer.hits) == 3


async def test_nobody_listens(clock: Clock) -> None:
    """A refused connection is a failed fetch."""
    async with source_at("http://127.0.0.1:1/keys", clock) as source:
        assert (source.ready, source.failures) == (False, 1)


async def test_a_fetch_has_a_deadline(
    issuer: IssuerServer, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An issuer that does not answer fails the fetch."""
    monkeypatch.setattr(keys_module, "TIMEOUT_SECONDS", 0.2)
    issuer.gate.clear()
    async with source_at(issuer.url, clock) as source:
        assert (source.ready, source.failures) == (False, 1)
        issuer.gate.set()
        await ready_in_time(source, clock)


async def test_a_dripping_head_holds_one_thread_at_most(
    issuer: IssuerServer, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a fetch hangs in its thread, the next one fails at once and asks nobody."""
    monkeypatch.setattr(keys_module, "TIMEOUT_SECONDS", 0.2)
    issuer.gate.clear()
    issuer.drips = "head"
    async with source_at(issuer.url, clock) as source:
        for _ in range(3):
            clock.now += 30
            with pytest.raises(KeysUnavailable):
                await source.lookup("old")
        assert (source.failures, len(issuer.hits)) == (4, 1)

        issuer.drips = ""
        issuer.gate.set()
        await ready_in_time(source, clock)


async def test_a_dripping_body_is_given_up(
    issuer: IssuerServer, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deadline is for the whole body, so the thread is free again while the server still drips."""
    monkeypatch.setattr(keys_module, "TIMEOUT_SECONDS", 0.2)
    issuer.gate.clear()
    issuer.drips = "body"
    async with source_at(issuer.url, clock) as source:
        assert source.failures == 1
        issuer.drips = ""
        before = len(issuer.hits)
        async with asyncio.timeout(10):
            while len(issuer.hits) == before:
                clock.now += 30
                with contextlib.suppress(KeysUnavailable):
                    await source.lookup("old")
        assert not issuer.gate.is_set()


async def test_an_endless_body_is_read_to_the_limit_only(issuer: IssuerServer, clock: Clock) -> None:
    """What is longer than 256 KiB is hung up on, not collected until the deadline."""
    issuer.gate.clear()
    issuer.drips, issuer.drop = "body", b" " * 65_536
    async with source_at(issuer.url, clock) as source:
        assert source.failures == 1

    assert issuer.sent < 8 * 2**20


async def ready_in_time(source: JwksSource, clock: Clock) -> None:
    """Asks again every half minute of the clock until there are keys."""
    async with asyncio.timeout(10):
        while not source.ready:
            clock.now += 30
            with contextlib.suppress(KeysUnavailable):
                await source.lookup("old")


# --- refreshing


async def test_keys_are_refreshed_by_themselves(issuer: IssuerServer, clock: Clock) -> None:
    """A rotation is seen without any token asking for it."""
    async with source_at(issuer.url, clock, refresh_seconds=0.02) as source:
        issuer.document = jwks(NEW)
        await eventually(lambda: source.find("new"))

        assert source.find("old") is None


async def test_a_failed_start_is_tried_again(issuer: IssuerServer, clock: Clock) -> None:
    """Without keys the source goes on asking."""
    issuer.status = 500
    async with source_at(issuer.url, clock, refresh_seconds=0.02) as source:
        await eventually(lambda: source.failures > 2)
        issuer.status = 200
        await eventually(lambda: source.ready)


@pytest.mark.parametrize(
    ("failed_in_a_row", "chance", "pause"),
    [(0, 0.0, 240), (0, 1.0, 360), (1, 0.5, 5), (2, 0.5, 10), (3, 0.5, 20), (4, 0.5, 30), (10_000, 0.5, 30)],
)
def test_the_pause_is_jittered_and_shorter_after_failures(
    failed_in_a_row: int, chance: float, pause: float
) -> None:
    """Five minutes give or take a fifth; 5 seconds doubling to 30 after failures."""
    source = JwksSource("/keys.json", "ES256", chance=lambda: chance)
    source._failed_in_a_row = failed_in_a_row

    assert source._pause() == pytest.approx(pause)


async def test_a_success_ends_the_hurry(issuer: IssuerServer, clock: Clock) -> None:
    """After a fetch that went well the pause is the usual one again."""
    issuer.status = 500
    async with source_at(issuer.url, clock, refresh_seconds=300) as source:
        assert source._pause() == pytest.approx(4)
        issuer.status = 200
        await source.lookup("old")
        assert source._pause() == pytest.approx(240)


async def test_closing_ends_every_task(issuer: IssuerServer, clock: Clock) -> None:
    """Nothing of a closed source runs, callers in wait get their answer, and it fetches no more."""
    source = source_at(issuer.url, clock, refresh_seconds=300)
    await source.start()
    issuer.gate.clear()
    waiting = asyncio.create_task(source.lookup("new"))
    await eventually(lambda: len(issuer.hits) == 2)

    await source.close()
    issuer.gate.set()
    assert await waiting is None
    clock.now += 30
    assert await source.lookup("new") is None

    assert source.find("old") is not None
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("jwks")]
    assert len(issuer.hits) == 2


# --- files


async def test_a_file_is_read_again_when_it_changed(tmp_path: Path, clock: Clock) -> None:
    """A new kid makes it look, and a look at an unchanged file reads nothing."""
    path = tmp_path / "keys.json"
    path.write_bytes(jwks(OLD))
    async with source_at(str(path), clock) as source:
        before = source.find("old")
        assert await source.lookup("new") is None
        assert source.find("old") is before

        replacement = tmp_path / "replacement.json"
        replacement.write_bytes(jwks(OLD, NEW))
        os.replace(replacement, path)
        clock.now += 30
        assert (await identify(NEW.token(), source, RULES, at_now)).user == "alice"
        assert (source.fetches, source.failures) == (3, 0)


async def test_a_replaced_file_may_look_the_same(tmp_path: Path, clock: Clock) -> None:
    """Another file of equal size and time at the same path is a change."""
    path, replacement = tmp_path / "keys.json", tmp_path / "replacement.json"
    path.write_bytes(jwks(OLD))
    replacement.write_bytes(jwks(NEW))
    before = path.stat()
    os.utime(replacement, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert replacement.stat().st_size == before.st_size
    async with source_at(str(path), clock) as source:
        os.replace(replacement, path)

        assert await source.lookup("new") is not None


async def test_a_broken_file_keeps_the_old_keys_until_it_is_whole(tmp_path: Path, clock: Clock) -> None:
    """A file caught half written is read again though it did not change since."""
    path = tmp_path / "keys.json"
    path.write_bytes(jwks(OLD))
    async with source_at(str(path), clock, refresh_seconds=0.02) as source:
        path.write_bytes(jwks(NEW)[:-5])
        await eventually(lambda: source.failures > 1)
        assert source.find("old") is not None

        path.write_bytes(jwks(NEW))
        await eventually(lambda: source.find("new"))
        path.unlink()
        failures = source.failures
        await eventually(lambda: source.failures > failures)
        assert source.find("new") is not None


async def test_only_a_regular_file_of_sane_size_is_read(tmp_path: Path, clock: Clock) -> None:
    """A folder, a pipe without a writer, a missing or a huge file fail without hanging."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "huge").write_bytes(jwks(OLD) + b" " * 300_000)
    for name in (".", "pipe", "missing", "huge"):
        async with source_at(str(tmp_path / name), clock) as source:
            assert (source.ready, source.failures) == (False, 1)


# --- configuration


@pytest.mark.parametrize(
    "location",
    [
        "file:///etc/passwd",
        "ftp://issuer.example/keys",
        "data:application/json,{}",
        "gopher://x/",
        "http:",
        "https://",
        "http:///keys",
        "https://user:secret@issuer.example/keys",
        "https://user@issuer.example/keys",
        "https://issuer.example:99999/keys",
        "https://issuer.example:port/keys",
        "https://[::1/keys",
        "https://issuer.example/k ys",
        "https://issuer.example/\r\nX: y",
        "https://issüer.example/keys",
    ],
)
def test_other_locations_are_refused(location: str) -> None:
    """Only paths and plain http(s) URLs; the refusal names the setting and not the value."""
    with pytest.raises(Misconfigured, match=r"^CARILLON_AUTH_JWKS ") as refused:
        JwksSource(location, "RS256")

    assert location not in str(refused.value)


def test_a_key_set_is_not_for_secrets() -> None:
    """HS256 has no public keys."""
    with pytest.raises(Misconfigured, match="CARILLON_AUTH_JWKS"):
        JwksSource("/keys.json", "HS256")


async def test_fetches_and_keys_are_metrics(issuer: IssuerServer, clock: Clock) -> None:
    """What the source does can be watched."""

    def sample(name: str) -> float:
        return REGISTRY.get_sample_value(f"carillon_gateway_jwks_{name}") or 0.0

    fetches, failures = sample("fetches_total"), sample("failures_total")
    issuer.document = jwks(OLD, NEW, signing_key("RS256"))
    async with source_at(issuer.url, clock) as source:
        issuer.status = 500
        await source.lookup("other")

    assert sample("fetches_total") - fetches == 2
    assert sample("failures_total") - failures == 1
    assert (sample("keys"), sample("skipped_keys")) == (2, 1)


async def test_two_sources_keep_their_keys_apart(tmp_path: Path, clock: Clock) -> None:
    """The same kid of two issuers names two keys."""
    theirs = signing_key("ES256", "old", of="https://other.example")
    for name, key in (("ours", OLD), ("theirs", theirs)):
        (tmp_path / name).write_bytes(jwks(key))
    async with (
        source_at(str(tmp_path / "ours"), clock) as ours,
        source_at(str(tmp_path / "theirs"), clock) as others,
    ):
        assert isinstance(await identify(theirs.token(), others, RULES, at_now), Identity)
        assert await code_of(theirs.token(), ours) == "token_invalid"


async def test_what_cannot_be_had_is_named_in_the_log(tmp_path: Path, issuer: IssuerServer) -> None:
    """The path of a file and why; an address without its query, which may hold a secret."""
    missing = str(tmp_path / "keys.json")
    with capture_logs() as lines:
        for location in (missing, issuer.url.replace("/keys", "/other?token=of-ours")):
            issuer.status = 404
            async with JwksSource(location, "RS256"):
                pass

    told = [(line["setting"], line["place"], line["reason"]) for line in lines]
    assert told == [
        ("CARILLON_AUTH_JWKS", missing, "FileNotFoundError: No such file or directory"),
        ("CARILLON_AUTH_JWKS", issuer.url.replace("/keys", "/other"), "The server answered 404."),
    ]
