"""services/gateway/keyset.py"""

from __future__ import annotations

import json

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.auth import Algorithm, Misconfigured
from services.gateway.keyset import KeySet, KeysInvalid, SharedSecret
from tests.services.gateway.tokens import ABSENT, SigningKey, jwks, signing_key

RSA = signing_key("RS256", "rsa")
EC = signing_key("ES256", "ec")
OKP = signing_key("EdDSA", "okp")


def key_of_bits(bits: int) -> SigningKey:
    """An RSA key of another size."""
    return SigningKey("RS256", "weak", rsa.generate_private_key(65537, bits))


# --- the shared secret


@pytest.mark.parametrize(
    "secret", ["x" * 32, "Ж" * 16, "\udcff" * 32, "{" * 40, "12345678901234567890123456789012"]
)
def test_a_long_secret_is_taken_as_it_is(secret: str) -> None:
    """32 bytes suffice, and any kid or none gives the same secret."""
    keys = SharedSecret(secret)

    assert keys.find(None) == keys.find("../x") == secret.encode("utf-8", "surrogateescape")


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "x" * 31,
        RSA.pem().decode(),
        EC.pem().decode().strip(),
        "  " + OKP.pem().decode(),
        RSA.pem().decode().partition("-----END")[0],
        json.dumps(RSA.jwk()),
        jwks(EC).decode(),
        RSA.private.public_key()
        .public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        .decode(),
        OKP.private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode(),
    ],
)
def test_a_short_secret_or_a_key_file_is_refused(secret: str) -> None:
    """The refusal names the setting and never the secret."""
    with pytest.raises(Misconfigured, match=r"^CARILLON_AUTH_SECRET must be ") as refused:
        SharedSecret(secret)

    assert refused.value.setting == "CARILLON_AUTH_SECRET"
    assert not secret or secret not in str(refused.value)


def test_a_secret_does_not_show() -> None:
    """Printing it shows nothing."""
    assert "xxx" not in f"{SharedSecret('x' * 32)!r}"


# --- the key set


@pytest.mark.parametrize(("key", "algorithm"), [(RSA, "RS256"), (EC, "ES256"), (OKP, "EdDSA")])
def test_only_keys_of_the_algorithm_are_used(key: SigningKey, algorithm: Algorithm) -> None:
    """Of a mixed set, the keys of other kinds are skipped and counted."""
    keys = KeySet(jwks(RSA, EC, OKP, {"kty": "oct", "kid": "oct", "k": "AAAA"}), algorithm)

    assert keys.find(key.kid) is not None
    assert (keys.size, keys.skipped) == (1, 3)
    assert [keys.find(kid) for kid in {"rsa", "ec", "okp", "oct"} - {key.kid}] == [None] * 3


@pytest.mark.parametrize(
    "changes",
    [
        {"kty": "EC"},
        {"kty": "oct"},
        {"kty": "rsa"},
        {"kty": ABSENT},
        {"kty": None},
        {"kty": 7},
        {"crv": "P-256"},
        {"alg": "RS512"},
        {"alg": "PS256"},
        {"alg": "HS256"},
        {"alg": ["RS256"]},
        {"use": "enc"},
        {"use": "SIG"},
        {"key_ops": ["encrypt"]},
        {"key_ops": []},
        {"key_ops": "verify"},
        {"n": ABSENT},
        {"n": ""},
        {"n": "AQAB"},
        {"n": "*" * 400},
        {"n": 65537},
        {"e": ABSENT},
        {"e": "Ag"},
        {"e": ""},
        {"d": "AQAB"},
        {"kid": "x" * 129},
        {"kid": 7},
        {"kid": ["rsa"]},
    ],
)
def test_a_key_that_does_not_fit_is_skipped(changes: dict[str, object]) -> None:
    """Another purpose, a malformed or a private key: skipped and counted, the others stay."""
    keys = KeySet(jwks(RSA.jwk(**({"kid": "odd"} | changes)), signing_key("RS256", "good")), "RS256")

    assert (keys.size, keys.skipped) == (1, 1)
    assert keys.find("odd") is None
    assert keys.find("good") is not None


@pytest.mark.parametrize(
    "changes", [{"alg": ABSENT}, {"use": ABSENT}, {"key_ops": ["verify"]}, {"x5c": ["MII"]}]
)
def test_what_an_entry_leaves_open_is_open(changes: dict[str, object]) -> None:
    """alg, use and key_ops are optional, other members are ignored."""
    assert KeySet(jwks(RSA.jwk(**changes)), "RS256").find("rsa") is not None


