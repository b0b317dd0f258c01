"""proto/schema.py"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from proto import chat, frames, orders
from proto.errors import CATALOGUE, CLOSE_CODES
from proto.registry import MESSAGES
from proto.schema import PATH, main, public_structs, render
from proto.streams import STREAMS

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    """The schema as a client reads it."""
    found: dict[str, Any] = json.loads(render())
    return found


def test_the_checked_in_schema_is_current() -> None:
    """Whoever changes the wire writes the schema again."""
    assert main(["--check"]) == 0


def test_a_stale_schema_is_told_what_to_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A difference or a missing file ends with status 1 and one sentence, and changes nothing."""
    path = tmp_path / "schema.json"

    assert main(["--check"], path) == 1
    assert not path.exists()
    path.write_bytes(PATH.read_bytes().replace(b"OrderReply", b"OrderAnswer"))
    assert main(["--check"], path) == 1
    assert capsys.readouterr().err.splitlines()[-1].endswith("run `make schema`.")
    assert b"OrderAnswer" in path.read_bytes()


def test_writing_mends_it(tmp_path: Path) -> None:
    """Without arguments the file is written, and a check then passes."""
    path = tmp_path / "schema.json"

    assert main([], path) == 0
    assert main(["--check"], path) == 0
    assert path.read_bytes() == PATH.read_bytes()


def test_another_argument_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """A misspelt option never overwrites the file."""
    assert main(["--chek"]) == 2
    assert "usage" in capsys.readouterr().err


def test_the_module_is_the_command() -> None:
    """Another process, with another hash seed, makes the same bytes."""
    done = subprocess.run(
        [sys.executable, "-m", "proto.schema", "--check"],
        cwd=PATH.parent.parent,
        env={"PYTHONHASHSEED": "7"},
        capture_output=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, b"")


def test_every_public_struct_is_in_it(schema: dict[str, Any]) -> None:
    """A client finds each message of the wire by its name, and every reference leads somewhere."""
    names = {kind.__name__ for module in (orders, chat, frames) for kind in public_structs(module)}
    references = set(re.findall(r'"#/\$defs/(\w+)"', render().decode()))

    assert {"PlaceOrder", "OrderChanged", "StatusUpdate", "ErrorBody"} <= names
    assert names | references <= set(schema["$defs"])


def test_private_and_imported_structs_are_not() -> None:
    """Only what a module itself publishes is part of the wire."""
    public = {kind.__name__ for kind in public_structs(frames)}

    assert public == {"StatusUpdate", "Complete", "Reset", "Reconnect", "ErrorBody"}


def test_it_says_what_is_refused(schema: dict[str, Any]) -> None:
    """HTTP bodies are closed, what our own processes exchange stays open for newer fields."""
    closed = {name for name, entry in schema["$defs"].items() if entry.get("additionalProperties") is False}

    assert closed == {"CreateOrderBody", "SetStatusBody"}


def test_patterns_mean_the_same_in_every_language(schema: dict[str, Any]) -> None:
    """A JSON Schema pattern is an ECMAScript one: Python's own anchors would be nonsense there."""
    patterns = re.findall(r'"pattern": ("\^.*")', json.dumps(schema["$defs"], indent=0))

    assert patterns
    assert all(re.search(r"\$\(\?!\\n\)$", json.loads(pattern)) for pattern in patterns)


def test_the_catalogues_are_in_it(schema: dict[str, Any]) -> None:
    """Errors and close codes carry their policies, subjects their payloads, streams their bounds."""
    assert schema["errors"] == msgspec.to_builtins(list(CATALOGUE.values()))
    assert [(row["name"], row["retry"]) for row in schema["closeCodes"]] == [
        (row.name, row.retry) for row in CLOSE_CODES.values()
    ]
    assert [row["pattern"] for row in schema["subjects"]] == [row.pattern for row in MESSAGES]
    assert {row["payload"] for row in schema["subjects"]} <= set(schema["$defs"])
    assert {row["reply"] for row in schema["subjects"]} <= {*schema["$defs"], None}
    assert [row["name"] for row in schema["streams"]] == [spec.name for spec in STREAMS]
