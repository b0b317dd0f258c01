"""proto/vectors/*.json: frozen bytes of the wire. Every implementation reads the same files."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

import proto
from proto import chat, control, fleet, frames, orders, presence, websocket
from proto.errors import CATALOGUE, CLOSE_CODES, Refusal
from proto.frames import ErrorBody, Reconnect, Reset, StatusUpdate
from proto.orders import OrderStatus
from proto.positions import InvalidPosition, Position, epoch_of, parse_position
from proto.schema import public_structs
from proto.subjects import (
    InvalidId,
    InvalidSubject,
    OrderAddress,
    decode,
    encode,
    order_live,
    order_log,
    order_owner,
    order_owner_copy,
    orders_of,
    parse_order_log,
)
from services.gateway import codecs
from services.gateway.hub import Event

Vector = dict[str, Any]

FOLDER: Final = Path(proto.__file__).with_name("vectors")
# The standard library reads lone surrogates, which msgspec rightly refuses.
FILES: Final[dict[str, Vector]] = {
    path.stem: json.loads(path.read_bytes()) for path in sorted(FOLDER.glob("*.json"))
}
STRUCTS: Final = {
    kind.__name__: kind
    for module in (orders, chat, presence, control, fleet, frames, websocket)
    for kind in public_structs(module)
}
TYPED: Final = ("commands", "control", "events", "frames")


def each(file: str, section: str) -> pytest.MarkDecorator:
    """One test per entry of a file's section."""
    return pytest.mark.parametrize("vector", FILES[file][section], ids=_title)


def typed(section: str) -> pytest.MarkDecorator:
    """One test per entry of that section in each file of Structs."""
    vectors = [vector for file in TYPED for vector in FILES[file][section]]
    return pytest.mark.parametrize("vector", vectors, ids=_title)


def _title(vector: Vector | str) -> str:
    text = vector if isinstance(vector, str) else str(next(iter(vector.values())))
    return ascii(text[:40])


def test_every_file_and_section_is_read() -> None:
    """A vector that no test reads would prove nothing."""
    known = {
        **{file: {"about", "accepted", "refused"} for file in TYPED},
        "errors": {"about", "errors", "closeCodes"},
        "positions": {"about", "accepted", "refused", "epochs"},
        "subjects": {"about", "tokens", "refusedIds", "refusedTokens", "orders"},
        "sse": {"about", "blocks", "events", "frames", "heartbeat", "retry", "chunks", "lastChunk"},
    }

    assert {file: set(content) for file, content in FILES.items()} == known
    assert list(FOLDER.iterdir()) == list(FOLDER.glob("*.json"))


def test_every_message_has_a_vector() -> None:
    """No Struct of the wire is without frozen bytes, its own or inside another's."""
    covered = {vector["type"] for file in TYPED for vector in FILES[file]["accepted"]}

    assert set(STRUCTS) - covered == {
        *("Order", "StatusChange", "AppliedKey"),  # parts of OrderChanged
        "HistoryMessage",  # part of HistoryPage
        "PastChange",  # part of PresenceHistory
    }


@typed("accepted")
def test_the_wire_decodes_to_the_value(vector: Vector) -> None:
    """Frozen bytes are understood: unknown fields are ignored, missing new ones get their defaults."""
    decoded = msgspec.json.decode(vector["wire"], type=STRUCTS[vector["type"]])

    assert json.loads(msgspec.json.encode(decoded)) == vector["value"]


@typed("accepted")
def test_the_value_encodes_to_the_wire(vector: Vector) -> None:
    """What we send is byte for byte what was frozen."""
    value = msgspec.convert(vector["value"], STRUCTS[vector["type"]])

    assert msgspec.json.encode(value).decode() == vector.get("encoded", vector["wire"])


@typed("refused")
def test_what_is_not_the_wire_is_refused(vector: Vector) -> None:
    """A wrong message is an error, never a message with another meaning."""
    with pytest.raises(msgspec.DecodeError):
        msgspec.json.decode(vector["wire"], type=STRUCTS[vector["type"]])


@each("errors", "errors")
def test_an_errors_body_is_frozen(vector: Vector) -> None:
    """An error keeps its status, its policy and its sentence."""
    refusal = Refusal(vector["code"])
    body = msgspec.json.encode(ErrorBody(refusal.code, refusal.message)).decode()

    assert (refusal.row.status, refusal.row.retry, body) == (
        vector["status"],
        vector["retry"],
        vector["body"],
    )
    assert msgspec.json.decode(body, type=ErrorBody) == ErrorBody(refusal.code, refusal.message)


