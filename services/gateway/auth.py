"""Who is calling: a signed JSON Web Token (RFC 7519) becomes an `Identity`, or a typed refusal.

Pure: keys and time are arguments. The algorithm, issuer and audience are fixed by configuration, nothing in a
token chooses them (RFC 8725 section 3.1), and no URL or key inside a token is ever followed or used.
"""

from __future__ import annotations

import binascii
import functools
import json
import re
from typing import Final, Literal, Protocol, TypeAlias

import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt import PyJWTError
from jwt.algorithms import get_default_algorithms
from msgspec import UNSET, UnsetType

from proto.errors import Refusal
from proto.names import is_id

Algorithm = Literal["HS256", "RS256", "ES256", "EdDSA"]
Code = Literal["token_missing", "token_invalid", "token_expired"]
PublicKey: TypeAlias = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey
Key: TypeAlias = PublicKey | bytes
Number: TypeAlias = int | float

KEY_TYPES: Final[dict[str, type[Key]]] = {
    "HS256": bytes,
    "RS256": RSAPublicKey,
    "ES256": EllipticCurvePublicKey,
    "EdDSA": Ed25519PublicKey,
}
_SCHEMES: Final = {name: get_default_algorithms()[name] for name in KEY_TYPES}
MAX_LEEWAY_SECONDS: Final = 30
MAX_KID_CHARS: Final = 128
MAX_TEXT_BYTES: Final = 256
# 9999-12-31. An `exp` in milliseconds, a common mistake, lies beyond it and would never expire.
MAX_DATE: Final = 253_402_300_799

HEADERS_KEPT: Final = 64

_STANDARD: Final = bytes.maketrans(b"-_", b"+/")
_COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class Unauthorized(Refusal):
    """No identity. `code` and `message` are for the client; `detail` is for logs and quotes no token."""

    def __init__(self, code: Code, detail: str) -> None:
        super().__init__(code)
        self.detail = detail


class UnknownKey(Unauthorized):
    """token_invalid, because no key we hold has this `kid`: the one case that a newer key set can change."""

    def __init__(self, kid: str | None) -> None:
        super().__init__("token_invalid", "no such key")
        self.kid = kid


