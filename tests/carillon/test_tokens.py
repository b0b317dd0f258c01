"""carillon/tokens.py"""

from __future__ import annotations

import time

import jwt
import pytest

from carillon.exits import USAGE, Failed
from carillon.settings import CliSettings
from carillon.tokens import claims_for, for_client, seconds, sign
from runtime.settings import Secret

SECRET = "a-secret-of-more-than-thirty-two-bytes"
SETTINGS = CliSettings(auth_secret=Secret(SECRET), auth_issuer="us", auth_audience="carillon")


@pytest.mark.parametrize(
    ("text", "wanted"), [("90", 90), ("90s", 90), ("15m", 900), ("1h", 3600), ("7d", 604800)]
)
def test_a_duration(text: str, wanted: int) -> None:
    """A number, and a letter for its unit."""
    assert seconds(text) == wanted


@pytest.mark.parametrize("text", ["", "0", "0h", "h", "1w", "-1h", "1.5h", "1 h"])
def test_what_is_no_duration(text: str) -> None:
    """Is wrong usage."""
    with pytest.raises(Failed) as told:
        seconds(text)
    assert told.value.code == USAGE


def test_claims_follow_the_settings() -> None:
    """Issuer and audience are those that gateways want; what was not asked for is not there."""
    claims = claims_for(SETTINGS, "alice", 1000.7, ttl=60)

    assert claims == {
        "sub": "alice", "scope": "orders:read orders:write chat", "iat": 1000, "exp": 1060, "iss": "us",
        "aud": "carillon",
    }  # fmt: skip


def test_a_token_that_was_given_is_used() -> None:
    """Else one is made, which only the shared secret can."""
    given = CliSettings(token=Secret("given"))

    assert for_client(given, "alice", 0) == "given"
    made = for_client(SETTINGS, "alice", time.time())
    assert jwt.decode(made, SECRET, ["HS256"], audience="carillon")["sub"] == "alice"
    for settings in (
        CliSettings(),
        CliSettings(auth_secret=Secret("short")),
        CliSettings(auth_algorithm="ES256"),
    ):
        with pytest.raises(Failed) as told:
            sign(settings, {})
        assert (told.value.code, "short" in told.value.message) == (USAGE, False)
