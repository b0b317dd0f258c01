"""carillon/output.py"""

from __future__ import annotations

from typing import TYPE_CHECKING

from carillon.output import Output

if TYPE_CHECKING:
    import pytest

COLUMNS = ("gateway", "id", "user", "channels")
ROW = ("a-gateway-with-a-long-name-1a2b3c4d", "0123456789abcdef", "somebody@example.org", "room:lobby " * 8)


def test_nothing_that_another_command_needs_is_cut(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the terminal is narrow: names and ids stand whole, on one line; what is last is folded."""
    monkeypatch.setenv("COLUMNS", "60")
    Output(json=False).rows([], COLUMNS, [ROW])
    shown = capsys.readouterr().out

    assert "…" not in shown
    first = next(line for line in shown.splitlines() if ROW[0] in line)
    assert all(cell in first for cell in ROW[:3])
    assert shown.split().count("room:lobby") == 8