class Misconfigured(ValueError):
    """A setting that must stop the start. Names the setting and the reason, never the value."""

    def __init__(self, setting: str, reason: str) -> None:
        super().__init__(f"{setting} {reason}")
        self.setting = setting
        self.reason = reason


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """A proven caller. From `expires_at` (epoch seconds: exp plus the leeway) on it must be refused."""

    user: str
    expires_at: float
    name: str = ""
    scopes: frozenset[str] = frozenset()
    token_id: str | None = None
    rooms: tuple[str, ...] | None = None
    """Chat rooms this token is good for, a final `*` standing for any rest; None: no such limit."""


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What a token must satisfy. `issuer` None: any. `audience` None: tokens that name one are refused.

    Raises `Misconfigured` for an unknown algorithm, a leeway outside 0 to 30 seconds or an empty name.
    """

    algorithm: Algorithm
    issuer: str | None = None
    audience: str | None = None
    leeway: float = 5.0
    max_token_bytes: int = 8 * 1024

    def __post_init__(self) -> None:
        """A policy that cannot be meant is refused where it is made."""
        if self.algorithm not in KEY_TYPES:
            raise Misconfigured("CARILLON_AUTH_ALGORITHM", f"must be one of {', '.join(KEY_TYPES)}.")
        if not 0 <= self.leeway <= MAX_LEEWAY_SECONDS:
            raise Misconfigured("CARILLON_AUTH_LEEWAY_SECONDS", f"must be 0 to {MAX_LEEWAY_SECONDS} seconds.")
        for setting, value in (("ISSUER", self.issuer), ("AUDIENCE", self.audience)):
            if value == "":
                raise Misconfigured(f"CARILLON_AUTH_{setting}", "must not be empty when it is set.")


class Keys(Protocol):
    """Where keys are looked up: at once, from memory."""

    def find(self, kid: str | None) -> Key | None:
        """The key with this id, or None. Without an id: the only key there is, or None."""


def verify(token: str, keys: Keys, policy: Policy, now: float) -> Identity:
    """The identity in a compact JWS `token` at `now` (epoch seconds).

    Raises `Unauthorized`, nothing else, whatever the token; as `UnknownKey` when only the key is missing.
    """
    try:
        return _verify(token, keys, policy, now)
    except (PyJWTError, ValueError, ArithmeticError, RecursionError) as error:
        # Only msgspec names the fault without quoting the value. `from None`: so does the cause.
        reason = str(error) if isinstance(error, msgspec.ValidationError) else type(error).__name__
        raise Unauthorized("token_invalid", f"unreadable: {reason}") from None


class _Claims(msgspec.Struct, frozen=True, kw_only=True):
    """The claims that are read (RFC 7519 section 4.1), strictly: nothing is coerced."""

    sub: str
    exp: Number
    nbf: Number | UnsetType = UNSET
    iat: Number | UnsetType = UNSET
    iss: str | UnsetType = UNSET
    aud: str | list[str] | UnsetType = UNSET
    jti: str = ""
    name: str = ""
    scope: str | list[str] = ""
    rooms: list[str] | UnsetType = UNSET

    def __post_init__(self) -> None:
        """Raises ValueError, which msgspec turns into its ValidationError."""
        for date in (self.exp, self.nbf, self.iat):
            if date is not UNSET and abs(date) > MAX_DATE:
                raise ValueError("a date out of range")
        if not is_id(self.sub):
            raise ValueError("an unusable sub")
        if not all(_is_text(text, MAX_TEXT_BYTES) for text in (self.name, self.jti)):
            raise ValueError("an unusable name or jti")


def _verify(token: str, keys: Keys, policy: Policy, now: float) -> Identity:
    if not token:
        raise Unauthorized("token_missing", "empty token")
    if len(token) > policy.max_token_bytes or not _COMPACT.fullmatch(token):
        raise Unauthorized("token_invalid", "too long or not three segments")
    signed, _, signature = token.rpartition(".")
    header, _, payload = signed.partition(".")
    key = _key(_key_id(header, policy.algorithm), keys, policy)
    # The key is ready for use: it was prepared when it was loaded, not with every token.
    if not _SCHEMES[policy.algorithm].verify(signed.encode("ascii"), key, _segment(signature)):
        raise Unauthorized("token_invalid", "another signature")
    claims = msgspec.convert(_json_object(_segment(payload)), _Claims)
    _check_dates(claims, policy, now)
    _check_parties(claims, policy)
    return _identity(claims, policy)


def _segment(encoded: str) -> bytes:
    """Base64url without padding (RFC 7515 section 2), and only the one spelling that each value has."""
    segment = encoded.encode("ascii").translate(_STANDARD)
    decoded = binascii.a2b_base64(segment + b"=" * (-len(segment) % 4), strict_mode=True)
    if binascii.b2a_base64(decoded, newline=False).rstrip(b"=") != segment:
        raise ValueError("not canonical base64url")
    return decoded


@functools.lru_cache(maxsize=HEADERS_KEPT)
def _key_id(segment: str, algorithm: Algorithm) -> str | None:
    """Checks the header. Every other member (jku, x5u, jwk, ...) is ignored, none is trusted.

    An issuer's tokens share one header or a few, so what was made of them is kept.
    """
    header = _json_object(_segment(segment))
    if header.get("alg") != algorithm:
        raise Unauthorized("token_invalid", "not the configured algorithm")
    # RFC 7515 section 4.1.11; and "b64" without "crit" would be a payload that is not base64 (RFC 7797).
    if "crit" in header or header.get("b64", True) is not True:
        raise Unauthorized("token_invalid", "an extension that is not supported")
    if "kid" not in header:
        return None
    kid = header["kid"]
    if not isinstance(kid, str) or len(kid) > MAX_KID_CHARS:
        raise Unauthorized("token_invalid", "unusable kid")
    return kid


def _key(kid: str | None, keys: Keys, policy: Policy) -> Key:
    key = keys.find(kid)
    if key is None:
        raise UnknownKey(kid)
    if not isinstance(key, KEY_TYPES[policy.algorithm]):
        raise Unauthorized("token_invalid", "the key is not one of the configured algorithm")
    return key


def _check_dates(claims: _Claims, policy: Policy, now: float) -> None:
    if now >= claims.exp + policy.leeway:
        raise Unauthorized("token_expired", "exp has passed")
    if claims.nbf is not UNSET and claims.nbf > now + policy.leeway:
        raise Unauthorized("token_invalid", "nbf is to come")
    if claims.iat is not UNSET and claims.iat > now + policy.leeway:
        raise Unauthorized("token_invalid", "iat is to come")


def _check_parties(claims: _Claims, policy: Policy) -> None:
    if policy.issuer is not None and claims.iss != policy.issuer:
        raise Unauthorized("token_invalid", "another issuer")
    if claims.aud is UNSET and policy.audience is None:
        return
    # RFC 7519 section 4.1.3: a token for somebody else, or for a name we do not have, MUST be rejected.
    audience = [claims.aud] if isinstance(claims.aud, str) else claims.aud
    if audience is UNSET or policy.audience not in audience:
        raise Unauthorized("token_invalid", "another audience")


def _identity(claims: _Claims, policy: Policy) -> Identity:
    scopes = claims.scope.split(" ") if isinstance(claims.scope, str) else claims.scope
    return Identity(
        user=claims.sub,
        name=claims.name,
        scopes=frozenset(filter(None, scopes)),
        expires_at=claims.exp + policy.leeway,
        token_id=claims.jti or None,
        rooms=None if claims.rooms is UNSET else tuple(claims.rooms),
    )


def _json_object(document: bytes) -> dict[str, object]:
    value = _JSON.decode(document.decode())
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    # Two readers of one token could each believe another member, so a repeated name is refused.
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a repeated name")
    return members


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


_JSON: Final = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)


def _is_text(value: str, max_bytes: int) -> bool:
    return not _UNPRINTABLE.search(value) and len(value.encode()) <= max_bytes