def test_the_catalogue_is_frozen() -> None:
    """Every error and every close code has a vector."""
    closes = [
        {"code": row.code, "name": row.name, "retry": row.retry, "message": row.message}
        for row in CLOSE_CODES.values()
    ]

    assert [vector["code"] for vector in FILES["errors"]["errors"]] == list(CATALOGUE)
    assert FILES["errors"]["closeCodes"] == closes


@each("positions", "accepted")
def test_a_position_is_read_and_written(vector: Vector) -> None:
    """A position's text and its parts belong together, in both directions."""
    position = Position(vector["epoch"], vector["seq"], vector["ended"])

    assert parse_position(vector["text"]) == position
    assert str(position) == vector["text"]


@each("positions", "refused")
def test_what_is_no_position_is_refused(vector: str) -> None:
    """Other text is no position."""
    with pytest.raises(InvalidPosition):
        parse_position(vector)


@each("positions", "epochs")
def test_an_epoch_follows_from_the_time_of_creation(vector: Vector) -> None:
    """Every process gives one stream the same epoch."""
    assert epoch_of(vector["created"]) == vector["epoch"]


@each("subjects", "tokens")
def test_an_id_is_encoded_and_decoded(vector: Vector) -> None:
    """An id and its token belong together, in both directions."""
    assert encode(vector["id"]) == vector["token"]
    assert decode(vector["token"]) == vector["id"]


@each("subjects", "refusedIds")
def test_an_impossible_id_is_refused(vector: str) -> None:
    """Nothing, too much, and text that UTF-8 cannot hold have no token."""
    with pytest.raises(InvalidId):
        encode(vector)


@each("subjects", "refusedTokens")
def test_an_impossible_token_is_refused(vector: str) -> None:
    """What encode never writes stands for no id."""
    with pytest.raises(InvalidSubject):
        decode(vector)


@each("subjects", "orders")
def test_an_order_lives_where_it_always_did(vector: Vector) -> None:
    """Subjects are the addresses of stored data: they never change."""
    user, order = vector["user"], vector["order"]

    assert order_log(user, order) == vector["log"]
    assert orders_of(user) == vector["ofUser"]
    assert order_owner(order) == vector["owned"]
    assert order_owner_copy(order) == vector["owner"]
    assert order_live(user, order) == vector["live"]
    assert parse_order_log(vector["log"]) == OrderAddress(user, order)


@each("sse", "blocks")
def test_a_block_is_encoded(vector: Vector) -> None:
    """Any data becomes exactly these bytes."""
    encoded = codecs.block(
        vector["data"].encode(),
        event=vector.get("event", ""),
        position=parse_position(vector["id"]) if "id" in vector else None,
        retry_ms=vector.get("retryMs"),
    )

    assert encoded.decode() == vector["bytes"]


@each("sse", "events")
def test_an_orders_event_is_encoded(vector: Vector) -> None:
    """Snapshots and updates become exactly these bytes, with `complete` behind the last one."""
    raw = vector["event"]
    body = StatusUpdate(OrderStatus(raw["status"]), dt.datetime.fromisoformat(raw["updatedAt"]))
    event = Event(raw["epoch"], raw["seq"], raw["previous"], body, raw["final"])
    if vector["encode"] == "snapshot":
        encoded = codecs.snapshot(event, vector.get("retryMs"))
    else:
        encoded = codecs.update(event)
        assert codecs.chunked_update(event) == codecs.chunk(encoded)

    assert encoded.decode() == vector["bytes"]


@each("sse", "frames")
def test_a_streams_other_events_are_encoded(vector: Vector) -> None:
    """Notices of the stream itself become exactly these bytes."""
    frame = msgspec.convert(vector["value"], STRUCTS[vector["type"]])
    match frame:
        case Reset():
            encoded = codecs.reset(frame.reason)
        case Reconnect():
            encoded = codecs.reconnect(frame)
        case ErrorBody():
            encoded = codecs.token_expired(frame)
        case _:
            pytest.fail(f"no codec for {vector['type']}")

    assert encoded.decode() == vector["bytes"]


def test_what_carries_no_event_is_encoded() -> None:
    """Heartbeat, pause and chunks are frozen as well."""
    sse = FILES["sse"]

    assert sse["heartbeat"].encode() == codecs.HEARTBEAT
    assert sse["lastChunk"].encode() == codecs.LAST_CHUNK
    assert [codecs.retry(each["ms"]).decode() for each in sse["retry"]] == [
        each["bytes"] for each in sse["retry"]
    ]
    for chunk in sse["chunks"]:
        assert codecs.chunk(chunk["data"].encode()).decode() == chunk["bytes"]
