"""Which heads are in order, beyond what a parser looks at."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.request_head import BadRequest, check, end_of_lines, origin_form, without_upgrade

HOST = (b"host", b"a.example")


def refused(line: bytes, *headers: tuple[bytes, bytes]) -> int:
    """The status of the refusal, 0 if there is none."""
    try:
        check(line + b"\r\n\r\n", line.split(b" ")[0], headers)
    except BadRequest as fault:
        return fault.status
    return 0


@pytest.mark.parametrize(
    "host",
    [b"a", b"a.example", b"a.example:", b"a.example:80", b"[::1]", b"[::1]:8080", b"[v1.a:b]", b"127.0.0.1",
     b"my_service:9000", b"a-b.example.", b"xn--bcher-kva.example", b"%41.example", b"a" * 10_000],
)  # fmt: skip
def test_a_host_is_a_name_or_an_address(host: bytes) -> None:
    """RFC 3986 section 3.2.2, with a port or without."""
    assert refused(b"GET / HTTP/1.1", (b"host", host)) == 0


@pytest.mark.parametrize(
    "host",
    [b"", b" ", b":80", b"a b", b"a@b", b"u:p@a.example", b"a/b", b"/", b"a?b", b"a#b", b"http://a.example",
     b"a:b", b"a:-1", b"a:99999", b"a:123456", b"a:80:80", b"[::1", b"::1", b"[::1]x", b"[]", b"a,b", b"a, b",
     b"a\\b", b"<a>", b"\xe9.example", b"%4.example", b"a%", b"a.example\n"],
)  # fmt: skip
def test_a_host_is_nothing_else(host: bytes) -> None:
    """RFC 9112 section 3.2, whatever the version."""
    assert refused(b"GET / HTTP/1.1", (b"host", host)) == 400
    assert refused(b"GET / HTTP/1.0", (b"host", host)) == 400


@pytest.mark.parametrize(
    ("line", "headers", "status"),
    [
        (b"GET / HTTP/1.1", [], 400),
        (b"GET / HTTP/1.0", [], 0),
        (b"GET / HTTP/1.1", [HOST, HOST], 400),
        (b"GET / HTTP/1.0", [HOST, HOST], 400),
        (b"GET / HTTP/0.9", [HOST], 505),
        (b"GET / HTTP/2.0", [HOST], 505),
        (b"GET / HTTP/1.2", [HOST], 505),
        (b"GET /", [HOST], 400),
        (b"GET  / HTTP/1.1", [HOST], 400),
        (b"GET /  HTTP/1.1", [HOST], 400),
        (b" GET / HTTP/1.1", [HOST], 400),
        (b"GET / HTTP/1.1 ", [HOST], 400),
        (b"GET / http/1.1", [HOST], 400),
        (b"GET * HTTP/1.1", [HOST], 400),
        (b"OPTIONS * HTTP/1.1", [HOST], 0),
        (b"CONNECT a.example:80 HTTP/1.1", [HOST], 400),
        (b"GET /?a=%C3%A9&b=%zz&c=%F0%9F%98%80 HTTP/1.1", [HOST], 0),
        (b"GET /?a=%ff HTTP/1.1", [HOST], 400),
        (b"GET /?a=%C3&b=%A9 HTTP/1.1", [HOST], 400),
        (b"GET /?a=%ED%A0%BD HTTP/1.1", [HOST], 400),
        (b"POST / HTTP/1.1", [HOST, (b"transfer-encoding", b"chunked")], 0),
        (b"POST / HTTP/1.1", [HOST, (b"transfer-encoding", b"CHUNKED")], 0),
        (b"POST / HTTP/1.0", [HOST, (b"transfer-encoding", b"chunked")], 400),
        (b"POST / HTTP/1.1", [HOST, (b"transfer-encoding", b"gzip, chunked")], 501),
        (b"POST / HTTP/1.1", [HOST, (b"transfer-encoding", b"chunked, chunked")], 400),
        (b"POST / HTTP/1.1", [HOST, (b"transfer-encoding", b"chunked, gzip")], 400),
        (b"POST / HTTP/1.1", [HOST, (b"transfer-encoding", b"chunked,")], 400),
        (b"POST / HTTP/1.1", [HOST, (b"transfer-encoding", b"identity")], 400),
        (b"POST / HTTP/1.1", [HOST, (b"transfer-encoding", b"")], 400),
        (b"POST / HTTP/1.1", [HOST, *[(b"transfer-encoding", b"chunked")] * 2], 400),
        (b"POST / HTTP/1.1", [HOST, (b"content-length", b"0")], 0),
        (b"POST / HTTP/1.1", [HOST, (b"content-length", b"10")], 0),
        (b"POST / HTTP/1.1", [HOST, (b"content-length", b"010")], 400),
        (b"POST / HTTP/1.1", [HOST, (b"content-length", b"00")], 400),
    ],
)  # fmt: skip
def test_what_two_readers_could_take_differently_is_refused(
    line: bytes, headers: list[tuple[bytes, bytes]], status: int
) -> None:
    """RFC 9112 sections 3, 3.2 and 6; and a query is UTF-8."""
    assert refused(line, *headers) == status


@pytest.mark.parametrize(
    ("target", "form"),
    [
        (b"/a?b", (None, b"/a?b")),
        (b"*", (None, b"*")),
        (b"http://b.example/a?b", (b"b.example", b"/a?b")),
        (b"HTTPS://b.example:1?b", (b"b.example:1", b"/?b")),
        (b"http://[::1]", (b"[::1]", b"/")),
    ],
)
def test_an_absolute_target_names_its_host(target: bytes, form: tuple[bytes | None, bytes]) -> None:
    """RFC 9112 section 3.2.2."""
    assert origin_form(target) == form


@pytest.mark.parametrize(
    "target", [b"ftp://a/", b"http:///a", b"http://u@a/", b"http://a:99999/", b"a:80", b"a"]
)
def test_other_targets_are_refused(target: bytes) -> None:
    """Also one that names a user."""
    with pytest.raises(BadRequest):
        origin_form(target)


def test_an_offer_is_taken_out_and_nothing_else() -> None:
    """Whatever its name's case and however often."""
    head = b"GET /upgrade: HTTP/1.1\r\nUPGRADE: h2c\r\nA: upgrade: b\r\nupgrade:x\r\nHost: a\r\n\r\n"
    assert without_upgrade(head) == b"GET /upgrade: HTTP/1.1\r\nA: upgrade: b\r\nHost: a\r\n\r\n"


@given(data=st.text("\r\na", max_size=12).map(str.encode), cuts=st.sets(st.integers(0, 12), max_size=4))
def test_an_empty_line_is_found_across_cuts(data: bytes, cuts: set[int]) -> None:
    """At the same place as in the whole."""
    whole = end_of_lines(b"", data, 0)
    at = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    for start, end in itertools.pairwise(at):
        found = end_of_lines(data[max(0, start - 3) : start], data[:end], start)
        if found < end or data[:found].endswith(b"\r\n\r\n"):
            assert found == whole
            return
    assert whole == len(data)
