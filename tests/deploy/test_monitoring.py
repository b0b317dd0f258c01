"""deploy/monitoring: dashboards, alerts and runbooks say what the code exports, and the alerts work."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml

from deploy.monitoring.__main__ import FOLDER as DASHBOARDS
from deploy.monitoring.__main__ import main, render
from deploy.monitoring.grafana import SELECTOR
from deploy.monitoring.panels import BOARDS
from tests.support.exported import SCRAPED, samples

if TYPE_CHECKING:
    from pathlib import Path

MONITORING: Final = DASHBOARDS.parent
RULES: Final = MONITORING / "rules" / "carillon.yaml"
CASES: Final = MONITORING / "tests" / "carillon.yaml"
RUNBOOKS: Final = MONITORING / "runbooks"
MOST_ALERTS: Final = 15

NAME: Final = re.compile(r"\b(?:carillon|process|python)[a-z0-9_:]*")
SELECTED: Final = re.compile(r"\b((?:carillon|process|python)[a-z0-9_:]*)\{([^}]*)\}")
MATCHER: Final = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"')
GROUPED: Final = re.compile(r"\b(?:by|on)\s*\(([^)]*)\)")


def loaded(path: Path) -> Any:
    """A YAML file."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def rules(kind: str) -> list[dict[str, Any]]:
    """All `alert` or `record` rules."""
    return [rule for group in loaded(RULES)["groups"] for rule in group["rules"] if kind in rule]


ALERTS: Final = {rule["alert"]: rule for rule in rules("alert")}
RECORDS: Final = {rule["record"] for rule in rules("record")}


def queries() -> list[tuple[str, str]]:
    """Every query of a dashboard or a rule, with where it stands."""
    found = [
        (f"{rule.get('alert') or rule['record']}", str(rule["expr"]))
        for kind in ("alert", "record")
        for rule in rules(kind)
    ]
    for path in sorted(DASHBOARDS.glob("*.json")):
        board = json.loads(path.read_text())
        for panel in board["panels"]:
            found += [
                (f"{path.stem}/{panel['title']}", target["expr"]) for target in panel.get("targets", [])
            ]
        found += [(path.stem, each["expr"]) for each in board["annotations"]["list"]]
    return found


QUERIES: Final = queries()


@pytest.mark.parametrize(("where", "query"), QUERIES, ids=[where for where, _ in QUERIES])
def test_every_metric_of_a_query_is_exported(where: str, query: str) -> None:
    """With the labels that the query selects and groups by."""
    exported = samples()
    names = set(NAME.findall(query)) - RECORDS

    assert names or RECORDS & set(NAME.findall(query)), "no metric at all"
    assert names <= exported.keys()
    for name, selected in SELECTED.findall(query):
        assert set(MATCHER.findall(selected)) <= exported[name] | SCRAPED, name
    known = SCRAPED.union(*(exported[name] for name in names)) if names else SCRAPED
    for group in GROUPED.findall(query):
        assert {label.strip() for label in group.split(",")} <= known


def test_the_committed_dashboards_are_those_of_the_table(tmp_path: Path) -> None:
    """dashboards/ is what `make dashboards` writes today, and a difference is told."""
    assert {path.name for path in DASHBOARDS.iterdir()} == {f"{board.name}.json" for board in BOARDS}
    assert main(["--check"]) == 0
    assert main(["--check"], tmp_path) == 1
    assert main([], tmp_path) == 0
    assert main(["--check"], tmp_path) == 0
    assert main(["nonsense"]) == 2


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_a_dashboard_can_be_read_without_us(board: Any) -> None:
    """Each panel has a title, a description, a unit, a place of its own, and follows the variables."""
    shown = json.loads(render(board))
    panels = [panel for panel in shown["panels"] if panel["type"] != "row"]
    places = {(x, y) for panel in panels for x, y in _cells(panel["gridPos"])}

    assert shown["uid"] == f"carillon-{board.name}"
    assert len(places) == sum(panel["gridPos"]["w"] * panel["gridPos"]["h"] for panel in panels)
    assert len({panel["id"] for panel in shown["panels"]}) == len(shown["panels"])
    for panel in panels:
        assert panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        for target in panel["targets"]:
            assert SELECTOR in target["expr"], panel["title"]
            assert "@" not in target["expr"]
            assert target["expr"].count("(") == target["expr"].count(")")


