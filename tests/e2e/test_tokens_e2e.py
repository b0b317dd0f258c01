"""Who is let in: tokens of every kind, in every place a client may carry them, against running gateways."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import http.server
import threading
import time
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import pytest

from tests.services.gateway.tokens import (
    ABSENT,
    AUDIENCE,
    ISSUER,
    claims,
    compact,
    encode_segment,
    hs_token,
    jwks,
    signing_key,
)
from tests.support.orders_stream import stores
from tests.support.ports import free_port
from tests.support.raw_http import assert_refused, request, send
from tests.support.stack import SECRET, Stack
from tests.support.ws import WsClient

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from services.gateway.auth import Algorithm
    from tests.support.raw_http import RawAnswer
    from tests.support.stack import Gateway

PUBLIC: Final[tuple[Algorithm, ...]] = ("RS256", "ES256", "EdDSA")


def now() -> float:
    """The gateways' clock."""
    return time.time()


def later() -> int:
    """A day ahead: cases are made when tests are collected, and run whenever their turn comes."""
    return int(now()) + 86_400


def hs(**changes: object) -> str:
    """Alice's token for a day, signed with the shared secret, with changes."""
    return hs_token(claims({"exp": later()} | changes, now=now()), secret=SECRET)


def with_header(**header: object) -> str:
    """As `hs`, with changes to the header."""
    return hs_token(claims(now=now()), secret=SECRET, header=header)


def unsigned(algorithm: str, signature: bytes = b"") -> str:
    """A token whose header names an algorithm that proves nothing."""
    signed = hs_token(claims(now=now()), secret=SECRET, header={"alg": algorithm}).rpartition(".")[0]
    return compact(signed.encode(), signature)


