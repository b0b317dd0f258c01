"""proto/permissions.py"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proto.orders import OrderChanged, PlaceOrder
from proto.permissions import IDENTITIES, covers, inbox, rights
from proto.registry import MESSAGES, Delivery, Direction, Message, Party
from proto.streams import STREAMS, StreamSpec

TOKENS = st.sampled_from(["a", "b", "*"])
FILTERS = st.builds(
    lambda tokens, rest: ".".join([*tokens, *rest]),
    st.lists(TOKENS, min_size=1, max_size=3),
    st.sampled_from([[], [">"]]),
)

SHELVES = StreamSpec(
    name="SHELVES",
    description="of a test",
    subjects=("shelf.log.*",),
    republish_from="shelf.log.>",
    republish_to="live.shelf.>",
    max_bytes=1,
    max_message_bytes=1,
)


def row(
    pattern: str, delivery: Delivery, publishers: tuple[Party, ...], readers: tuple[Party, ...]
) -> Message:
    """A message of a test."""
    return Message(
        pattern=pattern,
        direction=Direction.OUT,
        delivery=delivery,
        payload=OrderChanged,
        owner=Party.ORDERS,
        publishers=publishers,
        readers=readers,
        rule="a test",
    )


def matches(subject_filter: str, subject: list[str]) -> bool:
    """Whether a literal subject matches a filter, as NATS says."""
    wanted = subject_filter.split(".")
    if wanted[-1] == ">":
        return len(subject) >= len(wanted) and matches(".".join(wanted[:-1]), subject[: len(wanted) - 1])
    return len(wanted) == len(subject) and all(w in ("*", t) for w, t in zip(wanted, subject, strict=True))


@given(FILTERS, FILTERS, st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=5))
def test_a_covering_filter_matches_all_that_the_other_does(
    wide: str, narrow: str, subject: list[str]
) -> None:
    """No subject matches the narrow filter alone."""
    if covers(wide, narrow) and matches(narrow, subject):
        assert matches(wide, subject)


@given(FILTERS)
def test_a_filter_covers_itself_and_is_covered_by_everything(subject_filter: str) -> None:
    """Covering is reflexive, and `>` is its top."""
    assert covers(subject_filter, subject_filter)
    assert covers(">", subject_filter)


def test_a_new_stream_and_its_rows_are_enough() -> None:
    """Rights follow from rows and streams alone: who stores, who reads back, who hears the copies."""
    messages = (
        row("shelf.log.<shelf>", Delivery.JETSTREAM, (Party.ORDERS,), (Party.ORDERS,)),
        row("live.shelf.<shelf>", Delivery.CORE, (Party.SERVER,), (Party.GATEWAY,)),
    )
    writer, listener, stranger = (
        rights(party, messages, [SHELVES]) for party in (Party.ORDERS, Party.GATEWAY, Party.CHAT)
    )

    assert writer.publish == (
        "shelf.log.*",
        "$JS.API.STREAM.INFO.SHELVES",
        "$JS.API.STREAM.MSG.GET.SHELVES",
        "$JS.API.DIRECT.GET.SHELVES",
        "$JS.API.DIRECT.GET.SHELVES.shelf.log.*",
        "$SYS.REQ.USER.INFO",
        "_INBOX_orders.>",
    )
    assert writer.subscribe == ("_INBOX_orders.>",)
    assert listener.publish == ("$SYS.REQ.USER.INFO", "_INBOX_gateway.>")
    assert listener.subscribe == (
        "live.shelf.*",
        "$JS.EVENT.ADVISORY.STREAM.CREATED.SHELVES",
        "$JS.EVENT.ADVISORY.STREAM.DELETED.SHELVES",
        "$JS.EVENT.ADVISORY.STREAM.RESTORE_COMPLETE.SHELVES",
        "$JS.EVENT.ADVISORY.STREAM.LEADER_ELECTED.SHELVES",
        "_INBOX_gateway.>",
    )
    assert (stranger.publish, stranger.subscribe) == (
        ("$SYS.REQ.USER.INFO", "_INBOX_chat.>"),
        ("_INBOX_chat.>",),
    )


def test_a_request_is_served_in_its_queue_group_and_answered() -> None:
    """Who serves requests may answer them and is found by `$SRV`; who sends them may neither."""
    request = Message(
        pattern="rpc.orders.place",
        direction=Direction.IN,
        delivery=Delivery.CORE,
        payload=PlaceOrder,
        owner=Party.ORDERS,
        publishers=(Party.GATEWAY,),
        readers=(Party.ORDERS,),
        rule="a test",
    )
    server, caller = rights(Party.ORDERS, [request], []), rights(Party.GATEWAY, [request], [])

    assert server.responds
    assert "rpc.orders.place orders" in server.subscribe
    assert "$SRV.PING.orders.*" in server.subscribe
    assert "rpc.orders.place" in caller.publish
    assert not caller.responds
    assert not any(subject.startswith("$SRV") for subject in caller.subscribe)


def test_only_the_provisioner_may_change_streams() -> None:
    """Nobody else has a subject of JetStream's API that changes anything, and nobody may delete."""
    changing = ("CREATE", "UPDATE", "DELETE", "PURGE", "RESTORE", "SNAPSHOT", "CONSUMER", "META", "SERVER")
    for party in IDENTITIES:
        api = [subject for subject in rights(party).publish if subject.startswith("$JS.API.")]
        found = {word for subject in api for word in changing if word in subject}
        assert found == {Party.PROVISION: {"CREATE", "UPDATE"}, Party.BACKUP: {"SNAPSHOT"}}.get(party, set())
        assert not any(
            covers(subject, f"$JS.API.STREAM.DELETE.{spec.name}") for subject in api for spec in STREAMS
        )


def test_every_party_has_an_inbox_of_its_own() -> None:
    """Nobody may subscribe to the answers of another."""
    for party in IDENTITIES:
        for other in IDENTITIES:
            heard = any(covers(subject, f"{inbox(other)}.a.b") for subject in rights(party).subscribe)
            assert heard == (party is other)


def test_no_right_is_wider_than_a_kind_of_message() -> None:
    """A `>` stands only behind an inbox, or behind `$SRV` for operators."""
    for party in IDENTITIES:
        granted = rights(party)
        wide = {subject for subject in (*granted.publish, *granted.subscribe) if subject.endswith(">")}
        services = (
            {f"$SRV.{verb}.>" for verb in ("PING", "INFO", "STATS")} if party is Party.OPERATOR else set()
        )
        assert wide == {f"{inbox(party)}.>"} | services


def test_the_rights_of_all_rows_stand_in_the_table() -> None:
    """Each publisher may publish, each reader subscribe."""
    for message in MESSAGES:
        for party in IDENTITIES:
            assert (message.filter in rights(party).publish) == (party in message.publishers)
