"""The chart without helm: its values by its schema, its templates by what they name. Pure Python, it always
runs.
"""

from __future__ import annotations

import json
import pkgutil
import re
from pathlib import Path
from typing import Any, Final

import jsonschema
import pytest
import yaml

import services
from deploy.helm.__main__ import generated
from deploy.helm.readme import undocumented
from tests.support.helm import CHART, SETS

ROOT: Final = Path(__file__).parents[2]
TEMPLATES: Final = sorted(
    [*CHART.glob("templates/**/*.tpl"), *CHART.glob("templates/**/*.yaml"), CHART / "templates/NOTES.txt"]
)
VALUES: Final = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA: Final = json.loads((CHART / "values.schema.json").read_text())
OPENING: Final = re.compile(r"\{\{-?\s*(?:if|range|with|define|block)\b")
CLOSING: Final = re.compile(r"\{\{-?\s*end\s*-?\}\}")


def merged(values: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """As Helm merges a file of values over the chart's."""
    both = dict(values)
    for key, value in over.items():
        known = both.get(key)
        both[key] = merged(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return both


def value_set(name: str) -> dict[str, Any]:
    """One of ci/."""
    loaded: dict[str, Any] = yaml.safe_load((CHART / "ci" / f"{name}-values.yaml").read_text())
    return loaded


def faults(values: dict[str, Any]) -> list[str]:
    """Path and reason of everything that the schema refuses."""
    found = jsonschema.Draft7Validator(SCHEMA).iter_errors(merged(VALUES, values))
    return [f"/{'/'.join(map(str, fault.absolute_path))}: {fault.message}" for fault in found]


def test_the_schema_is_one() -> None:
    """Of the draft that every Helm reads."""
    jsonschema.Draft7Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("values", SETS)
def test_every_value_set_fits_the_schema(values: str) -> None:
    """That of the chart itself, and those of ci/."""
    assert faults(value_set(values)) == []


def test_there_are_no_other_value_sets() -> None:
    """The tests know them all."""
    assert sorted(path.name for path in (CHART / "ci").iterdir()) == sorted(
        f"{name}-values.yaml" for name in SETS
    )


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"replica": 1}, "/: Additional properties are not allowed ('replica' was unexpected)"),
        (
            {"services": {"gatway": {}}},
            "/services: Additional properties are not allowed ('gatway' was unexpected)",
        ),
        (
            {"services": {"chat": {"settings": {"chatPerMin": 1}}}},
            "/services/chat/settings: Additional properties are not allowed ('chatPerMin' was unexpected)",
        ),
        ({"nats": {"streamReplicas": 2}}, "/nats/streamReplicas: 2 is not one of [1, 3, 5]"),
    ],
)
def test_a_misspelt_key_is_named_with_its_path(wrong: dict[str, Any], said: str) -> None:
    """Also without helm."""
    assert faults(wrong) == [said]


def test_no_object_of_the_schema_takes_unknown_keys() -> None:
    """But for what Kubernetes has its own words for, and Helm's `global`."""
    free: set[str] = set()

    def walk(schema: Any, path: tuple[str, ...]) -> None:
        if isinstance(schema, dict):
            if schema.get("type") == "object" and "additionalProperties" not in schema:
                free.add(path[-1] if path[-1] != "items" else path[-2])
            for key, each in schema.items():
                walk(each, path if key in ("properties",) else (*path, key))

    walk(SCHEMA, ())
    assert free <= {
        "affinity", "podSpec", "global", "settings", "pullSecrets", "parentRefs", "tls", "tolerations",
        "constraints",
        "extraEnv", "extraEnvFrom", "extraVolumes", "extraVolumeMounts", "extraContainers", "initContainers",
        "extraIngress", "extraEgress", "publicPeers", "internalPeers", "natsPeers", "dnsPeers", "jwksPeers",
        "extraObjects",
    }  # fmt: skip


def test_what_is_generated_is_up_to_date() -> None:
    """`make schema` was run."""
    assert {path.name: path.read_text() for path in generated()} == {
        path.name: text for path, text in generated().items()
    }


def test_every_value_is_explained() -> None:
    """By a comment, from which the README is made."""
    assert undocumented((CHART / "values.yaml").read_text(), VALUES) == []


def test_every_service_has_a_block() -> None:
    """And no block is for nobody."""
    packages = {module.name for module in pkgutil.iter_modules(services.__path__) if module.ispkg}

    assert packages == set(VALUES["services"])


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_templates_name_values_that_exist(template: Path) -> None:
    """Every `.Values.a.b` of every template is in values.yaml."""
    for path in re.findall(r"\.Values((?:\.[a-zA-Z]+)+)", template.read_text()):
        found: Any = VALUES
        for key in path.strip(".").split("."):
            assert key in found, path
            found = found[key]


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_what_a_template_opens_it_closes(template: Path) -> None:
    """As often."""
    text = re.sub(r"\{\{-?\s*/\*.*?\*/\s*-?\}\}", "", template.read_text(), flags=re.DOTALL)

    assert len(OPENING.findall(text)) == len(CLOSING.findall(text))
    assert text.count("{{") == text.count("}}")


def test_what_is_included_is_defined() -> None:
    """Once, and nothing is defined in vain."""
    text = "\n".join(path.read_text() for path in TEMPLATES)
    defined = re.findall(r'define "([\w.]+)"', text)

    assert len(defined) == len(set(defined))
    assert set(re.findall(r'include "([\w.]+)"', text)) == set(defined)


def test_the_chart_carries_what_monitoring_has() -> None:
    """Its dashboards and rules are those of deploy/monitoring, not copies; the chart has no link, for Helm
    warns of each with every command.
    """
    for name in ("dashboards", "rules"):
        assert (ROOT / "deploy" / "monitoring" / name).resolve() == CHART / name
    assert not [path for path in CHART.rglob("*") if path.is_symlink()]


def test_the_chart_and_the_project_have_one_version() -> None:
    """Without a tag the image of that version is pulled."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)

    assert project is not None
    assert chart["appVersion"] == project[1]