def refused_tokens() -> dict[str, tuple[str, str]]:
    """What may not pass a gateway that expects HS256, ISSUER and AUDIENCE, with the code it is told."""
    header, payload, signature = hs().split(".")
    return {
        "expired": (hs(exp=int(now()) - 60), "token_expired"),
        "expired long ago": (hs(exp=1), "token_expired"),
        "expired before the epoch": (hs(exp=-1), "token_expired"),
        "no exp": (hs(exp=ABSENT), "token_invalid"),
        "exp as text": (hs(exp=str(int(now()) + 300)), "token_invalid"),
        "exp out of range": (hs_token(b'{"sub":"alice","exp":1e400}', secret=SECRET), "token_invalid"),
        "exp in milliseconds": (hs(exp=int(now() * 1000)), "token_invalid"),
        "exp null": (hs(exp=None), "token_invalid"),
        "exp true": (hs(exp=True), "token_invalid"),
        "nbf in the future": (hs(nbf=later()), "token_invalid"),
        "iat in the future": (hs(iat=later()), "token_invalid"),
        "alg none": (unsigned("none"), "token_invalid"),
        "alg none with a signature": (unsigned("none", b"x"), "token_invalid"),
        "alg None": (unsigned("None", b"x"), "token_invalid"),
        "alg NONE": (unsigned("NONE", b"x"), "token_invalid"),
        "alg hs256": (with_header(alg="hs256"), "token_invalid"),
        "alg HS512": (with_header(alg="HS512"), "token_invalid"),
        "alg RS256": (with_header(alg="RS256"), "token_invalid"),
        "alg missing": (with_header(alg=ABSENT), "token_invalid"),
        "alg null": (with_header(alg=None), "token_invalid"),
        "alg twice": (
            hs_token(claims(now=now()), secret=SECRET, header=b'{"alg":"HS256","alg":"HS256"}'),
            "token_invalid",
        ),
        "a critical extension": (with_header(crit=["exp"]), "token_invalid"),
        "b64 false": (with_header(b64=False), "token_invalid"),
        "a kid of 10,000 characters": (with_header(kid="k" * 2000), "token_invalid"),
        "a kid that is a number": (with_header(kid=7), "token_invalid"),
        "another secret": (hs_token(claims(now=now()), secret="x" * 32), "token_invalid"),
        "an empty secret": (hs_token(claims(now=now()), secret=""), "token_invalid"),
        "a key of its own": (signing_key("RS256").token(claims(now=now())), "token_invalid"),
        "another issuer": (hs(iss="https://evil.example"), "token_invalid"),
        "the issuer with a slash": (hs(iss=ISSUER + "/"), "token_invalid"),
        "no issuer": (hs(iss=ABSENT), "token_invalid"),
        "issuers": (hs(iss=[ISSUER]), "token_invalid"),
        "another audience": (hs(aud="other"), "token_invalid"),
        "other audiences": (hs(aud=["other", "carillo", AUDIENCE + "x"]), "token_invalid"),
        "no audience": (hs(aud=ABSENT), "token_invalid"),
        "an empty audience": (hs(aud=[]), "token_invalid"),
        "no subject": (hs(sub=ABSENT), "token_invalid"),
        "an empty subject": (hs(sub=""), "token_invalid"),
        "a subject that is a number": (hs(sub=7), "token_invalid"),
        "sub twice": (hs_token(b'{"sub":"alice","sub":"bob","exp":9e9}', secret=SECRET), "token_invalid"),
        "a payload that is an array": (hs_token(b"[]", secret=SECRET), "token_invalid"),
        "a payload of 1,500 levels": (hs_token(b"[" * 1500, secret=SECRET), "token_invalid"),
        "invalid UTF-8 in the payload": (hs_token(b'{"sub":"\xff"}', secret=SECRET), "token_invalid"),
        "one segment": (header, "token_invalid"),
        "two segments": (f"{header}.{payload}", "token_invalid"),
        "no signature": (f"{header}.{payload}.", "token_invalid"),
        "four segments": (f"{header}.{payload}.{signature}.{signature}", "token_invalid"),
        "five segments": (f"{header}.{payload}.{signature}.a.b", "token_invalid"),
        "no header": (f".{payload}.{signature}", "token_invalid"),
        "no payload": (f"{header}..{signature}", "token_invalid"),
        "its last character missing": (hs()[:-1], "token_invalid"),
        "its first character missing": (hs()[1:], "token_invalid"),
        "half of it": (hs()[: len(hs()) // 2], "token_invalid"),
        "a changed payload": (
            f"{header}.{encode_segment(b'{}')}.{signature}",
            "token_invalid",
        ),
        "padding": (f"{header}.{payload}.{signature}=", "token_invalid"),
        "garbage": ("garbage", "token_invalid"),
        "dots": ("..", "token_invalid"),
        "oversized": (hs(name="x", pad="x" * 9000), "token_invalid"),
        "oversized garbage": ("a" * 16_384, "token_invalid"),
    }


REFUSED: Final = refused_tokens()


@pytest.fixture(scope="module")
def strict() -> Iterator[Stack]:
    """A stack that demands an issuer and an audience; tests add gateways with public keys to it."""
    with Stack(AUTH_ISSUER=ISSUER, AUTH_AUDIENCE=AUDIENCE) as running:
        yield running


@pytest.fixture(scope="module")
def public(strict: Stack, tmp_path_factory: pytest.TempPathFactory) -> dict[Algorithm, Gateway]:
    """A gateway for each algorithm with public keys, its key set in a file."""
    gateways = {}
    for algorithm in PUBLIC:
        path = tmp_path_factory.mktemp("keys") / "jwks.json"
        path.write_bytes(jwks(signing_key(algorithm)))
        gateways[algorithm] = strict.new_gateway(AUTH_ALGORITHM=algorithm, AUTH_JWKS=str(path))
        strict.gateways.append(gateways[algorithm])
    for gateway in gateways.values():
        gateway.wait_ready()
    return gateways


async def carried(url: str, token: str, place: str, path: str = "/api/orders") -> RawAnswer:
    """GET with the token in the header, cookie or query."""
    if place == "query":
        return await send(url, request("GET", f"{path}?token={quote(token, safe='')}"))
    header = f"Authorization: Bearer {token}" if place == "header" else f"Cookie: carillon_token={token}"
    return await send(url, request("GET", path, header))


async def status_of(gateway: Gateway, token: str) -> int:
    """How a gateway answers a token."""
    return (await carried(gateway.url, token, "header")).status


@pytest.mark.parametrize("place", ["header", "cookie", "query"])
async def test_a_good_token_is_accepted_wherever_it_is_carried(strict: Stack, place: str) -> None:
    """On the API; on a stream it reaches the order, which is not there."""
    for good in (hs(), hs(aud=[AUDIENCE, "other"]), hs(exp=now() + 60.5), hs(exp=int(now()) - 1)):
        assert (await carried(strict.gateways[0].url, good, place)).status == 200
    missing = await carried(strict.gateways[0].url, hs(), place, "/api/orders/x/stream")
    assert_refused(missing, 404, "not_found")


@pytest.mark.parametrize("place", ["header", "cookie", "query"])
@pytest.mark.parametrize(("token", "code"), REFUSED.values(), ids=REFUSED)
async def test_any_other_token_is_refused(strict: Stack, token: str, code: str, place: str) -> None:
    """401 on the API and before a stream, with the code that says whether a new token helps."""
    for path in ("/api/orders", "/api/orders/x/stream"):
        answer = await carried(strict.gateways[0].url, token, place, path)
        assert_refused(answer, 401, code)
        assert answer.header("www-authenticate") == "Bearer"


@pytest.mark.parametrize(
    "headers",
    [
        [],
        ["Authorization:"],
        ["Authorization: Bearer"],
        ["Authorization: Bearer "],
        ["Authorization: Basic YWxpY2U6c2VjcmV0"],
        [f"Authorization: {hs()}"],
        [f"Authorization: Token {hs()}"],
        ["Cookie: carillon_token="],
        [f"Cookie: other={hs()}"],
        [f"Cookie: Carillon_Token={hs()}"],
        [f"X-Authorization: Bearer {hs()}"],
    ],
    ids=lambda headers: str(headers)[:40],
)
async def test_no_token_is_told_so(strict: Stack, headers: list[str]) -> None:
    """401 token_missing on every endpoint, before anything of the request is read."""
    url = strict.gateways[0].url
    async with stores(strict, 0):
        for method, path in (
            ("GET", "/api/orders"),
            ("GET", "/api/orders/x"),
            ("GET", "/api/orders/x/stream"),
            ("POST", "/api/orders"),
            ("POST", "/api/orders/x/status"),
        ):
            body = b"not json" if method == "POST" else None
            answer = await send(url, request(method, path, *headers, body=body))
            assert_refused(answer, 401, "token_missing")


@pytest.mark.parametrize(
    "headers",
    [
        [f"Authorization: Bearer {hs()}", f"Authorization: Bearer {hs(sub='bob')}"],
        [f"Authorization: Bearer {hs()}", f"Authorization: Bearer {hs()}"],
        [f"Authorization: Bearer {hs()}", "Authorization: Basic YTpi"],
        [f"Authorization: Bearer {hs()}, Bearer {hs()}"],
        [f"Authorization: Bearer {hs()} {hs()}"],
        [f"Cookie: carillon_token={hs()}; carillon_token={hs(sub='bob')}"],
        [f"Cookie: carillon_token={hs()}", f"Cookie: carillon_token={hs(sub='bob')}"],
        [f'Cookie: carillon_token="{hs()}"'],
    ],
    ids=lambda headers: str(headers)[:25],
)
async def test_two_tokens_in_one_place_are_none(strict: Stack, headers: list[str]) -> None:
    """Nobody guesses which one was meant."""
    answer = await send(strict.gateways[0].url, request("GET", "/api/orders", *headers))

    assert_refused(answer, 401, "token_invalid")


async def test_a_token_for_an_audience_is_refused_where_none_is_configured(stack: Stack) -> None:
    """It was meant for somebody else (RFC 7519, section 4.1.3); any issuer will do there."""
    url = stack.gateways[0].url
    assert_refused(await carried(url, hs(), "header"), 401, "token_invalid")
    assert (await carried(url, hs(aud=ABSENT), "header")).status == 200


async def test_two_tokens_in_the_query_are_none(strict: Stack) -> None:
    """As above."""
    sent = request("GET", f"/api/orders?token={hs()}&token={hs()}")

    assert_refused(await send(strict.gateways[0].url, sent), 401, "token_invalid")


async def test_the_header_decides_before_cookie_and_query(strict: Stack) -> None:
    """A bad token in the deciding place is not replaced by a good one elsewhere."""
    url, bad = strict.gateways[0].url, hs(exp=1)
    for sent in (
        request(
            "GET",
            f"/api/orders?token={hs()}",
            f"Authorization: Bearer {bad}",
            f"Cookie: carillon_token={hs()}",
        ),
        request("GET", f"/api/orders?token={hs()}", f"Cookie: carillon_token={bad}"),
    ):
        assert_refused(await send(url, sent), 401, "token_expired")


@pytest.mark.parametrize(
    ("scope", "reads", "writes"),
    [
        ("orders:read orders:write", 200, 201),
        (["orders:read", "orders:write"], 200, 201),
        ("orders:read", 200, 403),
        ("orders:write", 403, 201),
        ("", 403, 403),
        ("orders", 403, 403),
        ("orders:*", 403, 403),
        ("orders:read,orders:write", 403, 403),
        ("Orders:Read", 403, 403),
        ("orders:reader", 403, 403),
        ("staff", 403, 403),
        (["orders:read orders:write"], 403, 403),
    ],
    ids=str,
)
async def test_a_scope_that_is_missing_is_forbidden(
    strict: Stack, scope: object, reads: int, writes: int
) -> None:
    """403 on reads, streams and writes; a refused write stores nothing."""
    url, bearer = strict.gateways[0].url, f"Authorization: Bearer {hs(scope=scope)}"
    async with stores(strict, 2 if writes == 201 else 0):
        assert (await send(url, request("POST", "/api/orders", bearer, body=b"{}"))).status == writes
    for path, expected in (
        ("", reads),
        ("/x", 404 if reads == 200 else 403),
        ("/x/stream", 404 if reads == 200 else 403),
    ):
        assert (await send(url, request("GET", f"/api/orders{path}", bearer))).status == expected


# --- public keys


@pytest.mark.parametrize("algorithm", PUBLIC)
async def test_a_token_of_the_issuers_key_is_accepted(
    public: dict[Algorithm, Gateway], algorithm: Algorithm
) -> None:
    """With its key id, and without one where there is only one key."""
    key, gateway = signing_key(algorithm), public[algorithm]

    assert await status_of(gateway, key.token(claims(now=now()))) == 200
    assert await status_of(gateway, key.token(claims(now=now()), header={"kid": ABSENT})) == 200


@pytest.mark.parametrize("algorithm", PUBLIC)
async def test_the_public_key_is_no_secret(public: dict[Algorithm, Gateway], algorithm: Algorithm) -> None:
    """HS256 with the public key as its secret, under every name; and the gateway's own unused secret."""
    key, url = signing_key(algorithm), public[algorithm].url
    forged = []
    for secret in (key.pem(), key.pem().rstrip(), jwks(key), SECRET.encode()):
        for alg in ("HS256", algorithm):
            header = {"alg": alg, "kid": key.kid}
            signed = hs_token(claims(now=now()), header=header).rpartition(".")[0].encode()
            forged.append(compact(signed, hmac.new(secret, signed, hashlib.sha256).digest()))
    for token in forged:
        assert_refused(await carried(url, token, "header"), 401, "token_invalid")


@pytest.mark.parametrize("algorithm", PUBLIC)
async def test_another_key_is_refused(public: dict[Algorithm, Gateway], algorithm: Algorithm) -> None:
    """An attacker's key under the issuer's id, an unknown id, a key in the token, a URL in the token."""
    evil = signing_key(algorithm, "key-1", of="evil")
    gateway, jwk = public[algorithm], evil.jwk()
    headers: list[dict[str, object]] = [
        {},
        {"kid": "unknown"},
        {"kid": ABSENT},
        {"jwk": jwk},
        {"kid": "unknown", "jwk": jwk},
        {"jku": "http://127.0.0.1:1/jwks.json"},
        {"x5u": "http://127.0.0.1:1/x.pem"},
        {"kid": "../../../dev/null"},
        {"kid": "' UNION SELECT 'x"},
        {"kid": "http://127.0.0.1:1/"},
        {"alg": "none"},
    ]
    for header in headers:
        forged = evil.token(claims(now=now()), header=header)
        assert_refused(await carried(gateway.url, forged, "header"), 401, "token_invalid")
    for other in PUBLIC:
        if other != algorithm:
            forged = signing_key(other).token(claims(now=now()))
            assert_refused(await carried(gateway.url, forged, "header"), 401, "token_invalid")


@pytest.mark.parametrize("algorithm", PUBLIC)
async def test_claims_are_checked_with_public_keys_as_well(
    public: dict[Algorithm, Gateway], algorithm: Algorithm
) -> None:
    """Issuer, audience, dates."""
    key, url = signing_key(algorithm), public[algorithm].url
    cases: list[tuple[dict[str, object], str]] = [
        ({"iss": "https://evil.example"}, "token_invalid"),
        ({"aud": "other"}, "token_invalid"),
        ({"nbf": int(now()) + 60}, "token_invalid"),
        ({"exp": int(now()) - 60}, "token_expired"),
    ]
    for changes, code in cases:
        answer = await carried(url, key.token(claims(changes, now=now())), "header")
        assert_refused(answer, 401, code)


# --- rotation


class Issuer(http.server.ThreadingHTTPServer):
    """An issuer's key endpoint on loopback."""

    daemon_threads = True

    def __init__(self, document: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Endpoint)
        self.document = document
        self.hits = 0

    @property
    def url(self) -> str:
        """Where the keys are."""
        return f"http://127.0.0.1:{self.server_port}/jwks.json"


class _Endpoint(http.server.BaseHTTPRequestHandler):
    server: Issuer

    def do_GET(self) -> None:
        """The key set."""
        self.server.hits += 1
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.document)))
        self.end_headers()
        self.wfile.write(self.server.document)

    def log_message(self, *_: object) -> None:
        """Silent."""


