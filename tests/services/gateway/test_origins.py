"""services/gateway/origins.py"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.settings import SettingsError, load
from services.gateway.origins import Origins, unfit
from services.gateway.settings import GatewaySettings

SHOP = "https://shop.example"
HOST = "api.example"


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        (SHOP, HOST),
        (SHOP, ""),
        ("https://api.example", HOST),
        ("http://api.example", HOST),
        ("https://api.example", "API.Example"),
        ("http://127.0.0.1:8080", "127.0.0.1:8080"),
        ("http://[::1]:8080", "[::1]:8080"),
    ],
)
def test_a_listed_origin_and_our_own_may(origin: str, host: str) -> None:
    """A page of the list, and a page that we served ourselves, use the API with the user's cookie."""
    assert Origins([SHOP]).allows(origin, host)


@pytest.mark.parametrize(
    "origin",
    [
        "",
        "null",
        "https://evil.example",
        "https://shop.example.evil",
        "https://evil.shop.example",
        "https://shop.example:444",
        "http://shop.example",
        "https://SHOP.example",
        "https://shop.example/",
        "https://shop.example/path",
        "https://shop.exampl",
        " https://shop.example",
        "https://shop.example, https://evil.example",
        "*",
        "https://api.example.evil",
        "https://api.example:8443",
        "https://api.example/",
        "https://api.example?evil",
        "https://api.example#evil",
        "https://api.example@evil.example",
        "https://evil.example@api.example",
        "https://api\t.example",
        "\x00https://api.example",
        "ftp://api.example",
        "file://api.example",
        "chrome-extension://api.example",
        "//api.example",
        "api.example",
        "https://",
        "https://[::1",
    ],
)
def test_any_other_origin_may_not(origin: str) -> None:
    """Look-alikes, other ports, other schemes and what no browser sends are all foreign."""
    assert not Origins([SHOP]).allows(origin, HOST)


@pytest.mark.parametrize("origin", ["", "null", "https://", "http://", "https:// "])
def test_a_missing_host_is_nobodys_own(origin: str) -> None:
    """A request without a Host has no origin of its own."""
    assert not Origins([]).allows(origin, "")


@settings(deadline=None)
@given(st.text(max_size=40))
def test_garbage_is_foreign(origin: str) -> None:
    """Any text is answered, and none is ours by accident."""
    assert not Origins([]).allows(origin, HOST)
    assert not Origins([]).allows(f"https://{origin}", HOST) or origin.lower() == HOST


def test_only_a_listed_page_may_read_answers() -> None:
    """The answer names the one origin that asked, never a wildcard, and tells caches that it varies."""
    origins = Origins([SHOP, "https://admin.example"])

    assert origins.headers(SHOP) == [
        ("access-control-allow-origin", SHOP),
        ("access-control-allow-credentials", "true"),
        ("vary", "Origin"),
    ]
    assert origins.listed == {SHOP, "https://admin.example"}


@pytest.mark.parametrize(
    "origin", [None, "", "null", "https://evil.example", "https://api.example", "https://SHOP.example"]
)
def test_nobody_else_gets_headers(origin: str | None) -> None:
    """A foreign page cannot read, and our own needs no leave."""
    assert Origins([SHOP]).headers(origin) == []


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ([(b"host", b"api.example")], True),
        ([(b"host", b"api.example"), (b"origin", b"https://api.example")], True),
        ([(b"host", b"api.example"), (b"origin", b"https://evil.example")], False),
        ([(b"origin", b"https://api.example")], False),
        ([(b"origin", b"https://evil.example"), (b"origin", SHOP.encode())], False),
        ([(b"origin", SHOP.encode()), (b"origin", SHOP.encode())], False),
        ([(b"origin", b"")], False),
    ],
)
def test_a_request_names_one_origin(headers: list[tuple[bytes, bytes]], allowed: bool) -> None:
    """Or none; of two none counts, also of two that are allowed."""
    assert Origins([SHOP]).allow_request(headers) is allowed


@pytest.mark.parametrize(
    ("origin", "reason"),
    [
        ("http://localhost:3000/", "expected http://localhost:3000, without a path or a slash behind it"),
        ("https://shop.example/app", "expected https://shop.example, without a path or a slash behind it"),
        ("*", "a wildcard matches nothing: list each origin"),
        ("https://*.shop.example", "a wildcard matches nothing: list each origin"),
        ("null", "null is every sandboxed page and every file, whoever wrote it"),
        ("shop.example", "expected a scheme in front, such as https://shop.example"),
        ("localhost:3000", "expected a scheme in front, such as https://localhost:3000"),
        ("https://Shop.example", "browsers send small letters: https://shop.example"),
        ("https://k\u00e4se.example", "browsers send names in ASCII (xn--...)"),
        ("https://shop.example:443", "browsers leave the usual port out: https://shop.example"),
        ("http://shop.example:80", "browsers leave the usual port out: http://shop.example"),
        ("https://user@shop.example", "expected scheme://host or scheme://host:port"),
        ("https://", "expected scheme://host or scheme://host:port"),
    ],
)
def test_an_origin_that_no_browser_sends_is_refused_with_the_reason(origin: str, reason: str) -> None:
    """It would be taken and never match, and all that is seen of that is a page that does not work."""
    assert unfit(origin) == reason
    with pytest.raises(SettingsError) as caught:
        load(GatewaySettings, {"CARILLON_AUTH_SECRET": "x" * 32, "CARILLON_ORIGINS": f"{SHOP},{origin}"})
    assert caught.value.faults == [f"CARILLON_ORIGINS: {origin}: {reason}"]


@pytest.mark.parametrize(
    "origin",
    [SHOP, "http://localhost:3000", "http://[::1]:3000", "capacitor://localhost", "https://shop.example:80"],
)
def test_an_origin_as_browsers_send_it_is_taken(origin: str) -> None:
    """With a port only if it is not the usual one; pages of apps have schemes of their own."""
    assert unfit(origin) == ""
