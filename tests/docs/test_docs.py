"""The documents say what the code does: errors, settings, metrics, subjects, links."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, get_args

import msgspec
import prometheus_client
import pytest

from carillon import exits
from carillon.app import app as command_line
from carillon.settings import CliSettings
from deploy.demo.__main__ import FOLDER
from deploy.demo.ports import NATS_PORT, PORTS
from proto.errors import CATALOGUE, CLOSE_CODES, Retry
from proto.frames import ResetReason
from proto.orders import OrderStatus
from proto.registry import MESSAGES
from proto.websocket import ClientFrame, ServerFrame
from runtime.provision import ProvisionSettings
from runtime.settings import ProcessSettings, variable
from services.chat.handlers import CHAT_SERVICE, ChatSettings
from services.gateway.app import GATEWAY
from services.gateway.settings import GatewaySettings
from services.orders.handlers import ORDERS_SERVICE, OrdersSettings
from services.orders.order import allowed
from services.presence.handlers import PRESENCE_SERVICE, PresenceSettings
from tests.support import launch

ROOT: Final = Path(__file__).parents[2]
KUBERNETES: Final = re.compile(r"(?:^|`)((?:kubectl|helm) -?[a-z][^\s`]* [^`\n]+)", re.MULTILINE)
"""A command with its arguments, on a line of its own or in a sentence."""
PAGES: Final = sorted(
    page
    for page in ROOT.rglob("*.md")
    if not any(part.startswith(".") or part == "node_modules" for part in page.relative_to(ROOT).parts)
)
OURS: Final = [page for page in PAGES if page.parent == ROOT or ROOT / "docs" in page.parents]

HOSTS: Final = {
    "127.0.0.1",
    "carillon",  # the upstream of the proxy's example
    "jcristharif.com",
    "keepachangelog.com",
    "nats",  # the service of its own chart
    "nats.io",
    "semver.org",
}
"""Where a document may point to; a new one is added on purpose."""

DEMO_VARIABLES: Final = {PORTS, NATS_PORT, FOLDER}
CLI_VARIABLES: Final = {"CARILLON_URL", "CARILLON_TOKEN"}
COMPOSE_VARIABLES: Final = set(
    re.findall(r"\$\{(CARILLON_[A-Z_]+)", (ROOT / "deploy" / "compose.yaml").read_text(encoding="utf-8"))
)

LINK: Final = re.compile(r"\]\(([^)\s]+)\)")
URL: Final = re.compile(r"\b[a-z][a-z0-9+.-]*://(?:[^\s/@`]*@)?([A-Za-z0-9.-]+)")
MACHINE_PATH: Final = re.compile(r"(?<![\w.$}/])(?:/(?:home|Users|root|tmp|work|mnt|opt|var)/|[A-Z]:\\)")
METRIC: Final = re.compile(r"`(carillon_[a-z_]+)`")
SUBJECT: Final = re.compile(r"`((?:rpc|live|orders|chat)\.[a-z]+\.(?:[a-z_]+|<[a-z]+>)(?:\.<[a-z]+>)?)`")
SUFFIX: Final = re.compile(r"_(total|count|sum|bucket)$")


def name_of(page: Path) -> str:
    """The page's path inside the project."""
    return str(page.relative_to(ROOT))


def text_of(name: str) -> str:
    """A page as it stands."""
    return (ROOT / name).read_text(encoding="utf-8")


def table(name: str, *header: str) -> list[list[str]]:
    """The rows of all tables of a page with exactly this header, without backticks."""
    head = "| " + " | ".join(header) + " |"
    lines = text_of(name).splitlines()
    rows: list[list[str]] = []
    for start in (at for at, line in enumerate(lines) if line == head):
        for line in lines[start + 2 :]:
            if not line.startswith("|"):
                break
            rows.append([cell.strip().replace("`", "") for cell in line.strip("|").split("|")])
    assert rows, f"{name} has no table {head}"
    return rows


def default_text(default: object) -> str:
    """A setting's default as the README writes it."""
    if default is None:
        return "unset"
    if isinstance(default, tuple):
        return ",".join(map(str, default)) or "empty"
    return f"{default:g}" if isinstance(default, float) else str(default)