@contextlib.contextmanager
def issuer(document: bytes) -> Iterator[Issuer]:
    """A running issuer."""
    with Issuer(document) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


OLD, NEW = signing_key("ES256", "old"), signing_key("ES256", "new")


@pytest.mark.parametrize("kind", ["file", "http"])
@pytest.mark.parametrize("old_stays", [True, False], ids=["both published", "old one removed"])
async def test_a_rotated_key_is_accepted_at_once(
    strict: Stack, tmp_path: Path, kind: str, old_stays: bool
) -> None:
    """The first token of the new key makes the gateway fetch the set; the old key works until it is gone
    from it.
    """
    path, before = tmp_path / "jwks.json", jwks(OLD)
    after = jwks(OLD, NEW) if old_stays else jwks(NEW)
    old, new = (key.token(claims(now=now())) for key in (OLD, NEW))
    path.write_bytes(before)
    with issuer(before) as server:
        location = str(path) if kind == "file" else server.url
        gateway = strict.new_gateway(AUTH_ALGORITHM="ES256", AUTH_JWKS=location)
        strict.gateways.append(gateway)
        await asyncio.to_thread(gateway.wait_ready)
        assert await status_of(gateway, old) == 200

        path.write_bytes(after)
        server.document = after
        assert await status_of(gateway, old) == 200
        accepted = await asyncio.gather(*(status_of(gateway, new) for _ in range(8)))
        remaining = await status_of(gateway, old)
        hits = server.hits
    still = await status_of(gateway, new)  # the issuer is down now
    gateway.kill()

    assert accepted == [200] * 8
    assert remaining == (200 if old_stays else 401)
    assert hits == (0 if kind == "file" else 2)
    assert still == 200


