"""services/gateway/credentials.py"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.auth import Unauthorized
from services.gateway.credentials import token_from

BEARER = (b"authorization", b"Bearer from.the.header")
COOKIE = (b"cookie", b"theme=dark; carillon_token=from.the.cookie; lang=de")
QUERY = b"lastEventId=e-7&token=from.the.query"


@pytest.mark.parametrize(
    ("headers", "query", "token"),
    [
        ([BEARER], b"", "from.the.header"),
        ([COOKIE], b"", "from.the.cookie"),
        ([], QUERY, "from.the.query"),
        ([COOKIE, BEARER], QUERY, "from.the.header"),
        ([COOKIE], QUERY, "from.the.cookie"),
        ([(b"authorization", b"bEARER   a.b.c ")], b"", "a.b.c"),
        ([(b"Authorization", b"Bearer a.b.c")], b"", "a.b.c"),
        ([(b"authorization", b"Basic YTpi")], QUERY, "from.the.query"),
        ([(b"authorization", b"Bearera.b.c")], QUERY, "from.the.query"),
        ([(b"authorization", b"Bearer ")], QUERY, "from.the.query"),
        ([(b"cookie", b"a=1"), (b"cookie", b"carillon_token=x.y.z")], b"", "x.y.z"),
        ([(b"cookie", b"carillon_token=; not_carillon_token=no")], QUERY, "from.the.query"),
        ([(b"cookie", b"carillon_token=a=b")], b"", "a=b"),
        ([], b"token=a%2Eb.c&x", "a.b.c"),
        ([(b"authorization", b"Bearer \xff\xfe")], b"", "\xff\xfe"),
    ],
)
def test_the_first_place_that_has_one_decides(
    headers: list[tuple[bytes, bytes]], query: bytes, token: str
) -> None:
    """Header before cookie before query; an empty value or another scheme counts as absent."""
    assert token_from(headers, query) == token


@pytest.mark.parametrize(
    ("headers", "query", "code"),
    [
        ([], b"", "token_missing"),
        ([(b"authorization", b"")], b"", "token_missing"),
        ([(b"authorization", b"Bearer")], b"token=", "token_missing"),
        ([(b"cookie", b"carillon_token")], b"tokens=a.b.c", "token_missing"),
        ([BEARER, BEARER], b"", "token_invalid"),
        ([BEARER, (b"authorization", b"Basic YTpi")], b"", "token_invalid"),
        ([(b"cookie", b"carillon_token=a; carillon_token=b")], b"", "token_invalid"),
        ([(b"cookie", b"carillon_token=a"), (b"cookie", b"carillon_token=a")], b"", "token_invalid"),
        ([], b"token=a&token=b", "token_invalid"),
        ([], b"a=1&" * 101 + b"token=a", "token_invalid"),
    ],
)
def test_none_or_two_are_refused(headers: list[tuple[bytes, bytes]], query: bytes, code: str) -> None:
    """No token is token_missing; two in the place that decides are token_invalid."""
    with pytest.raises(Unauthorized) as refused:
        token_from(headers, query)

    assert refused.value.code == code


@given(
    st.lists(st.tuples(st.sampled_from([b"authorization", b"cookie", b"host"]), st.binary(max_size=60))),
    st.binary(max_size=200),
)
def test_no_bytes_raise_anything_else(headers: list[tuple[bytes, bytes]], query: bytes) -> None:
    """Whatever a client sends, the answer is a token or an Unauthorized."""
    try:
        assert token_from(headers, query)
    except Unauthorized as refused:
        assert refused.code in {"token_missing", "token_invalid"}  # noqa: PT017
