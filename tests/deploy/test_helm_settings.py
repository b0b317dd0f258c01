"""A service's settings in the chart."""

from __future__ import annotations

import re

import msgspec
import pytest

from deploy.helm.settings import ELSEWHERE, camel, discovered, properties


def snake(name: str) -> str:
    """What the chart's templates make of a name."""
    return re.sub(r"([A-Z])", r"_\1", name).lower()


def test_every_service_is_found_with_its_settings() -> None:
    """By its package."""
    found = discovered()

    assert {"gateway", "orders", "chat"} <= set(found)
    assert "concurrency" in properties(found["orders"])


@pytest.mark.parametrize("service", sorted(discovered()))
def test_a_name_in_the_chart_leads_back_to_its_variable(service: str) -> None:
    """Camel case is undone without loss."""
    fields = [field.name for field in msgspec.structs.fields(discovered()[service])]

    assert [snake(camel(name)) for name in fields] == fields


@pytest.mark.parametrize("service", sorted(discovered()))
def test_the_chart_takes_every_setting_that_it_does_not_make_itself(service: str) -> None:
    """And no secret."""
    kind = discovered()[service]
    taken = {snake(name) for name in properties(kind)}

    assert taken == {field.name for field in msgspec.structs.fields(kind)} - ELSEWHERE
    assert not any("secret" in name for name in taken)


def test_bounds_come_along() -> None:
    """So a value that the process would refuse is refused before it starts."""
    gateway = properties(discovered()["gateway"])

    assert gateway["maxConnections"] == {"type": "integer", "minimum": 1}
    assert gateway["pingInterval"] == {"type": "number", "exclusiveMinimum": 0}
    assert gateway["origins"] == {"type": "array", "items": {"type": "string"}}
