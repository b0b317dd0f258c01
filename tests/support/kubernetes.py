"""Schemas of the custom resources that the chart makes: the fields that it uses, and no other."""

from __future__ import annotations

from typing import Any, Final

TEXT: Final = {"type": "string"}
COUNT: Final = {"type": "integer", "minimum": 0}
DURATION: Final = {"type": "string", "pattern": "^([0-9]{1,5}(h|m|s|ms)){1,4}$"}
"""As the Gateway API and Prometheus's operator have it."""
TEXTS: Final = {"type": "object", "additionalProperties": TEXT}


def closed(required: str = "", **properties: Any) -> dict[str, Any]:
    """An object with these properties and no other; those named must be there."""
    return {
        "type": "object",
        "additionalProperties": False,
        "required": required.split(),
        "properties": properties,
    }


def listed(item: dict[str, Any]) -> dict[str, Any]:
    """A list of at least one."""
    return {"type": "array", "minItems": 1, "items": item}


def resource(spec: dict[str, Any]) -> dict[str, Any]:
    """An object of Kubernetes with that spec."""
    meta = closed("name", name=TEXT, namespace=TEXT, labels=TEXTS, annotations=TEXTS)
    return closed("apiVersion kind metadata spec", apiVersion=TEXT, kind=TEXT, metadata=meta, spec=spec)


SELECTOR: Final = closed("matchLabels", matchLabels=TEXTS)
ENDPOINT: Final = closed(
    "port path",
    port=TEXT,
    path=TEXT,
    interval=DURATION,
    relabelings=listed(closed("sourceLabels targetLabel", sourceLabels=listed(TEXT), targetLabel=TEXT)),
)
RULE: Final = {
    **closed("expr", alert=TEXT, record=TEXT, expr=TEXT, labels=TEXTS, annotations=TEXTS)
    | {"oneOf": [{"required": ["alert"]}, {"required": ["record"]}]}
}
RULE["properties"] |= {"for": DURATION, "keep_firing_for": DURATION}
POLICY: Final = closed(
    "type value periodSeconds", type={"enum": ["Pods", "Percent"]}, value=COUNT, periodSeconds=COUNT
)
SCALING: Final = closed("policies", stabilizationWindowSeconds=COUNT, policies=listed(POLICY))
TRIGGER: Final = closed(
    "type metadata",
    type={"enum": ["prometheus", "cpu"]},
    metricType={"enum": ["AverageValue", "Utilization"]},
    metadata=TEXTS,
)

CUSTOM: Final[dict[tuple[str, str], dict[str, Any]]] = {
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): resource(
        closed(
            "parentRefs rules",
            parentRefs=listed(closed("name", name=TEXT, namespace=TEXT, sectionName=TEXT)),
            hostnames=listed(TEXT),
            rules=listed(
                closed(
                    "backendRefs",
                    matches=listed(
                        closed(path=closed("type value", type={"enum": ["PathPrefix"]}, value=TEXT))
                    ),
                    timeouts=closed(request=DURATION, backendRequest=DURATION),
                    backendRefs=listed(closed("name port", name=TEXT, port=COUNT)),
                )
            ),
        )
    ),
    ("monitoring.coreos.com/v1", "PodMonitor"): resource(
        closed("podMetricsEndpoints selector", podMetricsEndpoints=listed(ENDPOINT), selector=SELECTOR)
    ),
    ("monitoring.coreos.com/v1", "ServiceMonitor"): resource(
        closed("endpoints selector", endpoints=listed(ENDPOINT), selector=SELECTOR)
    ),
    ("monitoring.coreos.com/v1", "PrometheusRule"): resource(
        closed(
            "groups", groups=listed(closed("name rules", name=TEXT, interval=DURATION, rules=listed(RULE)))
        )
    ),
    ("keda.sh/v1alpha1", "ScaledObject"): resource(
        closed(
            "scaleTargetRef triggers",
            scaleTargetRef=closed("name", name=TEXT),
            minReplicaCount=COUNT,
            maxReplicaCount=COUNT,
            pollingInterval=COUNT,
            fallback=closed(
                "failureThreshold replicas",
                failureThreshold=COUNT,
                replicas=COUNT,
                behavior={
                    "enum": ["static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower"]
                },
            ),
            advanced=closed(
                horizontalPodAutoscalerConfig=closed(behavior=closed(scaleUp=SCALING, scaleDown=SCALING))
            ),
            triggers=listed(TRIGGER),
        )
    ),
}