def slug(heading: str) -> str:
    """The anchor that a heading gets on the web."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    """All anchors of a page."""
    return {slug(line.lstrip("#").strip()) for line in page.read_text().splitlines() if line.startswith("#")}


def test_the_error_catalogue_is_in_the_protocol() -> None:
    """Every code with its status, retry policy and sentence, and no other."""
    written = {
        row[0]: tuple(row[1:]) for row in table("docs/protocol.md", "code", "status", "retry", "message")
    }

    assert written == {
        row.code: (str(row.status), row.retry.value, row.message) for row in CATALOGUE.values()
    }


def test_an_endpoint_names_only_codes_that_exist() -> None:
    """A table of answers pairs each code with the status of its row."""
    for status, cell in re.findall(r"(\b[45]\d\d) ((?:`[a-z_]+`(?:, )?)+)", text_of("docs/protocol.md")):
        for code in re.findall(r"`([a-z_]+)`", cell):
            assert CATALOGUE[code].status == int(status), code


def test_the_close_codes_are_in_the_protocol() -> None:
    """Every close code with its name, policy and reason, and no other."""
    written = table("docs/protocol.md", "close code", "name", "retry", "reason")

    assert written == [
        [str(row.code), row.name, row.retry.value, row.message] for row in CLOSE_CODES.values()
    ]


def test_the_retry_policies_and_reset_reasons_are_in_the_protocol() -> None:
    """Each of them is explained."""
    reasons = {row[0] for row in table("docs/protocol.md", "reason", "meaning")}
    policies = {row[0] for row in table("docs/protocol.md", "retry", "what a client may do")}

    assert reasons == set(ResetReason)
    assert policies == set(Retry)


def test_the_state_machine_is_in_the_protocol() -> None:
    """From each status exactly the steps that the orders service allows."""
    written = {row[0]: row[1] for row in table("docs/protocol.md", "from", "to")}

    assert written == {
        status: ", ".join(wanted for wanted in OrderStatus if allowed(status, wanted)) or "nothing"
        for status in OrderStatus
    }


def test_every_setting_is_in_the_readme() -> None:
    """Every variable with its default, and no other."""
    kinds: tuple[type[msgspec.Struct], ...] = (
        ProcessSettings,
        GatewaySettings,
        OrdersSettings,
        ChatSettings,
        PresenceSettings,
        ProvisionSettings,
    )
    fields = [field for kind in kinds for field in msgspec.structs.fields(kind)]
    rows = table("README.md", "name", "default", "meaning")

    assert {row[0]: row[1] for row in rows} == {
        variable(field.name): default_text(field.default) for field in fields
    }
    assert len(rows) == len({row[0] for row in rows})


def test_the_settings_of_every_service_were_looked_at() -> None:
    """The classes above are those that the services are run with."""
    services = (GATEWAY, ORDERS_SERVICE, CHAT_SERVICE, PRESENCE_SERVICE)

    assert [service.settings for service in services] == [
        GatewaySettings,
        OrdersSettings,
        ChatSettings,
        PresenceSettings,
    ]


def test_every_variable_of_the_demo_is_in_the_readme() -> None:
    """Each of them, and no other."""
    rows = table("README.md", "demo variable", "default", "meaning")

    assert {row[0] for row in rows} == DEMO_VARIABLES


def test_the_command_line_is_in_its_page() -> None:
    """Every command, every variable of its own with its default, and every exit code, and no other."""
    groups = {group.name for group in command_line.registered_groups}
    commands = {
        " ".join(row[0].split()[: 2 if row[0].split()[0] in groups else 1])
        for row in table("docs/cli.md", "command", "what it does", "talks to")
    }
    variables = table("docs/cli.md", "command line variable", "default", "meaning")
    fields = {variable(field.name): field for field in msgspec.structs.fields(CliSettings)}
    ours = {each.name or each.callback.__name__ for each in command_line.registered_commands if each.callback}
    codes = {int(row[0]) for row in table("docs/cli.md", "exit code", "meaning")}

    inner = {
        f"{group.name} {each.name}"
        for group in command_line.registered_groups
        if group.typer_instance is not None
        for each in group.typer_instance.registered_commands
    }
    assert commands == ours | inner
    assert {row[0]: row[1] for row in variables} == {
        name: default_text(fields[name].default) for name in CLI_VARIABLES
    }
    assert fields.keys() - CLI_VARIABLES <= {
        row[0] for row in table("README.md", "name", "default", "meaning")
    }
    assert codes == {exits.OK, exits.REFUSED, exits.USAGE, exits.UNREACHABLE}


@pytest.mark.parametrize(
    ("header", "frames"),
    [(("client frame", "fields", "asks"), ClientFrame), (("server frame", "fields", "says"), ServerFrame)],
    ids=["client", "server"],
)
def test_every_frame_is_in_the_protocol(header: tuple[str, ...], frames: object) -> None:
    """Every tag with its fields in the table and with an example, and no other."""
    kinds = {kind.__struct_config__.tag: kind for kind in get_args(frames)}
    rows = {row[0]: set(re.findall(r"[a-zA-Z]+", row[1])) for row in table("docs/protocol.md", *header)}

    assert rows.keys() == kinds.keys()
    for tag, kind in kinds.items():
        assert f'{{"type":"{tag}"' in text_of("docs/protocol.md"), tag
        named = ack_fields() if tag == "ack" else rows[tag]
        assert named - {"id"} == set(kind.__struct_encode_fields__) - {"id"}, tag


def ack_fields() -> set[str]:
    """What any ack may have, of the table of acks."""
    of_each = re.compile(r"^\| (?:`[a-z_]+`(?:, )?)+ \|(.*)\|$")
    section = text_of("docs/protocol.md").partition("| acknowledged | fields")[2].partition("\n\n")[0]
    rows = [found[1] for line in section.splitlines() if (found := of_each.match(line))]
    return {"success"} | {name for row in rows for name in re.findall(r"`([a-zA-Z]+)`", row)} - {
        "false",
        "since",
    }


def test_an_example_of_a_frame_is_one() -> None:
    """Each line that shows a frame decodes as one, and says nothing that would not come back."""
    lines = re.findall(r'^\{"type":.*\}$', text_of("docs/protocol.md"), re.MULTILINE)
    tags = {kind.__struct_config__.tag for kind in get_args(ServerFrame)}

    for line in lines:
        shown = msgspec.json.decode(line)
        asked = shown["type"] not in tags or "clientId" in shown
        frame = msgspec.json.decode(line, type=ClientFrame if asked else ServerFrame)
        back = msgspec.json.decode(msgspec.json.encode(frame))
        assert shown.items() <= back.items(), line


@pytest.mark.parametrize("page", OURS, ids=name_of)
def test_a_variable_that_is_named_exists(page: Path) -> None:
    """No page speaks of a setting that nobody reads."""
    known = {row[0] for row in table("README.md", "name", "default", "meaning")}
    known |= DEMO_VARIABLES | CLI_VARIABLES | COMPOSE_VARIABLES | {launch.VARIABLE}

    assert set(re.findall(r"\bCARILLON_[A-Z_]+\b", page.read_text())) <= known


@pytest.mark.parametrize("page", OURS, ids=name_of)
def test_a_metric_that_is_named_exists(page: Path) -> None:
    """No page speaks of a metric that nobody counts."""
    known = {family.name for family in prometheus_client.REGISTRY.collect()} | {"carillon_token"}
    named = METRIC.findall(page.read_text())

    assert [name for name in named if not {name, SUFFIX.sub("", name)} & known] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_subject_that_is_named_is_on_the_wire(page: Path) -> None:
    """Subjects are written as in the registry."""
    assert set(SUBJECT.findall(page.read_text())) <= {message.pattern for message in MESSAGES}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    """To a file of the project, and to a heading in it where one is named."""
    for target in LINK.findall(page.read_text()):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        assert there.is_relative_to(ROOT), target
        assert not anchor or anchor in anchors(there), target


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_names_no_machine_and_no_unexpected_host(page: Path) -> None:
    """Nothing of the place where it was written, no registry; examples use reserved names (RFC 2606)."""
    text = page.read_text()
    hosts = {host for host in URL.findall(text) if not host.endswith(".example")}

    assert MACHINE_PATH.findall(text) == []
    assert hosts <= HOSTS


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_command_for_kubernetes_says_the_namespace(page: Path) -> None:
    """That of the README's install, and names its release; nodes and namespaces are in none. What is left
    out, "...", and the history say what was typed elsewhere.
    """
    whole = [each for each in KUBERNETES.findall(page.read_text()) if " ... " not in each]
    for command in whole if page.name != "CHANGELOG.md" else []:
        told = re.match(r"(?:kubectl|helm) (?:-n live |(?:create|label) namespace live|drain NODE)", command)
        assert told is not None, command
    assert not re.search(r"(?:deployment|service|job)/(?!carillon-|nats\b)[a-z]", page.read_text())


def test_every_decision_is_in_the_index() -> None:
    """And each has its status and its date."""
    decisions = sorted(page.name for page in (ROOT / "docs/adr").glob("0*.md"))

    assert re.findall(r"\]\((0[^)]+)\)", text_of("docs/adr/README.md")) == decisions
    for name in decisions:
        assert re.search(r"\| status \| \w+.*\n\| date \| \d{4}-\d\d-\d\d \|", text_of(f"docs/adr/{name}")), (
            name
        )
