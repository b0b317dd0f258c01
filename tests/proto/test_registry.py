"""proto/registry.py, and the table of messages in proto/README.md"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

import proto
from proto import subjects
from proto.registry import MESSAGES, Delivery, Direction, Message, Party
from proto.streams import STREAMS

README: Final = Path(proto.__file__).with_name("README.md").read_text(encoding="utf-8")
ROWS: Final = {row.pattern: row for row in MESSAGES}

each = pytest.mark.parametrize("row", MESSAGES, ids=lambda row: row.pattern)


def matches(subject_filter: str, subject: str) -> bool:
    """Whether a NATS filter with `*` matches a subject."""
    wanted, tokens = subject_filter.split("."), subject.split(".")
    return len(wanted) == len(tokens) and all(w in ("*", t) for w, t in zip(wanted, tokens, strict=True))


def live_subject(row: Message) -> str | None:
    """Where the stream that stores a message republishes it."""
    found = [live for spec in STREAMS if (live := spec.live_subject(row.pattern)) is not None]
    return found[0] if found else None


def test_every_message_has_one_row() -> None:
    """No subject has two owners or two meanings."""
    assert len(ROWS) == len(MESSAGES)
    assert len({row.filter for row in MESSAGES}) == len(MESSAGES)


@each
def test_a_pattern_is_made_of_words_and_parameters(row: Message) -> None:
    """A pattern has no wildcard of its own, and its filter is a valid NATS subject."""
    assert all(re.fullmatch(r"[a-z]+|<[a-z_]+>", token) for token in row.pattern.split("."))
    assert all(re.fullmatch(r"[a-z]+|\*", token) for token in row.filter.split("."))


@each
def test_only_a_request_is_answered(row: Message) -> None:
    """A request goes in, is answered, and its owner reads it; everything else goes out and is not."""
    asked = row.pattern.startswith(("rpc.", "ctl."))
    assert (row.reply is not None) == (row.direction is Direction.IN) == asked
    assert row.owner in (row.readers if row.direction is Direction.IN else row.publishers)


@each
def test_what_is_stored_belongs_to_a_stream(row: Message) -> None:
    """JetStream delivery is promised exactly where a stream takes the subject."""
    stored = any(matches(pattern, row.filter) for spec in STREAMS for pattern in spec.subjects)

    assert stored == (row.delivery is Delivery.JETSTREAM)


@each
def test_a_live_message_is_the_stored_one(row: Message) -> None:
    """What a stream republishes has a row of its own, with the same payload, sent by the server."""
    live = live_subject(row)
    if live is not None:
        assert ROWS[live].payload is row.payload
        assert Party.SERVER in ROWS[live].publishers
    elif Party.SERVER in row.publishers:
        assert any(live_subject(other) == row.pattern for other in MESSAGES)


@pytest.mark.parametrize(
    ("subject", "pattern"),
    [
        (subjects.order_log("ann@example.com", "o1"), "orders.log.<user>.<order>"),
        (subjects.order_live("*", ">"), "live.orders.<user>.<order>"),
        (subjects.order_owner("a.b"), "orders.owned.<order>"),
        (subjects.order_owner_copy("a.b"), "orders.owner.<order>"),
        (subjects.rpc("orders", "place"), "rpc.orders.place"),
        (subjects.rpc("orders", "list"), "rpc.orders.list"),
        (subjects.room_log("a.b"), "chat.log.<room>"),
        (subjects.room_policy(">"), "chat.access.<room>"),
        (subjects.policy_changed(">"), "eph.policy.<room>"),
        (subjects.room_policy_copy(">"), "chat.policy.<room>"),
        (subjects.rpc("chat", "send"), "rpc.chat.send"),
        (subjects.gateways_state(), "ctl.gateways.state"),
        (subjects.gateway_control("gw.1", "drain"), "ctl.gateway.<gateway>.drain"),
        (subjects.presence_lease("gw.1", "e"), "presence.lease.<gateway>.<epoch>"),
        (
            subjects.presence_roster("room:>", "gw.1", "e", "0"),
            "presence.roster.<scope>.<gateway>.<epoch>.<shard>",
        ),
        (subjects.presence_live("online"), "live.presence.<scope>"),
        (subjects.presence_live("doc:a.b"), "live.presence.<scope>"),
        (subjects.presence_history("room:*"), "presence.history.<scope>"),
        (subjects.presence_seen("a b"), "presence.seen.<user>"),
        (subjects.typing("room:lobby"), "eph.typing.<scope>"),
        (subjects.rpc("presence", "who"), "rpc.presence.who"),
    ],
)
def test_a_subject_matches_its_row_and_no_other(subject: str, pattern: str) -> None:
    """Permissions made from the filters let through what proto.subjects builds."""
    assert [row.pattern for row in MESSAGES if matches(row.filter, subject)] == [pattern]


def test_the_readmes_table_is_the_registry() -> None:
    """The documentation lists the messages that exist, with what they carry and who may."""
    listed = re.findall(r"^\| (`.*) \|$", README, re.MULTILINE)

    assert listed == [_documented(row) for row in MESSAGES]


def _documented(row: Message) -> str:
    payload = f"`{row.payload.__name__}`" + (f" -> `{row.reply.__name__}`" if row.reply else "")
    flow = f"{', '.join(row.publishers)} -> {', '.join(row.readers)}"
    return " | ".join((f"`{row.pattern}`", row.direction, row.delivery, payload, row.owner, flow, row.rule))
