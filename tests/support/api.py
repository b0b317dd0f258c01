"""The public HTTP API as a client of it."""

from __future__ import annotations

import ssl
from typing import Any

import httpx

from tests.support.stack import token as customer_token

_TLS = ssl.create_default_context()
"""Made once: httpx makes one for each client, for 20 ms, and ours speak plain HTTP anyway."""


_KEPT = httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=2.0)
"""Idle ones are let go before the gateway does so (after five seconds): who sends at that moment is cut."""


class OrdersClient:
    """Calls one gateway for one user. Methods return the response; `place` returns the order's id."""

    def __init__(self, url: str, token: str | None = None, *, timeout: float = 30.0) -> None:
        self._http = httpx.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {token or customer_token()}"},
            timeout=timeout,
            verify=_TLS,
            limits=_KEPT,
        )

    async def __aenter__(self) -> OrdersClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def create(self, key: str | None = None, **body: Any) -> httpx.Response:
        """POST /api/orders."""
        return await self._http.post("/api/orders", json=body, headers=_key(key))

    async def place(self, key: str | None = None, **body: Any) -> str:
        """Create an order that must succeed; its id."""
        answer = await self.create(key, **body)
        assert answer.status_code == 201, answer.text
        order_id: str = answer.json()["orderId"]
        return order_id

    async def advance(self, order_id: str, status: str, key: str | None = None) -> httpx.Response:
        """POST /api/orders/{id}/status."""
        return await self._http.post(
            f"/api/orders/{order_id}/status", json={"status": status}, headers=_key(key)
        )

    async def get(self, order_id: str) -> httpx.Response:
        """GET /api/orders/{id}."""
        return await self._http.get(f"/api/orders/{order_id}")

    async def list(self, **query: Any) -> httpx.Response:
        """GET /api/orders."""
        return await self._http.get("/api/orders", params=query)


def _key(key: str | None) -> dict[str, str]:
    return {} if key is None else {"Idempotency-Key": key}
