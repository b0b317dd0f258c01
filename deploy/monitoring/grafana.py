"""Boards as Grafana's JSON. Pure: the same table gives the same bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from deploy.monitoring.panels import Board, Panel

VARIABLES: Final = ("cluster", "namespace", "service", "pod")
SELECTOR: Final = ", ".join(f'{name}=~"${name}"' for name in VARIABLES)
SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
HEIGHT: Final = {"stat": 4, "timeseries": 8, "heatmap": 8}
COLUMNS: Final = 24


def dashboard(board: Board) -> dict[str, Any]:
    """One dashboard, ready to import."""
    return {
        "uid": f"carillon-{board.name}",
        "title": board.title,
        "description": board.description,
        "tags": ["carillon"],
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "schemaVersion": 39,
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "annotations": {"list": [_drains()]},
        "links": [
            {
                "type": "dashboards",
                "tags": ["carillon"],
                "title": "Carillon",
                "asDropdown": True,
                "keepTime": True,
            }
        ],
        "templating": {"list": [_data_source(), *map(_variable, VARIABLES)]},
        "panels": _panels(board),
    }


def _panels(board: Board) -> list[dict[str, Any]]:
    placed: list[dict[str, Any]] = []
    y = 0
    for title, panels in board.rows:
        placed.append(
            {
                "id": len(placed) + 1,
                "type": "row",
                "title": title,
                "collapsed": False,
                "panels": [],
                "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1},
            }
        )
        x, y, tallest = 0, y + 1, 0
        for panel in panels:
            if x + panel.wide > COLUMNS:
                x, y, tallest = 0, y + tallest, 0
            placed.append(_panel(panel, len(placed) + 1, x, y))
            x, tallest = x + panel.wide, max(tallest, HEIGHT[panel.kind])
        y += tallest
    return placed


def _panel(panel: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    heat = panel.kind == "heatmap"
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "gridPos": {"x": x, "y": y, "w": panel.wide, "h": HEIGHT[panel.kind]},
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "min": 0 if panel.unit != "s" else None},
            "overrides": [],
        },
        "options": _options(panel.kind),
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": SOURCE,
                "expr": query.expression.replace("@", SELECTOR),
                "legendFormat": query.legend or "__auto",
                "format": "heatmap" if heat else "time_series",
                "range": panel.kind != "stat",
                "instant": panel.kind == "stat",
            }
            for index, query in enumerate(panel.queries)
        ],
    }


def _options(kind: str) -> dict[str, Any]:
    if kind == "stat":
        return {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "colorMode": "value",
        }
    if kind == "heatmap":
        return {"calculate": False, "yAxis": {"unit": "s"}, "color": {"scheme": "Oranges", "mode": "scheme"}}
    return {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }


def _drains() -> dict[str, Any]:
    return {
        "name": "Drains",
        "datasource": SOURCE,
        "enable": True,
        "iconColor": "blue",
        "expr": f"carillon_gateway_drain_deadline_seconds{{{SELECTOR}}} > 0",
        "titleFormat": "Drain",
        "textFormat": "{{pod}} {{instance}}",
        "step": "15s",
    }


def _data_source() -> dict[str, Any]:
    return {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"}


def _variable(name: str) -> dict[str, Any]:
    # "All" matches series without the label too: nobody is obliged to have clusters or namespaces.
    return {
        "name": name,
        "label": name.capitalize(),
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": f"label_values(carillon_info, {name})", "refId": name},
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
        "refresh": 2,
        "sort": 1,
    }
