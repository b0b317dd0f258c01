"""The chart as Helm renders it. Without helm the tests that need it are skipped and say so."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

CHART: Final = Path(__file__).parents[2] / "deploy" / "helm" / "carillon"
RELEASE: Final = "live"
NAMESPACE: Final = "shop"
KUBERNETES: Final = "1.37.0"
SETS: Final = ("minimal", "default", "ha", "keda", "gateway-api", "hardened", "external-nats")
"""Of ci/."""

Object = dict[str, Any]


def helm() -> str:
    """The helm of the virtual environment, or on the PATH. Skips the test if there is none."""
    own = Path(sys.executable).with_name("helm")
    found = str(own) if own.exists() else shutil.which("helm")
    if found is None:
        pytest.skip("HELM IS MISSING: the chart was not rendered; `make tools` builds it")
    return found


def template(
    *arguments: str, chart: Path = CHART, release: str = RELEASE, verb: str = "template"
) -> subprocess.CompletedProcess[str]:
    """`helm template` with these arguments, or another verb of it."""
    command = [helm(), verb, release, str(chart), "--namespace", NAMESPACE, *arguments]
    if verb == "template":  # a helm that was built from its module may take itself for an old one
        command += ["--kube-version", KUBERNETES]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


class Chart:
    """What one rendering made."""

    def __init__(self, objects: list[Object]) -> None:
        self.objects = objects

    def all(self, kind: str) -> list[Object]:
        """Every object of a kind."""
        return [each for each in self.objects if each["kind"] == kind]

    def one(self, kind: str, component: str = "") -> Object:
        """The object of a kind that is named after a component; with "" after the release alone."""
        name = f"{RELEASE}-carillon" + (f"-{component}" if component else "")
        found = [each for each in self.all(kind) if each["metadata"]["name"] == name]
        assert len(found) == 1, (kind, name, [each["metadata"]["name"] for each in self.all(kind)])
        return found[0]

    def pod(self, service: str) -> Object:
        """The spec of a service's pods."""
        spec: Object = self.one("Deployment", service)["spec"]["template"]["spec"]
        return spec

    def container(self, service: str) -> Object:
        """A service's own container."""
        found: Object = next(each for each in self.pod(service)["containers"] if each["name"] == service)
        return found

    def env(self, service: str) -> dict[str, Any]:
        """Its variables: name -> value, or where it comes from."""
        return {
            each["name"]: each.get("value", each.get("valueFrom")) for each in self.container(service)["env"]
        }

    def pods(self) -> list[tuple[str, Object]]:
        """Every pod's spec, with the name of what makes it."""
        specs = [
            (each["metadata"]["name"], each["spec"]["template"]["spec"]) for each in self.all("Deployment")
        ]
        specs += [(each["metadata"]["name"], each["spec"]["template"]["spec"]) for each in self.all("Job")]
        return specs + [(each["metadata"]["name"], each["spec"]) for each in self.all("Pod")]


@functools.cache
def _rendered(arguments: tuple[str, ...]) -> list[Object]:
    done = template(*arguments)
    assert done.returncode == 0, done.stderr
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def render(*sets: str, values: str = "") -> Chart:
    """With `--set` for each `path=value`, and with a set of ci/."""
    return Chart(deepcopy(_rendered(tuple(_arguments(sets, values)))))


def refusal(*sets: str, values: str = "") -> str:
    """What Helm says when it refuses these values; fails when it takes them."""
    done = template(*_arguments(sets, values))
    assert done.returncode != 0, f"taken: {sets}"
    return done.stderr


def _arguments(sets: tuple[str, ...], values: str) -> list[str]:
    chosen = ["--values", str(CHART / "ci" / f"{values}-values.yaml")] if values else []
    return [*chosen, *(part for each in sets for part in (_option(each), each))]


def _option(assignment: str) -> str:
    # --set makes a text of a number with a point.
    return "--set-json" if re.search(r"=[0-9]+\.[0-9]+$", assignment) else "--set"
