"""proto/errors.py"""

from __future__ import annotations

import re

import pytest

from proto.errors import CATALOGUE, CLOSE_CODES, CloseCode, ErrorCode, Refusal, Retry

STATUSES = {
    "invalid_request": 400,
    "invalid_json": 400,
    "token_missing": 401,
    "token_invalid": 401,
    "token_expired": 401,
    "forbidden": 403,
    "not_member": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "illegal_transition": 409,
    "order_exists": 409,
    "conflict": 409,
    "position_unknown": 410,
    "body_too_large": 413,
    "idempotency_mismatch": 422,
    "too_many_channels": 429,
    "rate_limited": 429,
    "internal": 500,
    "overloaded": 503,
    "unavailable": 503,
    "storage_full": 503,
    "timeout": 504,
}

ROWS = pytest.mark.parametrize("row", CATALOGUE.values(), ids=lambda row: row.code)
CLOSES = pytest.mark.parametrize("row", CLOSE_CODES.values(), ids=lambda row: row.name)


def test_the_catalogue_is_what_was_promised() -> None:
    """No code disappears, and none changes its status."""
    assert {code: row.status for code, row in CATALOGUE.items()} == STATUSES


@ROWS
def test_a_code_is_snake_case_with_a_sentence(row: ErrorCode) -> None:
    """Programs read the code, people read one sentence that tells nothing of the inside."""
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", row.code)
    assert re.fullmatch(r"[A-Z][^\n]*\.", row.message)
    assert not re.search(r"nats|jetstream|subject|stream\b|exception", row.message, re.IGNORECASE)


@ROWS
def test_the_retry_policy_fits_the_status(row: ErrorCode) -> None:
    """A request that is wrong is never repeated, a token is renewed, trouble on our side is waited out."""
    if row.status == 401:
        assert row.retry is Retry.TOKEN
    elif row.status >= 500 or row.code in ("conflict", "rate_limited"):
        assert row.retry is Retry.BACKOFF
    else:
        assert row.retry is Retry.NEVER


@CLOSES
def test_a_close_codes_range_is_its_policy(row: CloseCode) -> None:
    """A client needs no table: 4000 stop, 4100 back off, 4200 reconnect at once."""
    policies = {40: Retry.NEVER, 41: Retry.BACKOFF, 42: Retry.AT_ONCE}

    assert row.retry is policies[row.code // 100]


@CLOSES
def test_a_close_reason_fits_its_frame(row: CloseCode) -> None:
    """A WebSocket close reason has at most 123 bytes (RFC 6455, section 5.5)."""
    assert 0 < len(row.message.encode()) <= 123


def test_close_codes_are_different() -> None:
    """No two reasons share a number, and 4001 stays `Unauthorized`."""
    assert len({row.code for row in CLOSE_CODES.values()}) == len(CLOSE_CODES)
    assert (CLOSE_CODES["unauthorized"].code, CLOSE_CODES["unauthorized"].message) == (4001, "Unauthorized")


@pytest.mark.parametrize(
    ("code", "retry"),
    [(4099, Retry.NEVER), (4100, Retry.BACKOFF), (4199, Retry.BACKOFF), (4200, Retry.AT_ONCE)],
)
def test_the_ranges_meet_without_a_gap(code: int, retry: Retry) -> None:
    """The borders of the ranges belong where the documentation says."""
    assert CloseCode(code, "x", "X").retry is retry


def test_a_refusal_carries_its_row() -> None:
    """A refusal says the public sentence unless it was given a better one."""
    plain, worded = Refusal("not_found"), Refusal("not_found", "Order not found.")

    assert (plain.code, plain.message, plain.row.status) == ("not_found", "Not found.", 404)
    assert (worded.message, str(worded)) == ("Order not found.", "not_found: Order not found.")


def test_a_code_outside_the_catalogue_cannot_be_raised() -> None:
    """A misspelt code fails where it is written."""
    with pytest.raises(KeyError):
        Refusal("not_fuond")


@pytest.mark.parametrize(("given", "shown"), [(300, 300), (301, 300), (60_000, 300)])
def test_a_sentence_is_never_long(given: int, shown: int) -> None:
    """Whatever it quotes."""
    message = Refusal("invalid_request", "x" * (given - 1) + ".").message

    assert len(message) == shown
    assert message.endswith(".")
