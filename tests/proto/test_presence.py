"""proto/presence.py, and its subjects"""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proto import subjects
from proto.presence import GatewayRoster, TakeSnapshot
from proto.streams import PRESENCE_HISTORY, PRESENCE_LEASES, PRESENCE_ROSTERS
from proto.subjects import InvalidId, InvalidSubject, LeaseAddress, RosterAddress

ids = st.text(min_size=1, max_size=32)
scopes = st.one_of(
    st.just("online"), ids.map(lambda name: f"room:{name}"), ids.map(lambda name: f"doc:{name}")
)


@settings(deadline=None)
@given(scopes, ids, ids, ids)
def test_a_rosters_subject_names_its_address_and_nothing_else(
    scope: str, gateway: str, epoch: str, shard: str
) -> None:
    """Whatever scopes and gateways are called, stored or live, and the stream takes it."""
    subject = subjects.presence_roster(scope, gateway, epoch, shard)
    live = PRESENCE_ROSTERS.live_subject(subject)

    assert subject.count(".") == PRESENCE_ROSTERS.subjects[0].count(".")
    assert live == f"live.{subject}"
    address = RosterAddress(scope, gateway, epoch, shard)
    assert subjects.parse_presence_roster(subject) == subjects.parse_presence_roster(live) == address
    assert address.lease == LeaseAddress(gateway, epoch)


@settings(deadline=None)
@given(ids, ids)
def test_a_leases_subject_names_the_gateways_life(gateway: str, epoch: str) -> None:
    """Stored or live."""
    subject = subjects.presence_lease(gateway, epoch)
    live = PRESENCE_LEASES.live_subject(subject)

    assert live is not None
    assert (
        subjects.parse_presence_lease(subject)
        == subjects.parse_presence_lease(live)
        == LeaseAddress(gateway, epoch)
    )


@settings(deadline=None)
@given(scopes)
def test_a_scope_is_one_token(scope: str) -> None:
    """No place reaches another one's subject."""
    assert subjects.presence_live(scope).count(".") == subjects.typing(scope).count(".") == 2
    assert subjects.parse_scope(subjects.scope_token(scope)) == scope
    assert PRESENCE_HISTORY.live_subject(subjects.presence_history(scope)) is None


def test_a_scope_may_have_the_longest_id() -> None:
    """128 bytes, as everywhere; its kind does not count."""
    scope = "room:" + "ü" * 64

    assert subjects.parse_scope(subjects.scope_token(scope)) == scope
    with pytest.raises(InvalidId):
        subjects.scope_token(scope + "x")


@pytest.mark.parametrize("scope", ["", "room", "room:", "order:1", "Online", "online:", "online:1", ":x"])
def test_what_is_no_scope_has_no_subject(scope: str) -> None:
    """Nor does it get through as a field."""
    with pytest.raises(InvalidId):
        subjects.presence_live(scope)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"scope": scope}, TakeSnapshot)


@pytest.mark.parametrize(
    "subject",
    ["presence.roster.online.g.e", "presence.roster.order=3A1.g.e.0", "presence.roster.room.g.e.0", "x", ""],
)
def test_another_subject_is_no_roster(subject: str) -> None:
    """Only what `presence_roster` builds is parsed."""
    with pytest.raises(InvalidSubject):
        subjects.parse_presence_roster(subject)


@pytest.mark.parametrize("subject", ["presence.lease.g", "presence.lease.g.e.x", "presence.roster.g.e", ""])
def test_another_subject_is_no_lease(subject: str) -> None:
    """Likewise."""
    with pytest.raises(InvalidSubject):
        subjects.parse_presence_lease(subject)


def test_a_time_without_a_zone_is_refused() -> None:
    """It could not be compared with others."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"at":"2026-01-02T12:00:00","members":[]}', type=GatewayRoster)
