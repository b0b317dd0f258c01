"""The catalogue of error codes and close codes. Each one tells a client blindly what to do next."""

from __future__ import annotations

import enum
from typing import Final

import msgspec


class Retry(enum.StrEnum):
    """What a client may do after an error."""

    NEVER = "never"
    """The request itself is wrong: change it."""
    TOKEN = "refresh_token"  # noqa: S105 - a policy's name
    """Get a new token, then try again."""
    BACKOFF = "backoff"
    """Try again with a growing, jittered pause; writes with the same idempotency key."""
    AT_ONCE = "at_once"
    """Reconnect at once, with the hint that was given."""


class ErrorCode(msgspec.Struct, frozen=True):
    """One row: the code on the wire, its HTTP status, its retry policy and its public sentence."""

    code: str
    status: int
    retry: Retry
    message: str


_ROWS: Final = (
    ErrorCode("invalid_request", 400, Retry.NEVER, "The request is not valid."),
    ErrorCode("invalid_json", 400, Retry.NEVER, "The body is not valid JSON."),
    ErrorCode("token_missing", 401, Retry.TOKEN, "A token is required."),
    ErrorCode("token_invalid", 401, Retry.TOKEN, "The token is not valid."),
    ErrorCode("token_expired", 401, Retry.TOKEN, "The token has expired."),
    ErrorCode("forbidden", 403, Retry.NEVER, "The token does not allow this."),
    ErrorCode("not_member", 403, Retry.NEVER, "This room is for its members."),
    ErrorCode("not_found", 404, Retry.NEVER, "Not found."),
    ErrorCode("method_not_allowed", 405, Retry.NEVER, "Method not allowed."),
    ErrorCode("illegal_transition", 409, Retry.NEVER, "The order cannot change to that status."),
    ErrorCode("order_exists", 409, Retry.NEVER, "An order with this id exists."),
    ErrorCode("conflict", 409, Retry.BACKOFF, "Too many writers at once, try again."),
    ErrorCode("position_unknown", 410, Retry.NEVER, "This position is unknown, start again without one."),
    ErrorCode("body_too_large", 413, Retry.NEVER, "The body is too large."),
    ErrorCode("idempotency_mismatch", 422, Retry.NEVER, "This idempotency key was used for another request."),
    ErrorCode("too_many_channels", 429, Retry.NEVER, "Too many channels on one connection."),
    ErrorCode("rate_limited", 429, Retry.BACKOFF, "Too many messages, try again shortly."),
    ErrorCode("internal", 500, Retry.BACKOFF, "Something went wrong on our side."),
    ErrorCode("overloaded", 503, Retry.BACKOFF, "Too busy, try again shortly."),
    ErrorCode("unavailable", 503, Retry.BACKOFF, "Temporarily unavailable, try again shortly."),
    ErrorCode("storage_full", 503, Retry.BACKOFF, "The store is full, nothing was saved."),
    ErrorCode("timeout", 504, Retry.BACKOFF, "No answer in time; retry with the same idempotency key."),
)

CATALOGUE: Final = {row.code: row for row in _ROWS}
"""Error code -> its row. A code that is not here never leaves a process."""


class CloseCode(msgspec.Struct, frozen=True):
    """A WebSocket close code. 4000-4099: stop and fix; 4100-4199: back off; 4200-4299: reconnect at once."""

    code: int
    name: str
    message: str

    @property
    def retry(self) -> Retry:
        """The policy follows from the range, so a client needs no table."""
        if self.code < 4100:
            return Retry.NEVER
        return Retry.BACKOFF if self.code < 4200 else Retry.AT_ONCE


_CLOSES: Final = (
    CloseCode(4001, "unauthorized", "Unauthorized"),
    CloseCode(4002, "token_expired", "Token expired"),
    CloseCode(4003, "forbidden", "Forbidden"),
    CloseCode(4100, "overloaded", "Overloaded"),
    CloseCode(4101, "unavailable", "Unavailable"),
    CloseCode(4102, "rate_limited", "Too many messages"),
    CloseCode(4200, "drain", "Server is restarting"),
    CloseCode(4202, "rebalance", "Moving to another server"),
)

CLOSE_CODES: Final = {row.name: row for row in _CLOSES}


MAX_MESSAGE: Final = 300
"""Characters of an error's sentence: it may quote a client, but not at any length."""


class Refusal(Exception):
    """A typed answer of *no*: the same in a service, across NATS and in an HTTP reply.

    `code` is a key of CATALOGUE; `message` is shown to clients, so it names no subject, host or secret. One
    of more than MAX_MESSAGE characters is cut.
    """

    def __init__(self, code: str, message: str | None = None) -> None:
        self.row = CATALOGUE[code]
        self.code = code
        self.message = _short(message or self.row.message)
        super().__init__(f"{code}: {self.message}")


def _short(message: str) -> str:
    return message if len(message) <= MAX_MESSAGE else f"{message[: MAX_MESSAGE - 3]}..."
