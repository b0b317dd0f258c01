"""A gateway exports at most 600 series, whatever its clients do."""

from __future__ import annotations

import asyncio
import math
from typing import Final

import httpx
from prometheus_client.parser import text_string_to_metric_families as parse

from proto.errors import CATALOGUE
from proto.frames import ResetReason
from proto.permissions import rights
from proto.registry import Party
from proto.streams import STREAMS
from tests.support.api import OrdersClient
from tests.support.exported import collectors
from tests.support.sse import SseClient
from tests.support.stack import Stack, token
from tests.support.until import until
from tests.support.ws import WsClient, chatter, leave_all

MOST: Final = 600
OTHERS: Final = ("carillon_orders_", "carillon_chat_", "carillon_presence_", "carillon_register_")
"""Metrics of services that run in other processes."""
PYTHON: Final = 25
"""What prometheus_client tells of the process and of Python: about 20."""


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


CODES: Final = frozenset({*CATALOGUE, "ok"})
VALUES: Final[dict[str, frozenset[str]]] = {
    "code": CODES,
    "how": _set("told all found"),
    "kind": _set("order room"),
    "limit": _set("connections per_address handshake_rate file_descriptors"),
    "method": _set("state drain rebalance connections kick"),
    "outcome": _set("ok refused failed"),
    "role": _set("live calls lease"),
    "route": _set("orders_create orders_list orders_get orders_status page"),
    "component": _set("orders chat presence gateway"),
    "state": _set("all lingering"),
    "stream": frozenset(
        spec.name for spec in STREAMS if f"$JS.API.STREAM.INFO.{spec.name}" in rights(Party.GATEWAY).publish
    ),
    "transport": _set("websocket sse"),
    "version": _set("0.1.0"),
}
"""The values that a label takes in a gateway."""

ONLY: Final[dict[tuple[str, str], frozenset[str]]] = {
    ("carillon_gateway_auth_rejected", "code"): _set("token_missing token_invalid token_expired forbidden"),
    ("carillon_gateway_handshakes", "code"): _set(
        "ok bad_handshake not_found unavailable invalid_request forbidden overloaded"
    ),
    ("carillon_gateway_sse_opened", "code"): _set(
        "ok 200 204 token_missing token_invalid token_expired forbidden not_found invalid_request internal "
        "overloaded unavailable timeout"
    ),
    ("carillon_rpc_answers", "code"): _set("ok invalid_request not_found internal overloaded timeout"),
    ("carillon_gateway_http_requests", "code"): CODES | {"client_left"},
    ("carillon_gateway_works", "kind"): _set(
        "Authenticate Subscribe Unsubscribe JoinRoom LeaveRoom SendChatMessage FetchHistory StartTyping "
        "StopTyping Who"
    ),
    ("carillon_bus_errors", "kind"): _set(
        "pending_full waiting_full connect permission connection closed handler"
    ),
    ("carillon_log_reads", "kind"): _set("leader last batch multi_last"),
    ("carillon_log_read_seconds", "kind"): _set("leader last batch multi_last"),
    ("carillon_log_appends", "outcome"): _set("stored duplicate failed"),
    ("carillon_gateway_live_messages", "outcome"): _set("accepted held stale nudge"),
    ("carillon_gateway_resumes", "outcome"): frozenset({"ring", "log", *ResetReason}),
    ("carillon_gateway_presence_diffs", "outcome"): _set("accepted stale held"),
    ("carillon_gateway_presence_snapshots", "outcome"): _set("ok old refused failed"),
    ("carillon_gateway_roster_writes", "outcome"): _set("ok fenced refused failed"),
    ("carillon_gateway_lease_renewals", "outcome"): _set("ok stalled failed"),
    ("carillon_gateway_typing_broadcasts", "outcome"): _set("sent gathered lost"),
    ("carillon_gateway_presence_frames", "type"): _set("presence_occupancy presence_diff user_typing"),
    ("carillon_gateway_goodbyes", "reason"): _set("drain rebalance"),
    ("carillon_gateway_websocket_closed", "reason"): _set(
        "closed client error no_pong slow_consumer half_message too_many_fragments invalid_utf8 "
        "unsupported_data protocol_1002 protocol_1003 protocol_1007 protocol_1009 protocol_1011 "
        "unauthorized token_expired forbidden overloaded unavailable rate_limited drain "
        "rebalance"
    ),
    ("carillon_gateway_sse_closed", "reason"): _set(
        "client error slow_consumer talkative token_expired drain rebalance shutdown complete "
        "unauthorized forbidden rate_limited"
    ),
    # A gateway appends to no other streams.
    ("carillon_log_append_seconds", "stream"): _set("PRESENCE_LEASES PRESENCE_ROSTERS"),
    ("carillon_log_appends", "stream"): _set("PRESENCE_LEASES PRESENCE_ROSTERS"),
    ("carillon_log_append_retries", "stream"): _set("PRESENCE_LEASES PRESENCE_ROSTERS"),
    ("carillon_log_nudges", "stream"): _set("PRESENCE_LEASES PRESENCE_ROSTERS"),
    # Its calls of these two travel together.
    ("carillon_rpc_batches", "component"): _set("orders chat"),
    ("carillon_rpc_batched_calls", "component"): _set("orders chat"),
    ("carillon_rpc_calls_sent_alone", "component"): _set("orders chat"),
    ("carillon_log_stream_full", "stream"): _set("PRESENCE_LEASES PRESENCE_ROSTERS"),
    ("carillon_rpc_nobody_listens", "component"): _set("orders chat presence"),
    ("carillon_info", "component"): _set("gateway"),
    ("carillon_ready", "component"): _set("gateway"),
    # It serves its operators, and nobody else.
    ("carillon_rpc_answers", "component"): _set("gateway"),
    ("carillon_rpc_served_seconds", "component"): _set("gateway"),
    ("carillon_rpc_in_flight", "component"): _set("gateway"),
    ("carillon_rpc_overloaded", "component"): _set("gateway"),
}
"""Where a label of one metric takes others."""


