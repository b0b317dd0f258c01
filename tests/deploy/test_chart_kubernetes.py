"""Every value set against the schemas of the oldest and the newest Kubernetes that the chart is for."""

from __future__ import annotations

from typing import Any, Final

import jsonschema
import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from tests.support.helm import CHART, SETS, render
from tests.support.kubernetes import CUSTOM

NEWEST: Final = "1.37"
FOREIGN: Final = {"BackendTrafficPolicy"}
"""What a user adds in ci/, of projects whose schemas we do not have."""


def oldest() -> str:
    """What Chart.yaml says."""
    said: str = yaml.safe_load((CHART / "Chart.yaml").read_text())["kubeVersion"]
    return said.removeprefix(">=").removesuffix(".0-0")


def validate(each: dict[str, Any], version: str) -> None:
    """Strictly: a field that Kubernetes does not know is an error, not ignored."""
    if (custom := CUSTOM.get((each["apiVersion"], each["kind"]))) is not None:
        jsonschema.validate(each, custom)
    elif each["kind"] not in FOREIGN:
        kubernetes_validate.validate(each, version, strict=True)


def test_the_newest_version_is_the_newest_there_are_schemas_of() -> None:
    """A newer package of schemas moves the range."""
    assert str(kubernetes_validate.latest_version()).startswith(f"{NEWEST}.")


@pytest.mark.parametrize("version", [oldest(), NEWEST])
@pytest.mark.parametrize("values", SETS)
def test_every_object_is_one_that_kubernetes_takes(values: str, version: str) -> None:
    """Each field known, each of its type."""
    objects = render(values=values).objects

    for each in objects:
        validate(each, version)
    assert len(objects) > 10


def test_a_field_that_kubernetes_does_not_know_is_noticed() -> None:
    """So a check that passes means something."""
    deployment = render().one("Deployment", "gateway")
    deployment["spec"]["template"]["spec"]["terminationGracePeriodSecond"] = 1

    with pytest.raises(kubernetes_validate.ValidationError):
        validate(deployment, NEWEST)


@pytest.mark.parametrize("values", SETS)
def test_no_object_is_made_twice(values: str) -> None:
    """Kind and name."""
    seen = [
        (each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"])
        for each in render(values=values).objects
    ]

    assert len(seen) == len(set(seen))
