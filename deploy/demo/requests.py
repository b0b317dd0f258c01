"""The little HTTP that the demo needs as a client."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


class Unreachable(Exception):
    """No useful answer; asking again may help."""


async def post(url: str, body: Mapping[str, str], headers: Mapping[str, str]) -> dict[str, Any]:
    """POST JSON and return the JSON answer. Raises Unreachable for anything but 2xx."""
    request = urllib.request.Request(  # noqa: S310 - our own http addresses
        url, json.dumps(body).encode(), {"content-type": "application/json", **headers}, method="POST"
    )
    answer: dict[str, Any] = json.loads(await asyncio.to_thread(_open, request, 25.0))
    return answer


async def get(url: str, seconds: float = 2.0) -> bytes:
    """GET a body. Raises Unreachable for anything but 2xx."""
    return await asyncio.to_thread(_open, urllib.request.Request(url), seconds)  # noqa: S310 - see above


def _open(request: urllib.request.Request, seconds: float) -> bytes:
    try:
        with urllib.request.urlopen(request, timeout=seconds) as answer:  # noqa: S310 - see above
            body: bytes = answer.read()
            return body
    except (OSError, urllib.error.URLError, ValueError) as error:
        raise Unreachable(str(error)) from None
