"""runtime/absence.py: a service that is replaced is waited for, one that is not there is said."""

from __future__ import annotations

from structlog.testing import capture_logs

from runtime.absence import GRACE_SECONDS, Absence, Absences
from runtime.seldom import SECONDS


def test_a_moment_without_anybody_is_waited_for() -> None:
    """Longer than that, and everybody who asks meanwhile is told at once."""
    absence = Absence()

    asked = (0.0, 0.5, 1.0, GRACE_SECONDS, GRACE_SECONDS + 1)
    assert [absence.noticed(now) for now in asked] == [False, False, False, True, True]


def test_what_was_long_ago_does_not_count() -> None:
    """Nobody has asked since, so nobody knows what was between."""
    absence = Absence()
    absence.noticed(0)

    assert not absence.noticed(100)


def test_it_is_said_seldom_with_what_to_do_and_taken_back() -> None:
    """However many ask."""
    absences = Absences()
    with capture_logs() as lines:
        for tick in range(40):
            absences.noticed("chat", tick * 0.5)
            absences.noticed("orders", 0)
        absences.heard_from("chat")
        absences.heard_from("chat")
        absences.heard_from("orders")

    assert SECONDS > 20
    assert [(line["event"], line["component"]) for line in lines] == [
        ("service_absent", "chat"),
        ("service_back", "chat"),
    ]
    assert "python -m services.chat" in lines[0]["fix"]
