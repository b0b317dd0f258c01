"""Whether the head of an HTTP/1 request is in order where a parser is lenient (RFC 9112, RFC 9110). Pure.

Two readers of one request must not differ in what it says: a proxy before us that takes another Host, or
another end of the body, than we do lets one request hide in another.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_to_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    Headers = Sequence[tuple[bytes, bytes]]

MAX_HEAD_BYTES: Final = 32 * 1024
"""Request line and headers together; also what may stand around the pieces of a body that is sent in chunks,
trailer fields included. The parser itself knows no limit, and this comes before any token."""

_LINE: Final = re.compile(rb"(?:\r\n)*[^ \r\n]+ ([^ \r\n]+) HTTP/([0-9]\.[0-9])\r\n")
_VERSIONS: Final = (b"1.1", b"1.0")
_NAME: Final = rb"[0-9A-Za-z._~!$&'()*+;=-]"
_HOST: Final = re.compile(
    rb"(?:\[[0-9A-Za-z.:~_%!$&'()*+,;=-]+\]|(?=[^:])" + _NAME + rb"*(?:%[0-9A-Fa-f]{2}" + _NAME + rb"*)*)"
    rb"(?::([0-9]{,5}))?"
)
"""`uri-host [":" port]` (RFC 3986 section 3.2.2), not empty (RFC 9110 section 4.2.1). A comma is allowed
there, and is what two Hosts become on the way: refused.
"""
_MAX_PORT: Final = 65535
_ABSOLUTE: Final = re.compile(rb"https?://([^/?#]*)(.*)", re.IGNORECASE)
_UPGRADE: Final = re.compile(rb"\r\nupgrade:[^\r\n]*", re.IGNORECASE)
WHITE: Final = b" \t"
"""What may stand behind a value and is no part of it; a parser leaves it there."""


class BadRequest(Exception):
    """A request that is not taken: the status of the answer, and the sentence that says why."""

    def __init__(self, status: int, message: str) -> None:
        self.status, self.message = status, message
        super().__init__(message)


def check(head: bytes, method: bytes, headers: Headers) -> None:
    """Raises BadRequest. `head` is the request line with all that follows, to the empty line; `headers` are
    what a parser made of it, names in small letters.
    """
    line = _LINE.match(head)
    if line is None:
        raise BadRequest(400, "The request line is a method, a target and a version, one space between.")
    target, version = line.groups()
    if version not in _VERSIONS:
        raise BadRequest(505, "This server speaks HTTP/1.1.")
    if method == b"CONNECT":
        raise BadRequest(400, "This server is no proxy.")
    if target == b"*" and method != b"OPTIONS":
        raise BadRequest(400, "Only OPTIONS may ask about *.")
    _check_query(target)
    names = [name for name, _ in headers]
    hosts = names.count(b"host")
    if hosts > 1 or (not hosts and version == b"1.1"):
        raise BadRequest(400, "A request has one Host.")
    if hosts:
        _check_host(headers[names.index(b"host")][1])
    if b"transfer-encoding" in names:
        _check_coding([value for name, value in headers if name == b"transfer-encoding"], version)
    if b"content-length" in names:
        _check_length(headers[names.index(b"content-length")][1])


def is_host(value: bytes) -> bool:
    """Whether it is a name or an address with, perhaps, a port."""
    host = _HOST.fullmatch(value)
    return host is not None and int(host[1] or 0) <= _MAX_PORT


def _check_query(target: bytes) -> None:
    # What decodes it puts a stand-in for every byte that is not UTF-8, and many names would be one.
    try:
        unquote_to_bytes(target.partition(b"?")[2]).decode()
    except UnicodeDecodeError:
        raise BadRequest(400, "The query is not UTF-8.") from None


def _check_host(value: bytes) -> None:
    if not is_host(value):
        raise BadRequest(400, "Host is not a name or address with, perhaps, a port.")


def _check_length(value: bytes) -> None:
    if value[:1] == b"0" and value != b"0":
        raise BadRequest(400, "Content-Length begins with a zero.")  # octal, to some


def _check_coding(values: list[bytes], version: bytes) -> None:
    if version == b"1.0":
        raise BadRequest(400, "HTTP/1.0 has no Transfer-Encoding.")
    *before, last = (coding.strip(WHITE) for coding in b",".join(values).lower().split(b","))
    if last != b"chunked" or last in before:
        raise BadRequest(400, "The last transfer coding is chunked, once.")
    if before:
        raise BadRequest(501, "No transfer coding but chunked is known.")


def body_bytes(headers: Headers) -> int | None:
    """How large the body of a request is that was checked; None: it comes in chunks, which tell."""
    size = 0
    for name, value in headers:
        if name == b"content-length":
            size = int(value)
        elif name == b"transfer-encoding":
            return None
    return size


def origin_form(target: bytes) -> tuple[bytes | None, bytes]:
    """The host that an absolute target names, which counts instead of Host (RFC 9112 section 3.2.2), and what
    stands behind it; None and the target itself for every other form. Raises BadRequest.
    """
    if target[:1] in (b"/", b"*"):
        return None, target
    absolute = _ABSOLUTE.match(target)
    if absolute is None:
        raise BadRequest(400, "The target is a path, or an http address.")
    host, path = absolute.groups()
    _check_host(host)
    return host, path if path.startswith(b"/") else b"/" + path


def without_upgrade(head: bytes) -> bytes:
    """The same request without the offer to go on in another protocol."""
    return _UPGRADE.sub(b"", head)


def end_of_lines(tail: bytes, data: bytes, start: int) -> int:
    """Where in `data`, from `start`, the first empty line ends that a line before it ended; its length when
    there is none. `tail` are the last bytes, three at most, of what came before.
    """
    if tail:
        at = (tail + data[start : start + 3]).find(b"\r\n\r\n")
        if at >= 0:
            return start + at + 4 - len(tail)
    at = data.find(b"\r\n\r\n", start)
    return len(data) if at < 0 else at + 4
