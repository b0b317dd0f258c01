"""values.schema.json, from values.yaml: a key that is not there is refused. Pure.

The shape comes from the values; what a default does not show, the kinds of a list's items, choices and
bounds, is said here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

Schema = dict[str, Any]

TEXTS: Final[Schema] = {"type": "object", "additionalProperties": {"type": "string"}}
SCALARS: Final[Schema] = {
    "type": "object",
    "propertyNames": {"pattern": "^[A-Za-z_][A-Za-z0-9_]*$"},
    "additionalProperties": {"type": ["string", "number", "boolean"]},
}
ANY_OBJECT: Final[Schema] = {"type": "object"}
OBJECTS: Final[Schema] = {"type": "array", "items": ANY_OBJECT}
NAMED: Final[Schema] = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["name"],
        "properties": {"name": {"type": "string", "minLength": 1}},
    },
}
HOSTS: Final[Schema] = {
    "type": "array",
    "items": {"type": "string", "pattern": r"^(\*\.)?[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"},
}
COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
AT_LEAST_ONE: Final[Schema] = {"type": "integer", "minimum": 1}
SHARE: Final[Schema] = {
    "anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": "^(100|[0-9]{1,2})%$"}]
}
QUANTITY: Final[Schema] = {"type": ["string", "number"], "pattern": "^[0-9.]+(m|[kMGT]i?)?$"}
DIGEST: Final[Schema] = {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"}
DURATION: Final[Schema] = {"type": "string", "pattern": "^([0-9]+(h|m|s|ms))*$"}
NAME: Final[Schema] = {"type": "string", "pattern": "^([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$"}
SERVER: Final = r"(nats|tls)://[^,@\s/]+"


def choice(*values: object) -> Schema:
    """One of these."""
    return {"enum": list(values)}


WRITTEN: Final[dict[str, Schema]] = {
    "pullPolicy": choice("Always", "IfNotPresent", "Never"),
    "pullSecrets": NAMED,
    "digest": DIGEST,
    "existingSecret": NAME,
    "secretPrefix": NAME,
    "existingConfigMap": NAME,
    "existingTokenSecret": NAME,
    "annotations": TEXTS,
    "podAnnotations": TEXTS,
    "podLabels": TEXTS,
    "nodeSelector": TEXTS,
    "labels": TEXTS,
    "affinity": ANY_OBJECT,
    "podSpec": ANY_OBJECT,
    "env": SCALARS,
    "extraEnv": NAMED,
    "extraEnvFrom": OBJECTS,
    "extraVolumes": NAMED,
    "extraVolumeMounts": NAMED,
    "extraContainers": NAMED,
    "initContainers": NAMED,
    "tolerations": OBJECTS,
    "constraints": OBJECTS,
    "extraIngress": OBJECTS,
    "extraEgress": OBJECTS,
    "publicPeers": OBJECTS,
    "internalPeers": OBJECTS,
    "natsPeers": OBJECTS,
    "dnsPeers": OBJECTS,
    "jwksPeers": OBJECTS,
    "hosts": HOSTS,
    "hostnames": HOSTS,
    "ingress.tls": OBJECTS,
    "parentRefs": NAMED,
    "extraObjects": OBJECTS,
    "cpu": QUANTITY,
    "memory": QUANTITY,
    "replicas": {"type": ["integer", "null"], "minimum": 1},
    "minReplicas": AT_LEAST_ONE,
    "maxReplicas": AT_LEAST_ONE,
    "podsPerMinute": AT_LEAST_ONE,
    "secondsPerPod": {"type": "integer", "minimum": 1, "maximum": 1800},
    "stabilizationSeconds": {"type": "integer", "minimum": 0, "maximum": 3600},
    "periodSeconds": AT_LEAST_ONE,
    "failureThreshold": AT_LEAST_ONE,
    "maxSurge": SHARE,
    "rollout.maxUnavailable": SHARE,
    "pdb.maxUnavailable": AT_LEAST_ONE,
    "interval": DURATION,
    "request": DURATION,
    "backendRequest": DURATION,
    "nats.url": {"type": "string", "pattern": f"^{SERVER}( *, *{SERVER})*$"},
    "nats.servers": AT_LEAST_ONE,
    "nats.streamReplicas": choice(1, 3, 5),
    "auth.kind": choice("none", "nkey", "creds"),
    "auth.algorithm": choice("HS256", "RS256", "ES256", "EdDSA"),
    "jwks.url": {"type": "string", "pattern": "^(https?://.+)?$"},
    "autoscaling.kind": choice("none", "hpa", "keda"),
    "autoscaling.prometheus": {"type": "string", "pattern": "^(https?://.+)?$"},
    "autoscaling.metric": {"type": "string", "pattern": "^([a-z_][a-z0-9_]*)?$"},
    "cpuPercent": {"type": "integer", "minimum": 0, "maximum": 1000},
    "service.type": choice("ClusterIP", "NodePort", "LoadBalancer"),
    "service.port": {"type": "integer", "minimum": 1, "maximum": 65535},
    "log.level": choice("debug", "info", "warning", "error"),
    "log.format": choice("json", "console"),
    "controller": choice("none", "nginx", "alb"),
    "monitor": choice("none", "PodMonitor", "ServiceMonitor"),
    "streamSync": choice("default", "async"),
}
"""By a value's name, or by the name it stands under and its own, which wins."""


def schema(values: Mapping[str, Any], settings: Mapping[str, Mapping[str, Any]]) -> Schema:
    """The schema of the chart's values; `settings` has the JSON Schema of each service's, by its name."""
    top = _closed({key: _of((key,), value) for key, value in values.items() if key != "services"})
    # What every service has cannot be one service's setting.
    top["properties"]["defaults"]["properties"]["settings"] = {
        "type": "object",
        "additionalProperties": False,
    }
    top["properties"]["services"] = _closed(
        {name: _service(values["defaults"], settings.get(name)) for name in values["services"]}
    )
    top["properties"]["global"] = {"type": "object"}  # Helm's own, for charts that have this one inside
    return {"$schema": "http://json-schema.org/draft-07/schema#", "title": "Values of Carillon", **top}


def _service(defaults: Mapping[str, Any], settings: Mapping[str, Any] | None) -> Schema:
    block = _of(("defaults",), defaults)
    known = _closed(dict(settings)) if settings is not None else SCALARS
    return {**block, "properties": {**block["properties"], "settings": known}}


def _closed(properties: Mapping[str, Any]) -> Schema:
    return {"type": "object", "additionalProperties": False, "properties": dict(properties)}


def _of(path: tuple[str, ...], value: object) -> Schema:
    if isinstance(value, dict) and value:
        return _closed({key: _of((*path, key), each) for key, each in value.items()})
    written = WRITTEN.get(".".join(path[-2:])) or WRITTEN.get(path[-1])
    return written or _plain(path, value)


def _plain(path: tuple[str, ...], value: object) -> Schema:
    if isinstance(value, bool):
        return {"type": "boolean"}
    if isinstance(value, int):
        return COUNT
    if isinstance(value, str):
        return {"type": "string"}
    if path[-1] == "settings":
        return ANY_OBJECT
    raise TypeError(f"{'.'.join(path)}: its default does not show its type, and the table does not say")
