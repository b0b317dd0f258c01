"""services/gateway/auth.py"""

from __future__ import annotations

import base64
import json
import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.gateway.auth import (
    Algorithm,
    Identity,
    Keys,
    Misconfigured,
    Policy,
    Unauthorized,
    UnknownKey,
    verify,
)
from services.gateway.keyset import KeySet, SharedSecret
from tests.services.gateway.tokens import (
    ABSENT,
    AUDIENCE,
    ISSUER,
    NOW,
    SECRET,
    SigningKey,
    claims,
    compact,
    encode_segment,
    hs_token,
    jwks,
    policy,
    signing_key,
)

PUBLIC_KEY_ALGORITHMS: tuple[Algorithm, ...] = ("RS256", "ES256", "EdDSA")
BASE64URL = string.ascii_letters + string.digits + "-_"
SECRET_KEYS = SharedSecret(SECRET)


def keys_of(*keys: SigningKey) -> KeySet:
    """The key set that an issuer with these keys publishes."""
    return KeySet(jwks(*keys), keys[0].algorithm)


def refusal(
    token: str, keys: Keys = SECRET_KEYS, rules: Policy | None = None, now: float = NOW
) -> Unauthorized:
    """The refusal of a token that must not be accepted."""
    with pytest.raises(Unauthorized) as refused:
        verify(token, keys, rules or policy(), now)
    return refused.value


def accepted(token: str, now: float = NOW) -> Identity:
    """The identity of a token signed with the shared secret."""
    return verify(token, SECRET_KEYS, policy(), now)


# --- what is accepted


def test_a_good_token_is_an_identity() -> None:
    """The claims become an identity that lasts until exp plus the leeway."""
    identity = accepted(hs_token(claims(jti="t-1")))

    assert identity == Identity(
        user="alice",
        name="Alice",
        scopes=frozenset({"orders:read", "orders:write"}),
        expires_at=NOW + 305,
        token_id="t-1",
    )


@pytest.mark.parametrize("algorithm", PUBLIC_KEY_ALGORITHMS)
def test_public_key_algorithms_verify(algorithm: Algorithm) -> None:
    """A token signed by a key of the set is accepted, its kid choosing the key."""
    one, two = signing_key(algorithm, "one"), signing_key(algorithm, "two")

    assert verify(two.token(), keys_of(one, two), policy(algorithm), NOW).user == "alice"


def test_only_sub_and_exp_are_needed() -> None:
    """A policy without issuer and audience accepts a token with nothing else."""
    rules = policy(issuer=None, audience=None)

    identity = verify(hs_token({"sub": "bob", "exp": NOW + 0.5}), SECRET_KEYS, rules, NOW)

    assert identity == Identity(user="bob", expires_at=NOW + 5.5)


@pytest.mark.parametrize(
    ("scope", "scopes"),
    [
        ("", set()),
        ("  chat   docs ", {"chat", "docs"}),
        ("chat\tdocs", {"chat\tdocs"}),
        (["chat", "docs", ""], {"chat", "docs"}),
        (["chat docs"], {"chat docs"}),
        ([], set()),
        (ABSENT, set()),
    ],
)
def test_scopes_come_as_words_or_as_a_list(scope: object, scopes: set[str]) -> None:
    """Only the space separates words (RFC 6749 section 3.3), and an item of a list is not split."""
    assert accepted(hs_token(claims(scope=scope))).scopes == scopes


@pytest.mark.parametrize("sub", ["a", "x" * 128, "Жанна", "a b", 'it\'s "her"', "\u202ea", "e\u0301"])
def test_subjects_are_kept_as_they_are(sub: str) -> None:
    """Any text of 1 to 128 bytes without control characters names a user, unchanged."""
    assert accepted(hs_token(claims(sub=sub))).user == sub


@pytest.mark.parametrize("audience", [AUDIENCE, [AUDIENCE], ["other", AUDIENCE]])
def test_one_of_several_audiences_is_enough(audience: object) -> None:
    """The audience is a string or a list that has ours in it."""
    assert accepted(hs_token(claims(aud=audience))).user == "alice"


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": NOW - 4},
        {"exp": NOW + 0.25},
        {"exp": 1.8e9 + 10},
        {"exp": 253402300799},
        {"nbf": NOW + 5},
        {"nbf": -1},
        {"iat": NOW + 5},
        {"iat": 0},
        {"iat": ABSENT},
    ],
)
def test_dates_have_a_leeway(changes: dict[str, object]) -> None:
    """Dates may be fractions, and clocks may differ by the leeway."""
    assert accepted(hs_token(claims(changes))).user == "alice"


