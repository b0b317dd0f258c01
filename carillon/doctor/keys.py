"""Whether tokens can be verified: the secret or the key set, and how long it will last."""

from __future__ import annotations

import asyncio
import base64
import binascii
import datetime as dt
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec
from cryptography import x509

from carillon.doctor.finding import Finding, fault, ok, skipped
from services.gateway.auth import Misconfigured
from services.gateway.keyset import MAX_DOCUMENT_BYTES, KeySet, KeysInvalid, SharedSecret

if TYPE_CHECKING:
    from carillon.settings import CliSettings
    from services.gateway.auth import Algorithm

CHECK: Final = "signing key"
FETCH_SECONDS: Final = 5.0
ROTATE: Final = "Publish a new key, sign with it, then take the old one out: docs/security.md, rotation."


class _Key(msgspec.Struct):
    kid: str = ""
    exp: float | None = None
    x5c: list[str] = []


class _Document(msgspec.Struct):
    keys: list[_Key] = []


async def examine(settings: CliSettings, now: float) -> list[Finding]:
    """The findings; `now` is seconds since 1970."""
    if settings.auth_algorithm == "HS256":
        return [_secret(settings)]
    if settings.auth_jwks is None:
        return [fault(CHECK, "no key set is configured", "Set CARILLON_AUTH_JWKS.")]
    try:
        document = await asyncio.to_thread(_fetched, settings.auth_jwks)
    except (OSError, ValueError) as error:
        return [fault(CHECK, f"the key set cannot be had: {error}", "Look at CARILLON_AUTH_JWKS.")]
    return judged(document, settings.auth_algorithm, now)


def judged(document: bytes, algorithm: str, now: float) -> list[Finding]:
    """What a key set is worth at `now`. Pure."""
    try:
        keys = KeySet(document, cast("Algorithm", algorithm))
        entries = msgspec.json.decode(document, type=_Document).keys
    except (KeysInvalid, msgspec.MsgspecError) as error:
        return [fault(CHECK, f"the key set is of no use: {error}", f"Publish keys for {algorithm}.")]
    expired = [(entry.kid or "without id", end) for entry in entries if (end := _end(entry)) and end <= now]
    if expired:
        told = ", ".join(f"{kid} on {_date(end)}" for kid, end in expired)
        return [fault(CHECK, f"expired: {told}", ROTATE)]
    ends = [end for entry in entries if (end := _end(entry))]
    until = f", good until {_date(min(ends))}" if ends else ""
    return [ok(CHECK, f"{keys.size} keys for {algorithm}{until}")]


def _secret(settings: CliSettings) -> Finding:
    if settings.auth_secret is None:
        return skipped(CHECK, "CARILLON_AUTH_SECRET is not set here")
    try:
        SharedSecret(settings.auth_secret.reveal())
    except Misconfigured as error:
        return fault(CHECK, f"{error.setting}: {error.reason}", "Set a random secret of 32 bytes or more.")
    return ok(CHECK, "a shared secret")


def _fetched(place: str) -> bytes:
    if "://" not in place:
        return Path(place).read_bytes()[: MAX_DOCUMENT_BYTES + 1]
    if not place.startswith(("http://", "https://")):
        raise ValueError("not an http(s) address")
    with urllib.request.urlopen(place, timeout=FETCH_SECONDS) as answer:  # noqa: S310 - http(s) only
        body: Any = answer.read(MAX_DOCUMENT_BYTES + 1)
        return bytes(body)


def _end(entry: _Key) -> float | None:
    """When the key ends, by its own word or by its certificate; None if neither says so."""
    ends = [entry.exp] if entry.exp is not None else []
    for text in entry.x5c[:1]:
        try:
            certificate = x509.load_der_x509_certificate(base64.b64decode(text))
        except (ValueError, binascii.Error):
            continue
        ends.append(certificate.not_valid_after_utc.timestamp())
    return min(ends) if ends else None


def _date(seconds: float) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).date().isoformat()
