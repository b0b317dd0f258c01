"""NATS header names. Ours start with `Carillon-`; the others are fixed by NATS and its ADR-32."""

from __future__ import annotations

from typing import Final

REQUEST_ID: Final = "Carillon-Request-Id"
"""Follows one client request through every process and log line."""

TIMEOUT_MS: Final = "Carillon-Timeout-Ms"
"""How long the caller still waits, in milliseconds from the moment of sending. Relative, because clocks
differ.
"""

NUDGE: Final = "Carillon-Nudge"
"""On a live subject: the sequence of a stored message that may not have been republished. Has no body."""

ORIGIN: Final = "Carillon-Origin"
"""The session a message came from. It passes through republish, so that gateways can leave the sender out."""

COPY: Final = "Carillon-Copy"
"""On a stored message: what counts is stored elsewhere, and this is for older versions, which look here."""

TRACEPARENT: Final = "traceparent"
"""W3C Trace Context, where tracing is on. It passes through republish, so that gateways continue a trace."""

BATCH: Final = "Carillon-Batch"
"""Its body holds many requests, or many answers (runtime/batch.py); the value is the version of that form."""
PART: Final = "Carillon-Part"
"""On an answer in several messages: `<number>/<of how many>`, from 1."""

ERROR_CODE: Final = "Nats-Service-Error-Code"
"""ADR-32: a number, here the HTTP status of the catalogue's row."""

ERROR: Final = "Nats-Service-Error"
"""ADR-32: the error, here the catalogue's code; the body is an ErrorBody."""

MSG_ID: Final = "Nats-Msg-Id"
EXPECTED_STREAM: Final = "Nats-Expected-Stream"
EXPECTED_LAST_SUBJECT_SEQUENCE: Final = "Nats-Expected-Last-Subject-Sequence"
EXPECTED_LAST_SEQUENCE: Final = "Nats-Expected-Last-Sequence"
TTL: Final = "Nats-TTL"
"""How long a stored message is kept, in whole seconds; its stream must allow it."""