@pytest.mark.parametrize(
    "header",
    [
        {"jku": "http://127.0.0.1:1/keys"},
        {"x5u": "http://127.0.0.1:1/cert"},
        {"x5c": ["MIIB"]},
        {"jwk": {"kty": "oct", "k": "AAAA"}},
        {"kid": "../../etc/passwd"},
        {"kid": "x" * 128},
        {"typ": ABSENT},
    ],
)
def test_other_header_members_are_ignored(header: dict[str, object]) -> None:
    """A key or URL inside a token, and the kid of a shared secret, change nothing."""
    assert accepted(hs_token(header=header)).user == "alice"


def test_without_a_kid_the_only_key_is_meant() -> None:
    """A set of one key needs no kid."""
    key = signing_key("ES256")

    assert verify(key.token(header={"kid": ABSENT}), keys_of(key), policy("ES256"), NOW).user == "alice"


# --- what is refused


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "none"},
        {"alg": "None"},
        {"alg": "hs256"},
        {"alg": "HS384"},
        {"alg": "HS512"},
        {"alg": "XX999"},
        {"alg": ""},
        {"alg": None},
        {"alg": ["HS256"]},
        {"alg": ABSENT},
        {"crit": ["exp"]},
        {"crit": ["b64"], "b64": True},
        {"crit": ["b64"], "b64": False},
        {"crit": []},
        {"crit": None},
        {"b64": False},
        {"kid": "x" * 129},
        {"kid": 7},
        {"kid": None},
        {"kid": ["key-1"]},
        {"kid": {"key": 1}},
    ],
)
def test_headers_that_ask_for_something_else(header: dict[str, object]) -> None:
    """Another algorithm, any critical extension or an unusable kid is refused, though the signature fits."""
    assert refusal(hs_token(header=header)).code == "token_invalid"


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"null",
        b"[]",
        b'"HS256"',
        b"{",
        b'{"alg":"HS256"} {}',
        b'{"alg":"none","alg":"HS256"}',
        b'{"alg":"HS256","x":{"a":1,"a":2}}',
        b'{"alg":"HS256","x":NaN}',
        b'{"alg":"HS256","x":"\xff"}',
        b'\xef\xbb\xbf{"alg":"HS256"}',
        '{"alg":"HS256"}'.encode("utf-16"),
        b'{"alg":"HS256","x":' + b"9" * 5000 + b"}",
    ],
)
def test_headers_that_are_no_json_object(header: bytes) -> None:
    """A header is one JSON object in UTF-8 without repeated names."""
    assert refusal(hs_token(header=header)).code == "token_invalid"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"exp": NOW - 5}, "token_expired"),
        ({"exp": 0}, "token_expired"),
        ({"exp": -1}, "token_expired"),
        ({"exp": -1.5e9}, "token_expired"),
        ({"exp": ABSENT}, "token_invalid"),
        ({"exp": None}, "token_invalid"),
        ({"exp": "1800000300"}, "token_invalid"),
        ({"exp": True}, "token_invalid"),
        ({"exp": [NOW + 300]}, "token_invalid"),
        ({"exp": (NOW + 300) * 1000}, "token_invalid"),
        ({"exp": 253402300800}, "token_invalid"),
        ({"exp": 10**400}, "token_invalid"),
        ({"nbf": NOW + 5.5}, "token_invalid"),
        ({"nbf": "0"}, "token_invalid"),
        ({"nbf": None}, "token_invalid"),
        ({"nbf": False}, "token_invalid"),
        ({"nbf": -(10**12)}, "token_invalid"),
        ({"iat": NOW + 5.5}, "token_invalid"),
        ({"iat": "0"}, "token_invalid"),
        ({"iat": True}, "token_invalid"),
        ({"iss": "https://issuer.example.evil"}, "token_invalid"),
        ({"iss": ISSUER + "/"}, "token_invalid"),
        ({"iss": ""}, "token_invalid"),
        ({"iss": [ISSUER]}, "token_invalid"),
        ({"iss": None}, "token_invalid"),
        ({"iss": ABSENT}, "token_invalid"),
        ({"aud": "other"}, "token_invalid"),
        ({"aud": "carillon2"}, "token_invalid"),
        ({"aud": ["other", "Carillon"]}, "token_invalid"),
        ({"aud": []}, "token_invalid"),
        ({"aud": ""}, "token_invalid"),
        ({"aud": None}, "token_invalid"),
        ({"aud": [AUDIENCE, 1]}, "token_invalid"),
        ({"aud": {AUDIENCE: True}}, "token_invalid"),
        ({"aud": ABSENT}, "token_invalid"),
        ({"sub": ABSENT}, "token_invalid"),
        ({"sub": None}, "token_invalid"),
        ({"sub": ""}, "token_invalid"),
        ({"sub": 7}, "token_invalid"),
        ({"sub": ["alice"]}, "token_invalid"),
        ({"sub": "x" * 129}, "token_invalid"),
        ({"sub": "Ж" * 65}, "token_invalid"),
        ({"sub": "a\x00b"}, "token_invalid"),
        ({"sub": "a\r\nPUB x"}, "token_invalid"),
        ({"sub": "\x7f"}, "token_invalid"),
        ({"sub": "\x85"}, "token_invalid"),
        ({"sub": "\ud800"}, "token_invalid"),
        ({"name": "\udfff"}, "token_invalid"),
        ({"name": "a\x1b[31m"}, "token_invalid"),
        ({"name": "n" * 257}, "token_invalid"),
        ({"name": None}, "token_invalid"),
        ({"name": 1}, "token_invalid"),
        ({"scope": None}, "token_invalid"),
        ({"scope": 1}, "token_invalid"),
        ({"scope": {"staff": True}}, "token_invalid"),
        ({"scope": ["staff", 1]}, "token_invalid"),
        ({"scope": [["staff"]]}, "token_invalid"),
        ({"jti": 1}, "token_invalid"),
        ({"jti": "\ud800"}, "token_invalid"),
        ({"jti": "j" * 257}, "token_invalid"),
    ],
)
def test_claims_that_are_refused(changes: dict[str, object], code: str) -> None:
    """One wrong claim refuses a token that is well signed, with the code that tells what to do."""
    assert refusal(hs_token(claims(changes))).code == code


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"null",
        b"[]",
        b'"alice"',
        b"7",
        b'{"sub":"alice","exp":1800000300',
        b'{"sub":"alice","exp":1800000300}}',
        b'{"sub":"alice","exp":1e400}',
        b'{"sub":"alice","exp":-1e400}',
        b'{"sub":"alice","exp":NaN}',
        b'{"sub":"alice","exp":Infinity}',
        b'{"sub":"alice","exp":-Infinity}',
        b'{"sub":"alice","exp":1800000300,"x":NaN}',
        b'{"sub":"alice","exp":' + b"9" * 5000 + b"}",
        b'{"sub":"mallory","sub":"alice","exp":1800000300}',
        b'{"sub":"alice","exp":1800000300,"scope":"","sc\\u006fpe":"staff"}',
        b'{"sub":"alice","exp":1800000300,"x":{"a":1,"a":1}}',
        b'{"sub":"\xff","exp":1800000300}',
        b'{"sub":"\xc0\xaf","exp":1800000300}',
        b'{"sub":"\xed\xa0\x80","exp":1800000300}',
        b'{"sub":"alice","exp":1800000300,"x":"\xff"}',
        b'\xef\xbb\xbf{"sub":"alice","exp":1800000300}',
        '{"sub":"alice","exp":1800000300}'.encode("utf-16"),
    ],
)
def test_payloads_that_are_no_claims(payload: bytes) -> None:
    """A payload is one JSON object in UTF-8, without repeated names and with finite numbers."""
    rules = policy(issuer=None, audience=None)

    assert refusal(hs_token(payload), SECRET_KEYS, rules).code == "token_invalid"


