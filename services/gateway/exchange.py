"""What every plain HTTP endpoint shares: request id, typed errors, metrics. An endpoint is a function that
returns a Reply or raises a Refusal."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import unquote_to_bytes

import msgspec
import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from proto.errors import Refusal
from proto.frames import ErrorBody
from proto.validation import explain
from runtime import tracing
from runtime.logs import accept_request_id, bind_request_id, new_request_id
from runtime.metrics import COARSE, counter, histogram
from services.gateway import rejections
from services.gateway.surrogates import decode_without_halves

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

log = structlog.get_logger(__name__)

BODY_SECONDS: Final = 15.0
SECONDS = histogram("gateway_http_seconds", "Time to answer a plain HTTP request", ["route"], COARSE)
REQUESTS = counter("gateway_http_requests", "Plain HTTP requests by answer", ["code"])

B = TypeVar("B", bound=msgspec.Struct)


class Reply(msgspec.Struct, frozen=True):
    """A good answer: a body for JSON, or raw bytes with their content type."""

    body: msgspec.Struct | bytes
    status: int = 200
    headers: dict[str, str] = {}
    content_type: str = "application/json"


Endpoint = Callable[[Request], Awaitable[Reply]]


def answered(route: str, endpoint: Endpoint) -> Callable[[Request], Awaitable[Response]]:
    """`endpoint` as Starlette takes it; `route` names it in metrics."""

    async def answer(request: Request) -> Response:
        began = time.perf_counter()
        request_id = request_id_of(request.headers)
        with bind_request_id(request_id), tracing.span(f"http {route}", "server"):
            code, response = await _answer(endpoint, request)
        response.headers["x-request-id"] = request_id
        SECONDS.labels(route).observe(time.perf_counter() - began)
        REQUESTS.labels(code).inc()
        return response

    return answer


def request_id_of(headers: Mapping[str, str]) -> str:
    """The caller's request id if it has one that we accept, else a new one."""
    return accept_request_id(headers.get("x-request-id")) or new_request_id(os.urandom(16))


async def _answer(endpoint: Endpoint, request: Request) -> tuple[str, Response]:
    try:
        reply = await endpoint(request)
    except Refusal as refusal:
        rejections.forbidden(refusal, None)
        return refusal.code, refused(refusal)
    except ClientDisconnect:
        return "client_left", Response(status_code=400)
    except Exception:
        log.exception("request_failed", path=request.scope["path"])
        return "internal", refused(Refusal("internal"))
    body = reply.body if isinstance(reply.body, bytes) else msgspec.json.encode(reply.body)
    # Unless the endpoint says otherwise: an answer is one user's, and a cookie or `?token=` hides that from
    # caches.
    headers = {"cache-control": "no-store", **reply.headers}
    return "ok", Response(body, reply.status, headers, reply.content_type)


def refused(refusal: Refusal) -> Response:
    """The answer to a refusal: its code and sentence, the status of its row."""
    headers = {"cache-control": "no-store"}
    if refusal.row.status == 401:
        headers["www-authenticate"] = "Bearer"
    if refusal.row.status == 503:
        headers["retry-after"] = "1"
    body = msgspec.json.encode(ErrorBody(refusal.code, refusal.message, tracing.trace_id()))
    return Response(body, refusal.row.status, headers, "application/json")


async def body_of(request: Request, kind: type[B], limit: int) -> B:
    """The request's JSON body as `kind`. Raises Refusal "body_too_large", "invalid_json", "invalid_request",
    "timeout".
    """
    raw = await _read(request, limit)
    try:
        body = _decoded(raw, kind)
        json.loads(raw, object_pairs_hook=_unique)
        return body
    except msgspec.ValidationError as error:
        raise Refusal("invalid_request", explain(error, kind)) from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError):
        raise Refusal("invalid_json", _where_it_broke(raw)) from None


def _where_it_broke(raw: bytes) -> str:
    # Of Python's reader, whose places are exact.
    try:
        json.loads(raw.decode(), parse_constant=_no_number)
    except json.JSONDecodeError as error:
        return f"The body is not valid JSON: line {error.lineno}, column {error.colno}: {error.msg}."
    except UnicodeDecodeError as error:
        return f"The body is not valid JSON: byte {error.start} is not UTF-8."
    except RecursionError:
        return "The body is not valid JSON: too many levels."
    except ValueError as error:
        return f"The body is not valid JSON: {error}."
    return "The body is not valid JSON."


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _decoded(raw: bytes, kind: type[B]) -> B:
    decode = msgspec.json.Decoder(kind).decode
    try:
        return decode(raw)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        return decode_without_halves(raw, decode)


def path_text(request: Request, name: str) -> str:
    """A parameter of the path. Raises Refusal "invalid_request" for a path that is not UTF-8: it was decoded
    with a stand-in for what is not, and many ids would be one.
    """
    try:
        unquote_to_bytes(request.scope["raw_path"]).decode()
    except UnicodeDecodeError:
        raise Refusal("invalid_request", "The path is not UTF-8.") from None
    text: str = request.path_params[name]
    return text


def _unique(pairs: list[tuple[str, object]]) -> None:
    # RFC 8259 section 4: readers differ in which one they take. Whoever checked the body before us may have
    # believed another than we would.
    if len(dict(pairs)) != len(pairs):
        raise Refusal("invalid_json", "A name stands twice in one object.")


async def _read(request: Request, limit: int) -> bytes:
    if int(request.headers.get("content-length", 0)) > limit:
        raise _too_large(limit)
    chunks, size = [], 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for piece in request.stream():
                size += len(piece)
                if size > limit:
                    raise _too_large(limit)
                chunks.append(piece)
    except TimeoutError:
        raise Refusal("timeout", "The body did not arrive in time.") from None
    return b"".join(chunks)


def _too_large(limit: int) -> Refusal:
    return Refusal("body_too_large", f"The body is larger than {limit} bytes.")


def slash_behind(path: str) -> str:
    """What is told of a path that has a slash too many. No redirect: a client that follows one may leave its
    token or its body behind.
    """
    return f"Not found. There is {path}, without a slash behind."


def http_error(status: int, allow: Iterable[str] = (), message: str | None = None) -> Response:
    """The answer to what Starlette's router refuses; `allow` are the methods that would have been right."""
    code = {404: "not_found", 405: "method_not_allowed"}.get(status, "invalid_request")
    response = refused(Refusal(code, message))
    if status == 405:
        response.headers["allow"] = ", ".join(sorted(allow))
    return response
