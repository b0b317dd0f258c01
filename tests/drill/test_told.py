"""The judge of who was said to have come or gone: silent where it is true, and not where it is not."""

from __future__ import annotations

import pytest

from tests.support.drill_presence import Told, Visit, untrue

VISITS = [Visit("r", "guest", 10.0, 15.0), Visit("r", "guest", 30.0, 35.0), Visit("r", "late", 40.0)]


@pytest.mark.parametrize(
    ("at", "user", "there"),
    [
        (10.2, "guest", True),
        (15.1, "guest", False),
        (25.0, "guest", False),
        (30.1, "guest", True),
        (40.1, "late", True),
        (4.9, "stayer", True),
    ],
)
def test_what_is_true_may_be_told(at: float, user: str, there: bool) -> None:
    """Late as well, and anything before the drill began."""
    assert untrue([Told(at, "c", "r", user, there)], VISITS, 5.0) == []


@pytest.mark.parametrize(
    ("room", "at", "user", "there"),
    [
        ("r", 12.0, "guest", False),
        ("r", 9.0, "guest", True),
        ("r", 50.0, "late", False),
        ("r", 20.0, "stayer", False),
        ("r", 20.0, "stayer", True),
        ("elsewhere", 12.0, "guest", True),
    ],
)
def test_what_is_not_true_is_found(room: str, at: float, user: str, there: bool) -> None:
    """Gone before they left, there before they came, gone or back although they stayed, in another room."""
    word = Told(at, "c", room, user, there)

    assert untrue([word], VISITS, 5.0) == [word]