@pytest.mark.parametrize("place", ["header", "payload"])
@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_deep_nesting_is_refused(place: str, opening: bytes) -> None:
    """Nesting beyond what the parser can hold is a refusal, not a crash."""
    rules = policy(max_token_bytes=2**21)
    deep = b'{"alg":"HS256","x":' + opening * 100_000
    token = hs_token(header=deep) if place == "header" else hs_token(deep)

    assert refusal(token, SECRET_KEYS, rules).code == "token_invalid"


def test_a_token_for_anybody_is_no_token_for_nobody() -> None:
    """Without a configured audience a token that names one is meant for somebody else (RFC 7519 4.1.3)."""
    rules = policy(audience=None)

    assert refusal(hs_token(claims(aud="other")), SECRET_KEYS, rules).code == "token_invalid"
    assert refusal(hs_token(claims(aud=[])), SECRET_KEYS, rules).code == "token_invalid"
    assert verify(hs_token(claims(aud=ABSENT)), SECRET_KEYS, rules, NOW).user == "alice"


@pytest.mark.parametrize(
    ("token", "code"),
    [
        ("", "token_missing"),
        (".", "token_invalid"),
        ("..", "token_invalid"),
        ("a.b.c", "token_invalid"),
        ("undefined", "token_invalid"),
        ("null", "token_invalid"),
        (hs_token() + ".", "token_invalid"),
        (hs_token() + ".e30.e30", "token_invalid"),
        (hs_token() + "=", "token_invalid"),
        (hs_token() + "\n", "token_invalid"),
        (" " + hs_token(), "token_invalid"),
        ("Bearer " + hs_token(), "token_invalid"),
        (hs_token().replace(".", "..", 1), "token_invalid"),
        (hs_token() + "\u0130", "token_invalid"),
        (hs_token() + "\ud800", "token_invalid"),
        (hs_token() + "\x00", "token_invalid"),
    ],
)
def test_strings_that_are_no_compact_token(token: str, code: str) -> None:
    """Three base64url segments and two dots, nothing around them."""
    assert refusal(token).code == code