def _cells(place: dict[str, int]) -> list[tuple[int, int]]:
    columns = range(place["x"], place["x"] + place["w"])
    assert columns.stop <= 24
    return [(x, y) for x in columns for y in range(place["y"], place["y"] + place["h"])]


def test_every_metric_of_ours_is_shown_somewhere() -> None:
    """What no panel and no alert shows is read by nobody; the few exceptions are named here."""
    unread = {
        "carillon_chat_unreadable_total",
        "carillon_gateway_jwks_failures_total",
        "carillon_gateway_jwks_fetches_total",
        "carillon_gateway_jwks_keys",
        "carillon_gateway_jwks_skipped_keys",
    }
    shown = {name for _, query in QUERIES for name in NAME.findall(query)}
    ours = {re.sub(r"_(bucket|count|sum)$", "", name) for name in samples() if name.startswith("carillon_")}

    missing = {name for name in ours if not any(seen.startswith(name) for seen in shown)}
    assert missing <= unread, sorted(missing - unread)


def test_alerts_are_few_and_each_says_what_to_do() -> None:
    """At most fifteen, each with a severity, a summary and a runbook that exists."""
    assert len(ALERTS) <= MOST_ALERTS
    for name, rule in ALERTS.items():
        assert rule["labels"]["severity"] in ("critical", "warning"), name
        assert rule["annotations"]["summary"].endswith("."), name
        page = MONITORING / rule["annotations"]["runbook"]
        assert page == RUNBOOKS / f"{name}.md"
        text = page.read_text()
        assert text.startswith(f"# {name}\n"), name
        assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["Meaning", "Look", "Do"], name


def test_every_runbook_belongs_to_an_alert_and_names_metrics_that_exist() -> None:
    """No page is left behind when an alert goes, and none sends the reader to a metric that nobody counts."""
    exported = samples()
    for page in RUNBOOKS.iterdir():
        assert page.stem in ALERTS
        named = re.findall(r"`(carillon_[a-z_]+)`", page.read_text())
        assert set(named) <= exported.keys(), page.name


def test_a_panel_that_a_runbook_names_exists() -> None:
    """Titles of panels and dashboards stand in italics there."""
    titles = {panel.title for board in BOARDS for _, panels in board.rows for panel in panels}
    boards = {board.name.capitalize() for board in BOARDS}
    for page in RUNBOOKS.iterdir():
        for named in re.findall(r"(?<!\*)\*([^*\n]+)\*(?!\*)", page.read_text()):
            assert any(named.lower() in title.lower() for title in titles | boards), f"{page.name}: {named}"


def test_the_readme_lists_the_alerts() -> None:
    """Each with its severity."""
    text = (MONITORING / "README.md").read_text()
    rows = re.findall(r"^\| \[(\w+)\]\(runbooks/\w+\.md\) \| (\w+) \|", text, re.MULTILINE)

    assert rows == [(name, rule["labels"]["severity"]) for name, rule in _in_order(rows)]
    assert {name for name, _ in rows} == ALERTS.keys()


def _in_order(rows: list[tuple[str, str]]) -> list[tuple[str, dict[str, Any]]]:
    return [(name, ALERTS[name]) for name, _ in rows]


def test_every_alert_is_tested_in_both_ways() -> None:
    """promtool's file has a world in which it fires, with its texts, and one in which it does not."""
    fires, silent = set[str](), set[str]()
    for case in loaded(CASES)["tests"]:
        for test in case["alert_rule_test"]:
            name, expected = test["alertname"], test["exp_alerts"]
            (fires if expected else silent).add(name)
            for alert in expected:
                rule = ALERTS[name]
                assert alert["exp_labels"]["severity"] == rule["labels"]["severity"]
                assert alert["exp_annotations"].keys() == rule["annotations"].keys()
                assert alert["exp_annotations"]["summary"] == rule["annotations"]["summary"]
    assert fires == silent == ALERTS.keys()


def test_the_alerts_fire_and_do_not_fire() -> None:
    """promtool takes the rules, and every case has the outcome that is written there."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip(
            "promtool is missing (Debian: apt install prometheus): ALERTS WERE NOT EVALUATED, only read"
        )
    for arguments in (["check", "rules", str(RULES)], ["test", "rules", str(CASES)]):
        done = subprocess.run([promtool, *arguments], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