def values_of(metric: str, label: str) -> frozenset[str]:
    """What a label may be; a label that is not declared here fails the test."""
    return ONLY.get((metric, label)) or (VALUES[label] if (metric, label) not in ONLY else frozenset())


def of_a_gateway() -> dict[str, tuple[str, tuple[str, ...], int]]:
    """The metrics that a gateway's process has."""
    return {name: row for name, row in collectors().items() if not name.startswith(OTHERS)}


def test_the_bound_of_all_metrics_together_is_below_the_limit() -> None:
    """If every label took every value that it may take there would still be fewer than 600 series."""
    bounds = {
        name: series * math.prod(len(values_of(name, label)) for label in labels)
        for name, (_, labels, series) in of_a_gateway().items()
    }

    assert sum(bounds.values()) + PYTHON <= MOST, sorted(bounds.items(), key=lambda row: -row[1])[:12]


async def test_a_flooded_gateway_keeps_to_the_declared_values() -> None:
    """Hundreds of users, rooms, orders, wrong paths, tokens and frames add no series that was not counted."""
    with Stack(gateways=1, orders=1, chat=1) as stack:
        gateway = stack.gateways[0]
        await _http(gateway.url)
        await _sockets(gateway.url)
        families = list(parse(gateway.metrics()))

    known = collectors()
    for family in families:
        if family.name not in known:
            assert not family.name.startswith("carillon_"), family.name
            continue
        for sample in family.samples:
            for label, value in sample.labels.items():
                assert label == "le" or value in values_of(family.name, label), (family.name, label, value)
    python = [s for family in families if not family.name.startswith("carillon_") for s in family.samples]
    assert len(python) <= PYTHON
    assert sum(len(family.samples) for family in families) <= MOST


async def _http(url: str) -> None:
    async with httpx.AsyncClient(base_url=url) as http, OrdersClient(url) as orders:
        paths = [f"/api/orders/{n}" for n in range(30)] + [
            "/nonsense",
            "/api/orders",
            "/",
            "/demo.json",
            "/ws",
        ]
        for path in paths:
            for method in ("GET", "POST", "DELETE"):
                await http.request(method, path, headers={"authorization": f"Bearer {path}"})
                await http.request(
                    method, path, headers={"authorization": f"Bearer {token(path)}"}, content=b"{"
                )
        for number in range(20):
            await orders.place(orderId=f"o-{number}")
            await orders.advance(f"o-{number}", "delivered")
            async with SseClient() as follower:
                await follower.connect(url, f"/api/orders/o-{number}/stream?token={token()}&lastEventId=x-9")
                await follower.until(1)
        await http.get(f"/api/stream?channel=nonsense&token={token()}")


async def _sockets(url: str) -> None:
    clients = [await WsClient().hello(url, chatter(f"user-{number}")) for number in range(30)]
    for number, client in enumerate(clients):
        await client.join(f"room-{number}")
        await client.ask("chat_message", roomId=f"room-{number}", text="hello")
        await client.ask("history", roomId=f"other-{number}", limit=10)
        await client.ask("subscribe", channel=f"order:{number}")
        await client.ask("subscribe", channel=f"kind-{number}:x", since="nonsense")
        client.write(b"\x81\x82\x00\x00\x00\x00{}" if number % 2 else b"\xff\xff\xff\xff")
    async with WsClient() as stranger:
        await stranger.connect(url, "not-a-token")
        await until(lambda: stranger.closed)
    await asyncio.gather(*(client.drain() for client in clients))
    await leave_all(clients)