async def test_a_token_that_cannot_be_checked_is_not_called_bad(strict: Stack) -> None:
    """There are no keys: 4101 when the time is up, so that its client comes back; without a token 4001."""
    nowhere = f"http://127.0.0.1:{free_port()}/keys"
    gateway = strict.new_gateway(AUTH_ALGORITHM="ES256", AUTH_JWKS=nowhere, AUTH_SECONDS="1")
    strict.gateways.append(gateway)
    await asyncio.to_thread(gateway.wait_ready)
    async with WsClient() as early, WsClient() as late, WsClient() as silent:
        await early.connect(gateway.url, OLD.token(claims(now=now())))
        for client in (late, silent):
            await client.connect(gateway.url)
        late.say("authenticate", id="a", token=OLD.token(claims(now=now())))
        closed = [await client.until_closed() for client in (early, late, silent)]
    gateway.kill()

    assert closed == [4101, 4101, 4001]
    assert (early.errors, late.errors) == (["unavailable"], ["unavailable"])


async def test_a_flood_of_unknown_keys_fetches_once(strict: Stack) -> None:
    """And the known key goes on working."""
    with issuer(jwks(OLD)) as server:
        gateway = strict.new_gateway(AUTH_ALGORITHM="ES256", AUTH_JWKS=server.url)
        strict.gateways.append(gateway)
        await asyncio.to_thread(gateway.wait_ready)
        forged = [OLD.token(claims(now=now()), header={"kid": f"k{n}"}) for n in range(40)]
        answers = await asyncio.gather(*(status_of(gateway, token) for token in forged))
        known = await status_of(gateway, OLD.token(claims(now=now())))
        hits = server.hits
    gateway.kill()

    assert set(answers) == {401}
    assert known == 200
    assert hits == 2


async def test_without_any_key_set_nobody_is_told_apart(strict: Stack, tmp_path: Path) -> None:
    """503 on the API, a stream that says when to come back; and the keys are used once they are there."""
    path = tmp_path / "jwks.json"
    gateway = strict.new_gateway(AUTH_ALGORITHM="ES256", AUTH_JWKS=str(path))
    strict.gateways.append(gateway)
    await asyncio.to_thread(gateway.wait_ready)
    good = OLD.token(claims(now=now()))
    refused = await carried(gateway.url, good, "header")
    stream = await carried(gateway.url, good, "header", "/api/orders/x/stream")
    gateway.kill()

    assert_refused(refused, 503, "unavailable")
    assert (stream.status, stream.body.count(b"event: reconnect")) == (200, 1)
