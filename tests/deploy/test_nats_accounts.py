"""deploy/nats: the files, and what they grant, without a server."""

from __future__ import annotations

import json
import os
import re
import stat
from typing import TYPE_CHECKING

import nkeys  # type: ignore[import-untyped]

from deploy.nats import accounts, seeds
from deploy.nats.__main__ import CONFIGURATION, FOLDER, PAGE, main
from proto.permissions import IDENTITIES, rights

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

README = (FOLDER / PAGE).read_text(encoding="utf-8")


def test_the_committed_accounts_are_those_of_the_table() -> None:
    """deploy/nats/accounts.conf is what the generator writes today."""
    assert (FOLDER / CONFIGURATION).read_text(encoding="utf-8") == accounts.configuration()
    assert main(["accounts", "--check"]) == 0


def test_a_difference_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The check ends with 1 and says what to run; writing mends it."""
    (tmp_path / PAGE).write_text(README.replace("`fleet.gateways`", ""))

    assert main(["accounts", "--check"], tmp_path) == 1
    told = capsys.readouterr().err
    assert all(f"{name} does not match" in told for name in (CONFIGURATION, PAGE))
    assert main(["accounts"], tmp_path) == 0
    assert main(["accounts", "--check"], tmp_path) == 0
    assert (tmp_path / PAGE).read_text() == README


def test_wrong_usage_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, and the usage on stderr."""
    assert main(["nonsense"]) == 2
    assert "keys FOLDER" in capsys.readouterr().err


def test_the_readme_has_the_table() -> None:
    """Who may publish and subscribe what, word for word."""
    rows = dict(re.findall(r"^\| (\w+) \| (.* \| .*) \|$", README, re.MULTILINE))

    for party in IDENTITIES:
        granted = rights(party)
        publish = ", ".join(f"`{subject}`" for subject in granted.publish)
        subscribe = ", ".join(f"`{subject}`" for subject in granted.subscribe)
        assert rows[party] == f"{publish}{', answers' if granted.responds else ''} | {subscribe}", party


def test_keys_are_made_once_and_kept(tmp_path: Path) -> None:
    """Seeds stay as they are, one is replaced by removing its file, and only their owner reads them."""
    folder = tmp_path / "keys"
    first = seeds.make(folder)
    again = seeds.make(folder)
    seeds.seed_file(folder, "chat").unlink()
    replaced = seeds.make(folder)

    assert first == again
    assert {holder for holder in accounts.HOLDERS if first[holder] != replaced[holder]} == {"chat"}
    for holder in accounts.HOLDERS:
        path = seeds.seed_file(folder, holder)
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        pair = nkeys.from_seed(bytearray(path.read_bytes()))
        assert pair.public_key.decode() == replaced[holder]
        assert f"{accounts.variable(holder)}: {replaced[holder]}\n" in (folder / seeds.KEYS_FILE).read_text()
        assert path.read_text() not in (folder / seeds.KEYS_FILE).read_text()


def test_the_values_for_the_chart_hold_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the chart of NATS gets has everybody's public key and permissions, and no seed."""
    assert main(["values", str(tmp_path / "keys")]) == 0
    told = capsys.readouterr().out
    users = json.loads(told)["config"]["merge"]["accounts"]["CARILLON"]["users"]
    keys = seeds.make(tmp_path / "keys")

    assert [user["nkey"] for user in users] == [*(keys[party] for party in IDENTITIES), keys["admin"]]
    assert "permissions" not in users[-1]
    for user, party in zip(users[:-1], IDENTITIES, strict=True):
        assert user["permissions"]["publish"]["allow"] == list(rights(party).publish)
        assert user["permissions"]["subscribe"]["allow"] == list(rights(party).subscribe)
        assert ("allow_responses" in user["permissions"]) == rights(party).responds
    assert not any(
        seeds.seed_file(tmp_path / "keys", holder).read_text() in told for holder in accounts.HOLDERS
    )
