"""The keys that tokens are verified with: one shared secret, or a JSON Web Key Set (RFC 7517). Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from services.gateway.auth import MAX_KID_CHARS, Misconfigured, PublicKey

if TYPE_CHECKING:
    from services.gateway.auth import Algorithm

MIN_SECRET_BYTES: Final = 32  # RFC 7518 section 3.2: at least as long as the hash
MIN_RSA_BITS: Final = 2048
MAX_RSA_BITS: Final = 8192
MAX_KEYS: Final = 100
MAX_DOCUMENT_BYTES: Final = 256 * 1024
SECRET_SETTING: Final = "CARILLON_AUTH_SECRET"  # noqa: S105 - a setting's name

KINDS: Final = {"RS256": ("RSA", None), "ES256": ("EC", "P-256"), "EdDSA": ("OKP", "Ed25519")}
"""Algorithm with public keys -> the kty and crv of its keys."""


class KeysInvalid(Exception):
    """A document that is no usable key set. Never shown to clients."""

    code = "keys_invalid"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class SharedSecret:
    """The HS256 secret, the same whatever the key id. Raises `Misconfigured` if short or a public key."""

    __slots__ = ("_secret",)

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode("utf-8", "surrogateescape")
        if len(self._secret) < MIN_SECRET_BYTES:
            raise Misconfigured(SECRET_SETTING, f"must be at least {MIN_SECRET_BYTES} bytes long.")
        if _is_key_file(self._secret):
            raise Misconfigured(SECRET_SETTING, "must be a random secret, not a PEM, SSH or JSON Web Key.")

    def find(self, kid: str | None) -> bytes:  # noqa: ARG002 - one secret has no use for an id
        """The secret."""
        return self._secret


class KeySet:
    """The keys of one document that fit one algorithm. Immutable.

    A key does not fit when its kty, crv, alg, use or key_ops say another purpose, or when it is malformed,
    holds a private part, is an RSA key outside 2048 to 8192 bits, or repeats an earlier id. `size` counts the
    keys that fit, `skipped` the others.
    """

    __slots__ = ("_by_id", "_sole", "size", "skipped")

    def __init__(self, document: bytes, algorithm: Algorithm) -> None:
        """Raises `KeysInvalid` when no key can be taken from it, or for more than 256 KiB or 100 keys."""
        entries = _entries(document)
        fitting = [(entry.kid, key) for entry in entries if entry and (key := _public_key(entry, algorithm))]
        if not fitting:
            raise KeysInvalid(f"None of {len(entries)} keys fits {algorithm}.")
        # Reversed: of two keys with one id the first stays.
        self._by_id = {kid: key for kid, key in reversed(fitting) if kid is not None}
        self.size = len(self._by_id) + sum(kid is None for kid, _ in fitting)
        self.skipped = len(entries) - self.size
        self._sole = fitting[0][1] if self.size == 1 else None

    def find(self, kid: str | None) -> PublicKey | None:
        """The key with this id, or None. Without an id: the only key there is, or None."""
        return self._sole if kid is None else self._by_id.get(kid)


class _Document(msgspec.Struct):
    keys: list[msgspec.Raw]


class _Entry(msgspec.Struct, omit_defaults=True):
    kty: str
    kid: str | None = None
    alg: str | None = None
    use: str | None = None
    key_ops: list[str] | None = None
    crv: str | None = None
    n: str | None = None
    e: str | None = None
    x: str | None = None
    y: str | None = None
    d: object = None
    """The private part; whoever publishes it has no secret left."""


def _entries(document: bytes) -> list[_Entry | None]:
    if len(document) > MAX_DOCUMENT_BYTES:
        raise KeysInvalid(f"The document is longer than {MAX_DOCUMENT_BYTES} bytes.")
    try:
        raws = msgspec.json.decode(document, type=_Document).keys
    except (ValueError, RecursionError):
        raise KeysInvalid("The document is not a JSON Web Key Set.") from None
    if len(raws) > MAX_KEYS:
        raise KeysInvalid(f"The document holds more than {MAX_KEYS} keys.")
    return [_entry(raw) for raw in raws]


def _entry(raw: msgspec.Raw) -> _Entry | None:
    try:
        return msgspec.json.decode(raw, type=_Entry)
    except (ValueError, RecursionError):
        return None


def _public_key(entry: _Entry, algorithm: Algorithm) -> PublicKey | None:
    if not _fits(entry, algorithm):
        return None
    try:
        key = jwt.PyJWK(msgspec.to_builtins(entry), algorithm).key
    except (jwt.PyJWTError, ValueError, TypeError, ArithmeticError, KeyError):
        return None
    if isinstance(key, RSAPublicKey) and not MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
        return None
    return key if isinstance(key, PublicKey) else None


def _fits(entry: _Entry, algorithm: Algorithm) -> bool:
    kty, crv = KINDS[algorithm]
    return (
        entry.kty == kty
        and entry.crv == crv
        and entry.alg in {None, algorithm}
        and entry.use in {None, "sig"}
        and (entry.key_ops is None or "verify" in entry.key_ops)
        and (entry.kid is None or len(entry.kid) <= MAX_KID_CHARS)
        and entry.d is None
    )


def _is_key_file(secret: bytes) -> bool:
    try:
        jwt.get_algorithm_by_name("HS256").prepare_key(secret)
    except jwt.PyJWTError:
        return True
    return b"-----BEGIN" in secret