@pytest.mark.parametrize(
    "changes",
    [
        {"crv": "P-384"},
        {"crv": "secp256k1"},
        {"crv": ABSENT},
        {"x": "AAAA"},
        {"y": EC.jwk()["x"]},
        {"d": "AA"},
    ],
)
def test_a_curve_must_be_the_one_of_the_algorithm(changes: dict[str, object]) -> None:
    """ES256 means P-256, and the point must lie on it."""
    assert KeySet(jwks(EC.jwk(**changes), signing_key("ES256", "good")), "ES256").skipped == 1


@pytest.mark.parametrize("changes", [{"crv": "Ed448"}, {"crv": "X25519"}, {"x": "AAAA"}, {"d": "AA"}])
def test_eddsa_means_ed25519(changes: dict[str, object]) -> None:
    """Other Edwards and Montgomery curves are skipped."""
    assert KeySet(jwks(OKP.jwk(**changes), signing_key("EdDSA", "good")), "EdDSA").skipped == 1


def test_a_weak_rsa_key_is_skipped() -> None:
    """Less than 2048 bits are not used."""
    keys = KeySet(jwks(key_of_bits(1024), RSA), "RS256")

    assert (keys.find("weak"), keys.skipped) == (None, 1)


@pytest.mark.parametrize("entry", [None, 7, "key", [], {}, [{}]])
def test_an_entry_that_is_no_key_is_skipped(entry: object) -> None:
    """One bad entry does not spoil the set."""
    document = json.dumps({"keys": [entry, RSA.jwk()]}).encode()

    assert KeySet(document, "RS256").find("rsa") is not None


def test_the_first_of_two_keys_with_one_id_stays() -> None:
    """A later entry cannot replace an earlier one."""
    first, second = signing_key("ES256", "twin"), signing_key("ES256", "twin", of="other")
    keys = KeySet(jwks(first, second), "ES256")

    assert keys.find("twin") == KeySet(jwks(first), "ES256").find("twin")
    assert (keys.size, keys.skipped) == (1, 1)


def test_without_an_id_the_only_key_is_meant() -> None:
    """One usable key is found without an id, two are not; a key without id is found without id only."""
    anonymous = signing_key("ES256", None)

    assert KeySet(jwks(EC, RSA), "ES256").find(None) is not None
    assert KeySet(jwks(EC, anonymous), "ES256").find(None) is None
    assert KeySet(jwks(anonymous), "ES256").find(None) is not None
    assert KeySet(jwks(anonymous), "ES256").find("") is None


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"keys":null}',
        b'{"keys":{}}',
        b'{"keys":[]}',
        b'{"keys":[{}]}',
        b'{"keys":[',
        b"<html>",
        b"\xff\xfe",
        b'{"keys":[' + b"[" * 100_000,
        b'{"keys":[' + b"[" * 100_000 + b"]" * 100_000 + b"]}",
        jwks(EC),
        jwks(*[RSA.jwk(kid=str(number)) for number in range(101)]),
        jwks(RSA) + b" " * 256 * 1024,
    ],
    ids=lambda document: str(document[:12]),
)
def test_a_document_without_a_usable_key_is_refused(document: bytes) -> None:
    """Not a key set, none that fits, more than 100 keys or 256 KiB."""
    with pytest.raises(KeysInvalid) as refused:
        KeySet(document, "RS256")

    assert refused.value.message.endswith(".")


def test_a_hundred_keys_are_enough() -> None:
    """The bound itself is allowed."""
    assert KeySet(jwks(*[EC.jwk(kid=str(number)) for number in range(100)]), "ES256").size == 100


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(document: bytes) -> None:
    """Random bytes are no key set."""
    with pytest.raises(KeysInvalid):
        KeySet(document, "ES256")


@given(
    st.dictionaries(
        st.sampled_from(["kty", "kid", "alg", "use", "crv", "x", "y", "d", "key_ops"]),
        st.none() | st.integers() | st.text() | st.lists(st.text(), max_size=2),
    )
)
def test_no_entry_raises(changes: dict[str, object]) -> None:
    """Whatever an entry holds, the others stay usable."""
    assert KeySet(jwks(EC.jwk(**changes), signing_key("ES256", "good")), "ES256").find("good") is not None
