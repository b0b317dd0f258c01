"""Tokens and key sets for tests: mint what an issuer would, and what an attacker would."""

from __future__ import annotations

import base64
import dataclasses
import functools
import hashlib
import hmac
import json
from typing import TYPE_CHECKING, Final, TypeAlias

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from services.gateway.auth import Algorithm, Policy

if TYPE_CHECKING:
    from collections.abc import Mapping

NOW: Final = 1_800_000_000.0
ISSUER: Final = "https://issuer.example"
AUDIENCE: Final = "carillon"
SECRET: Final = "correct horse battery staple, twice over"
ABSENT: Final = object()
"""The value of a claim or header member that is to be left out."""

PrivateKey: TypeAlias = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def policy(
    algorithm: Algorithm = "HS256",
    *,
    issuer: str | None = ISSUER,
    audience: str | None = AUDIENCE,
    leeway: float = 5.0,
    max_token_bytes: int = 8192,
) -> Policy:
    """The policy that tokens made of `claims()` satisfy."""
    return Policy(
        algorithm=algorithm,
        issuer=issuer,
        audience=audience,
        leeway=leeway,
        max_token_bytes=max_token_bytes,
    )


def claims(
    changes: Mapping[str, object] | None = None, /, *, now: float = NOW, **more: object
) -> dict[str, object]:
    """Claims of Alice, issued at `now` for five minutes, with changes; ABSENT leaves one out."""
    usual: dict[str, object] = {
        "sub": "alice",
        "name": "Alice",
        "scope": "orders:read orders:write",
        "iss": ISSUER,
        "aud": AUDIENCE,
        "iat": int(now),
        "exp": int(now) + 300,
    }
    return _present(usual | dict(changes or {}) | more)


def hs_token(
    payload: Mapping[str, object] | bytes | None = None,
    *,
    secret: str | bytes = SECRET,
    header: Mapping[str, object] | bytes | None = None,
) -> str:
    """A token signed with HS256. `header` is merged into the usual one; bytes are taken as they are."""
    key = secret.encode() if isinstance(secret, str) else secret
    signed = _signing_input("HS256", None, header, payload)
    return compact(signed, hmac.new(key, signed, hashlib.sha256).digest())


@dataclasses.dataclass(frozen=True)
class SigningKey:
    """A private key of an issuer."""

    algorithm: Algorithm
    kid: str | None
    private: PrivateKey

    def token(
        self,
        payload: Mapping[str, object] | bytes | None = None,
        *,
        header: Mapping[str, object] | bytes | None = None,
    ) -> str:
        """A token signed with this key; `header` as in `hs_token`."""
        signed = _signing_input(self.algorithm, self.kid, header, payload)
        return compact(signed, jwt.get_algorithm_by_name(self.algorithm).sign(signed, self.private))

    def jwk(self, **changes: object) -> dict[str, object]:
        """The public half as a JSON Web Key, with `changes`; ABSENT leaves a member out."""
        public = jwt.get_algorithm_by_name(self.algorithm).to_jwk(self.private.public_key(), as_dict=True)
        usual = public | {
            "alg": self.algorithm,
            "use": "sig",
            "kid": ABSENT if self.kid is None else self.kid,
        }
        usual.pop("key_ops", None)
        return _present(usual | changes)

    def pem(self) -> bytes:
        """The public half as PEM."""
        return self.private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )


@functools.cache
def signing_key(algorithm: Algorithm, kid: str | None = "key-1", *, of: str = ISSUER) -> SigningKey:
    """The key with that id of the issuer `of`: made on first use, then always the same one."""
    return SigningKey(algorithm, kid, _private_key(algorithm))


def jwks(*keys: SigningKey | dict[str, object]) -> bytes:
    """A key set document."""
    return json.dumps({"keys": [key.jwk() if isinstance(key, SigningKey) else key for key in keys]}).encode()


def compact(signed: bytes, signature: bytes | bytearray) -> str:
    """The compact form of a signing input and its signature."""
    return f"{signed.decode()}.{encode_segment(signature)}"


def encode_segment(data: bytes | bytearray) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _private_key(algorithm: Algorithm) -> PrivateKey:
    if algorithm == "RS256":
        return rsa.generate_private_key(65537, 2048)
    if algorithm == "ES256":
        return ec.generate_private_key(ec.SECP256R1())
    assert algorithm == "EdDSA", f"{algorithm} has no key pair"
    return ed25519.Ed25519PrivateKey.generate()


def _signing_input(
    algorithm: str,
    kid: str | None,
    header: Mapping[str, object] | bytes | None,
    payload: Mapping[str, object] | bytes | None,
) -> bytes:
    if not isinstance(header, bytes):
        usual = {"alg": algorithm, "typ": "JWT", "kid": ABSENT if kid is None else kid}
        header = json.dumps(_present(usual | dict(header or {}))).encode()
    if not isinstance(payload, bytes):
        payload = json.dumps(claims() if payload is None else payload).encode()
    return f"{encode_segment(header)}.{encode_segment(payload)}".encode()


def _present(members: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in members.items() if value is not ABSENT}
