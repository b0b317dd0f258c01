"""deploy/nats: the files, and what they grant, without a server."""

from __future__ import annotations

import json
import os
import re
import stat
from typing import TYPE_CHECKING

import nkeys  # type: ignore[import-untyped]

from deploy.nats import accounts, seeds
from deploy.nats.__main__ import CONFIGURATION, DEFAULT, FOLDER, OWN_FILE, PAGE, main
from proto.permissions import IDENTITIES, rights

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

README = (FOLDER / PAGE).read_text(encoding="utf-8")


def test_the_committed_accounts_are_those_of_the_table() -> None:
    """deploy/nats/users.conf, and the two files that include it, are what the generator writes today."""
    assert (FOLDER / CONFIGURATION).read_text(encoding="utf-8") == accounts.configuration()
    assert (FOLDER / DEFAULT).read_text(encoding="utf-8") == accounts.AUTHORIZATION
    assert (FOLDER / OWN_FILE).read_text(encoding="utf-8") == accounts.OWN
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


def test_the_seeds_of_processes_are_apart_from_those_of_people(tmp_path: Path) -> None:
    """What goes into a cluster is a folder of its own: no seed of administrator, operator, backup."""
    seeds.make(tmp_path)

    assert {path.stem for path in (tmp_path / seeds.WORKLOADS).iterdir()} == set(IDENTITIES) - {
        "backup",
        "operator",
    }
    assert {path.stem for path in tmp_path.glob("*.nk")} == {"admin", "backup", "operator", "system"}


def test_a_folder_of_an_older_version_keeps_its_keys_and_its_account(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seeds that lay all together are moved, and the users stay in the account that their streams are in."""
    before = seeds.make(tmp_path)
    for path in (tmp_path / seeds.WORKLOADS).iterdir():
        path.rename(tmp_path / path.name)
    (tmp_path / seeds.ACCOUNT_FILE).unlink()

    assert main(["values", str(tmp_path)]) == 0
    merged = json.loads(capsys.readouterr().out)["config"]["merge"]
    assert seeds.make(tmp_path) == before
    assert {path.stem for path in tmp_path.glob("*.nk")} == {"admin", "backup", "operator", "system"}
    assert merged["accounts"]["CARILLON"]["users"][-1] == {"nkey": before["admin"]}
    assert merged["system_account"] == "SYS"


def test_an_account_that_is_unknown_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, with the file and what may stand there."""
    seeds.make(tmp_path)
    (tmp_path / seeds.ACCOUNT_FILE).write_text("OTHER")

    assert main(["values", str(tmp_path)]) == 2
    assert "'OTHER', not one of $G, CARILLON" in capsys.readouterr().err


def test_keys_may_be_optional_for_a_while(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A client without one then counts as the administrator."""
    assert main(["values", str(tmp_path), "--optional"]) == 0

    merged = json.loads(capsys.readouterr().out)["config"]["merge"]
    assert merged["no_auth_user"] == seeds.make(tmp_path)["admin"]


def test_the_values_for_the_chart_hold_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the chart of NATS gets has everybody's public key and permissions, and no seed."""
    assert main(["values", str(tmp_path / "keys")]) == 0
    told = capsys.readouterr().out
    merged = json.loads(told)["config"]["merge"]
    users = merged["authorization"]["users"]
    keys = seeds.make(tmp_path / "keys")

    assert merged["accounts"] == {"$SYS": {"users": [{"nkey": keys["system"]}]}}
    assert not {"no_auth_user", "system_account"} & set(merged)
    assert [user["nkey"] for user in users] == [*(keys[party] for party in IDENTITIES), keys["admin"]]
    assert "permissions" not in users[-1]
    for user, party in zip(users[:-1], IDENTITIES, strict=True):
        assert user["permissions"]["publish"]["allow"] == list(rights(party).publish)
        assert user["permissions"]["subscribe"]["allow"] == list(rights(party).subscribe)
        assert ("allow_responses" in user["permissions"]) == rights(party).responds
    assert not any(
        seeds.seed_file(tmp_path / "keys", holder).read_text() in told for holder in accounts.HOLDERS
    )
