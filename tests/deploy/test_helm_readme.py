"""The chart's README from its values."""

from __future__ import annotations

import pytest

from deploy.helm.readme import BEGIN, END, Row, rows, table, undocumented, written

TEXT = """\
# Not for the page.
# -- One
one: ""
group:
  # -- Two | three
  two: [1, 2]
  deeper:
    # -- Switch
    on: true
plain: 1
"""
VALUES = {"one": "", "group": {"two": [1, 2], "deeper": {"on": True}}, "plain": 1}


def test_a_value_is_told_with_its_default_and_its_meaning() -> None:
    """In the order of the file."""
    assert rows(TEXT, VALUES) == [
        Row("one", '""', "One"),
        Row("group.two", "[1, 2]", "Two | three"),
        Row("group.deeper.on", "true", "Switch"),
    ]


def test_a_value_without_a_comment_is_found() -> None:
    """Unless it is a service's, and the defaults explain it."""
    values = {**VALUES, "services": {"gateway": {"public": True, "odd": 1}}}
    text = TEXT + "defaults:\n  # -- Public\n  public: false\n"

    assert undocumented(text, {**values, "defaults": {"public": False}}) == ["plain", "services.gateway.odd"]


def test_a_cell_keeps_its_bars() -> None:
    """They would else end it."""
    assert "Two \\| three" in table(rows(TEXT, VALUES))


def test_the_rest_of_the_page_stays() -> None:
    """Only what is between the marks is written."""
    page = written(f"head\n{BEGIN}\nold\n{END}\ntail\n", [Row("a", "1", "A")])

    assert page.startswith("head\n")
    assert page.endswith(f"{END}\ntail\n")
    assert "old" not in page
    assert "| `a` | `1` | A |" in page


def test_a_page_without_marks_is_an_error() -> None:
    """Never written over."""
    with pytest.raises(ValueError, match="no place"):
        written("head", [])