def test_a_token_has_a_greatest_length() -> None:
    """8 KiB pass, one byte more is refused before anything is parsed."""
    token = hs_token(claims(filler="x" * 5000))

    assert verify(token, SECRET_KEYS, policy(max_token_bytes=len(token)), NOW).user == "alice"
    assert refusal(token, SECRET_KEYS, policy(max_token_bytes=len(token) - 1)).code == "token_invalid"
    assert refusal(hs_token(claims(filler="x" * 9000))).code == "token_invalid"
    assert Policy(algorithm="HS256").max_token_bytes == 8192


@pytest.mark.parametrize("algorithm", ["HS256", *PUBLIC_KEY_ALGORITHMS])
def test_every_cut_of_a_token_is_refused(algorithm: Algorithm) -> None:
    """A token that lost its end is no token."""
    token, keys = signed(algorithm)

    codes = {refusal(token[:end], keys, policy(algorithm)).code for end in range(1, len(token))}

    assert codes == {"token_invalid"}


@pytest.mark.parametrize("algorithm", ["HS256", *PUBLIC_KEY_ALGORITHMS])
def test_every_bit_of_the_signature_counts(algorithm: Algorithm) -> None:
    """One flipped bit in the signature refuses the token."""
    token, keys = signed(algorithm)
    content, _, segment = token.rpartition(".")
    signature = base64.urlsafe_b64decode(segment + "==")

    for bit in range(len(signature) * 8):
        flipped = bytearray(signature)
        flipped[bit // 8] ^= 1 << bit % 8
        assert refusal(compact(content.encode(), flipped), keys, policy(algorithm)).code == "token_invalid"


def signed(algorithm: Algorithm) -> tuple[str, Keys]:
    """A good token and the keys that verify it."""
    if algorithm == "HS256":
        return hs_token(), SECRET_KEYS
    return signing_key(algorithm).token(), keys_of(signing_key(algorithm))


# --- attacks on the choice of key


@pytest.mark.parametrize("algorithm", PUBLIC_KEY_ALGORITHMS)
def test_a_public_key_is_no_secret(algorithm: Algorithm) -> None:
    """HS256 keyed with the public key is refused where a public-key algorithm is configured."""
    key = signing_key(algorithm)

    for secret in (key.pem(), key.pem().strip(), json.dumps(key.jwk()).encode()):
        forged = hs_token(secret=secret, header={"kid": "key-1"})
        relabelled = hs_token(secret=secret, header={"kid": "key-1", "alg": algorithm})
        assert refusal(forged, keys_of(key), policy(algorithm)).code == "token_invalid"
        assert refusal(relabelled, keys_of(key), policy(algorithm)).code == "token_invalid"


@pytest.mark.parametrize("minted", PUBLIC_KEY_ALGORITHMS)
@pytest.mark.parametrize("configured", ["HS256", *PUBLIC_KEY_ALGORITHMS])
def test_only_the_configured_algorithm_counts(minted: Algorithm, configured: Algorithm) -> None:
    """A good token of another algorithm is refused, even if its key is found and its header lies."""
    if minted == configured:
        return
    key = signing_key(minted)

    relabelled: dict[str, object] = {"alg": configured}
    for header in (None, relabelled):
        for keys in (keys_of(key), SECRET_KEYS):
            assert refusal(key.token(header=header), keys, policy(configured)).code == "token_invalid"


@pytest.mark.parametrize(
    "kid",
    ["key-2", "", "KEY-1", "key-1 ", "../../../dev/null", "' OR 1=1 --", "key-1\x00", "\ud800", "x" * 128],
)
def test_an_unknown_kid_has_no_key(kid: str) -> None:
    """The kid is compared as a whole, is no path and no query, and says which key was missing."""
    key = signing_key("RS256")

    refused = refusal(key.token(header={"kid": kid}), keys_of(key), policy("RS256"))

    assert isinstance(refused, UnknownKey)
    assert (refused.code, refused.kid) == ("token_invalid", kid)


def test_without_a_kid_several_keys_are_ambiguous() -> None:
    """No key is tried in turn."""
    one, two = signing_key("EdDSA", "one"), signing_key("EdDSA", "two")

    refused = refusal(one.token(header={"kid": ABSENT}), keys_of(one, two), policy("EdDSA"))

    assert isinstance(refused, UnknownKey)
    assert refused.kid is None


def test_keys_inside_a_token_are_not_used() -> None:
    """A token that brings its own key (CVE-2018-0114) is verified with ours, so it is refused."""
    ours, theirs = signing_key("RS256"), signing_key("RS256", of="mallory")
    header: dict[str, object] = {
        "jwk": theirs.jwk(),
        "jku": "http://127.0.0.1:1/",
        "x5u": "http://127.0.0.1:1/",
    }

    assert refusal(theirs.token(header=header), keys_of(ours), policy("RS256")).code == "token_invalid"
    assert verify(ours.token(header=header), keys_of(ours), policy("RS256"), NOW).user == "alice"


def test_equal_kids_of_two_issuers_do_not_mix() -> None:
    """Each key set answers for itself only (CVE-2026-49998 of a peer cached by kid alone)."""
    ours, theirs = signing_key("ES256"), signing_key("ES256", of="https://other.example")
    token = theirs.token(claims(iss=ISSUER))

    assert verify(ours.token(), keys_of(ours), policy("ES256"), NOW).user == "alice"
    assert verify(token, keys_of(theirs), policy("ES256"), NOW).user == "alice"
    assert refusal(token, keys_of(ours), policy("ES256")).code == "token_invalid"


def test_another_secret_is_refused() -> None:
    """A token signed with another secret, or an empty one, is refused."""
    for secret in ("x" * 32, "", SECRET[:-1], SECRET + "\x00x"):
        assert refusal(hs_token(secret=secret)).code == "token_invalid"


def test_an_unsigned_token_is_refused() -> None:
    """alg none, with an empty or any signature."""
    content, _, signature = hs_token(header={"alg": "none"}).rpartition(".")

    assert refusal(content + ".").code == "token_invalid"
    assert refusal(f"{content}.{signature}").code == "token_invalid"
    assert refusal(content).code == "token_invalid"


def test_signature_comes_before_claims() -> None:
    """What a stranger claims is not even read: an expired forgery is invalid, not expired."""
    assert refusal(hs_token(claims(exp=0), secret="x" * 32)).code == "token_invalid"


# --- what a refusal says


def test_a_refusal_quotes_nothing() -> None:
    """Neither the text nor the detail nor the cause of a refusal holds the token or a claim."""
    for token in (
        hs_token(claims(sub="mallory\x00")),
        hs_token(claims(exp="mallory")),
        hs_token(b'{"mallory'),
        hs_token(b'{"mallory":NaN}'),
        hs_token(header={"crit": ["mallory"]}),
        hs_token(header={"kid": "mallory" * 99}),
        hs_token(claims(iss="mallory")),
        hs_token()[:-1] + "!",
    ):
        refused = refusal(token)
        said = f"{refused} {refused!r} {refused.detail} {refused.message}"
        assert refused.__cause__ is None
        assert refused.__suppress_context__ or refused.__context__ is None
        assert "mallory" not in said
        assert token[:20] not in said


def test_each_code_has_its_sentence() -> None:
    """The public sentence says what is wrong in general."""
    assert refusal("").message == "A token is required."
    assert refusal("x").message == "The token is not valid."
    assert refusal(hs_token(claims(exp=1))).message == "The token has expired."


# --- policies


@pytest.mark.parametrize(
    ("settings", "setting"),
    [
        ({"algorithm": "none"}, "CARILLON_AUTH_ALGORITHM"),
        ({"algorithm": "HS512"}, "CARILLON_AUTH_ALGORITHM"),
        ({"algorithm": "HS256", "leeway": 30.5}, "CARILLON_AUTH_LEEWAY_SECONDS"),
        ({"algorithm": "HS256", "leeway": -1}, "CARILLON_AUTH_LEEWAY_SECONDS"),
        ({"algorithm": "HS256", "leeway": float("nan")}, "CARILLON_AUTH_LEEWAY_SECONDS"),
        ({"algorithm": "HS256", "issuer": ""}, "CARILLON_AUTH_ISSUER"),
        ({"algorithm": "HS256", "audience": ""}, "CARILLON_AUTH_AUDIENCE"),
    ],
)
def test_a_policy_that_cannot_be_meant_names_its_setting(settings: dict[str, object], setting: str) -> None:
    """A bad policy stops the start."""
    with pytest.raises(Misconfigured, match=setting) as refused:
        Policy(**settings)  # type: ignore[arg-type]

    assert refused.value.setting == setting


# --- properties

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=20)
    | st.sampled_from([NOW, NOW + 300, -1, "alice", AUDIENCE, ISSUER]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def identity_or_refusal(token: str, rules: Policy | None = None) -> Identity | None:
    """What verify made of it; anything but an Unauthorized fails the test."""
    try:
        return verify(token, SECRET_KEYS, rules or policy(), NOW)
    except Unauthorized as refused:
        assert refused.code in {"token_missing", "token_invalid", "token_expired"}  # noqa: PT017
        return None


@given(st.text(st.characters(), max_size=300))
@example("\ud800.\ud800.\ud800")
def test_any_string_is_refused(token: str) -> None:
    """No string but a signed token is accepted, and none raises anything else."""
    assert identity_or_refusal(token) is None


@given(st.binary(max_size=100), st.binary(max_size=100), st.binary(max_size=100))
def test_any_three_segments_are_refused(header: bytes, payload: bytes, signature: bytes) -> None:
    """Random bytes in the right shape are refused."""
    token = ".".join(encode_segment(part) for part in (header, payload, signature))

    assert identity_or_refusal(token) is None


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_any_signed_bytes_raise_nothing_else(header: bytes, payload: bytes) -> None:
    """Even an issuer gone mad causes refusals only."""
    assert identity_or_refusal(hs_token(payload, header=header)) is None
    assert identity_or_refusal(hs_token(payload)) is None


@given(
    st.dictionaries(
        st.sampled_from(["sub", "exp", "nbf", "iat", "iss", "aud", "name", "scope", "jti", "x"]), json_values
    ),
    st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jku"]), json_values, max_size=2),
)
def test_any_signed_claims_give_a_sound_identity_or_a_refusal(
    changes: dict[str, object], header: dict[str, object]
) -> None:
    """Whatever is accepted can be written down, is named and ends."""
    identity = identity_or_refusal(hs_token(claims(changes), header=header))

    if identity is not None:
        assert identity.user.encode()
        assert identity.name.encode() is not None
        assert NOW < identity.expires_at < 3e11
        assert all(isinstance(scope, str) for scope in identity.scopes)


@given(st.data(), st.sampled_from(["HS256", "ES256", "EdDSA"]))
def test_no_changed_token_is_accepted(data: st.DataObject, algorithm: Algorithm) -> None:
    """Any one character replaced by another, anywhere, refuses the token."""
    token, keys = signed(algorithm)
    at = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.sampled_from(BASE64URL + ".=+/ \x00\u00e9").filter(lambda char: char != token[at]))

    changed = token[:at] + other + token[at + 1 :]

    assert refusal(changed, keys, policy(algorithm)).code == "token_invalid"
