"""What NATS's official chart makes of its values, as far as a pod's security goes.

That is `merge` of the pod's template and of each container, over what the chart says by itself.
"""

from __future__ import annotations

from typing import Any, Final

CONTAINERS: Final = {"container": "nats", "reloader": "reloader", "promExporter": "prom-exporter"}
"""Block of values -> container. The reloader is there unless it is switched off."""


def nats_pod(values: dict[str, Any]) -> dict[str, Any]:
    """The pod of a server."""
    containers = [
        {"name": name, "image": f"{name}:1"} | values.get(block, {}).get("merge", {})
        for block, name in CONTAINERS.items()
    ]
    own = {
        "shareProcessNamespace": True,
        "containers": containers,
        "volumes": [{"name": "pid", "emptyDir": {}}],
    }
    spec = own | values["podTemplate"].get("merge", {}).get("spec", {})
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "nats-0"}, "spec": spec}
