"""carillon/doctor/rights.py"""

from __future__ import annotations

import pytest

from carillon.doctor.rights import Lists, Permissions, judged, missing
from proto.permissions import IDENTITIES, rights
from proto.registry import Party


def granted(party: Party) -> Permissions:
    """Exactly what the table says."""
    table = rights(party)
    return Permissions(
        publish=Lists(allow=list(table.publish)),
        subscribe=Lists(allow=list(table.subscribe)),
        responses={} if table.responds else None,
    )


@pytest.mark.parametrize("party", IDENTITIES)
def test_the_table_is_enough_for_its_party(party: Party) -> None:
    """Nothing is missing where NATS grants what the table says, or everything."""
    everything = Permissions(publish=Lists(allow=[">"]), subscribe=Lists(allow=[">"]), responses={})

    assert missing(party, granted(party)) == []
    assert missing(party, everything) == []
    assert missing(party, None) == []


@pytest.mark.parametrize("party", IDENTITIES)
def test_each_right_that_is_taken_away_is_named(party: Party) -> None:
    """One after the other."""
    table = rights(party)
    for subject in table.publish:
        rest = granted(party)
        assert rest.publish is not None
        rest.publish.allow.remove(subject)
        assert missing(party, rest) in ([f"publish {subject}"], []), subject
    for subject in table.subscribe:
        rest = granted(party)
        assert rest.subscribe is not None
        rest.subscribe.allow = ["x", *(each for each in table.subscribe if each != subject)]
        assert missing(party, rest) == [f"subscribe {subject}"]


def test_what_is_denied_counts() -> None:
    """A denied filter that has a subject in common with a wanted one takes it away."""
    spoilt = granted(Party.CHAT)
    assert spoilt.publish is not None
    spoilt.publish.deny.append("chat.log.secret")

    assert missing(Party.CHAT, spoilt) == ["publish chat.log.*"]


def test_a_queue_group_must_be_ours() -> None:
    """A grant for another group is none; one without a group is for all."""
    spoilt = granted(Party.CHAT)
    assert spoilt.subscribe is not None
    spoilt.subscribe.allow = [entry.replace(" chat", " other") for entry in spoilt.subscribe.allow]
    assert "subscribe rpc.chat.send chat" in missing(Party.CHAT, spoilt)

    spoilt.subscribe.allow = [entry.replace(" other", "") for entry in spoilt.subscribe.allow]
    assert missing(Party.CHAT, spoilt) == []


def test_who_serves_must_be_able_to_answer() -> None:
    """Without allow_responses a service is deaf and dumb, and that is told; the list is kept short."""
    mute = granted(Party.CHAT)
    mute.responses = None
    nothing = Permissions(publish=Lists(allow=["x"]), subscribe=Lists(allow=["x"]))

    assert missing(Party.CHAT, mute) == ["answer requests"]
    assert judged(Party.CHAT, nothing).detail.endswith(f"and {len(missing(Party.CHAT, nothing)) - 5} more")
