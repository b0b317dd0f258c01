"""The schema of the chart's values."""

from __future__ import annotations

import pytest

from deploy.helm.schema import schema

VALUES = {
    "image": {"digest": "", "repository": "carillon"},
    "defaults": {"replicas": 2, "settings": {}, "public": False},
    "services": {"gateway": {}, "later": {}},
}


def test_the_shape_comes_from_the_values() -> None:
    """And whatever is not there is refused."""
    made = schema(VALUES, {})

    assert made["additionalProperties"] is False
    assert set(made["properties"]) == {"image", "defaults", "services", "global"}
    assert made["properties"]["image"]["additionalProperties"] is False
    assert made["properties"]["image"]["properties"]["repository"] == {"type": "string"}


def test_a_service_has_the_keys_of_the_defaults_and_its_own_settings() -> None:
    """One whose code is not known takes any variable's name."""
    services = schema(VALUES, {"gateway": {"echo": {"type": "boolean"}}})["properties"]["services"][
        "properties"
    ]

    assert set(services["gateway"]["properties"]) == {"replicas", "settings", "public"}
    assert services["gateway"]["properties"]["settings"]["properties"] == {"echo": {"type": "boolean"}}
    assert services["gateway"]["properties"]["settings"]["additionalProperties"] is False
    assert services["later"]["properties"]["settings"]["additionalProperties"] == {
        "type": ["string", "number", "boolean"]
    }


def test_a_value_whose_type_nobody_said_is_an_error() -> None:
    """Never an open door."""
    with pytest.raises(TypeError, match=r"image\.things"):
        schema({**VALUES, "image": {"things": []}}, {})
