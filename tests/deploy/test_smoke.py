"""The smoke test that `helm test` and compose run, against processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import jwt
import pytest

from deploy import ready
from deploy.smoke import token
from tests.support.stack import SECRET, Stack

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def fleet() -> Iterator[Stack]:
    """Two gateways and one of each service."""
    with Stack(gateways=2, chat=1) as running:
        yield running


def smoke(*urls: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """`python -m deploy.smoke`."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        **{f"CARILLON_{key}": value for key, value in settings.items()},
    }
    return subprocess.run(
        [sys.executable, "-m", "deploy.smoke", *urls],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_an_installation_that_works_is_told_step_by_step(fleet: Stack) -> None:
    """Over both transports and both services, from one gateway to the other."""
    done = smoke(*(gateway.url for gateway in fleet.gateways), AUTH_SECRET=SECRET)

    assert done.returncode == 0, done.stdout
    assert len(done.stdout.splitlines()) == 6
    assert all(line.startswith("ok ") for line in done.stdout.splitlines())


def test_a_token_may_be_given(fleet: Stack) -> None:
    """Where the secret is not known."""
    given = token({"CARILLON_AUTH_SECRET": SECRET}, "somebody", 4_000_000_000)
    assert given is not None

    assert smoke(fleet.gateways[0].url, SMOKE_TOKEN=given).returncode == 0


def test_what_is_wrong_is_said(fleet: Stack) -> None:
    """A bad token, nobody there, nothing to sign with."""
    refused = smoke(fleet.gateways[0].url, AUTH_SECRET="another-secret-of-more-than-32-bytes")
    absent = smoke("http://127.0.0.1:1", AUTH_SECRET=SECRET)
    helpless = smoke(fleet.gateways[0].url, AUTH_SECRET="")

    assert (refused.returncode, absent.returncode, helpless.returncode) == (1, 1, 2)
    assert "token_invalid" in refused.stdout
    assert absent.stdout.startswith("FAIL")
    assert "usage" in helpless.stderr


def test_a_token_has_the_claims_that_the_gateway_wants() -> None:
    """Issuer and audience of its own settings."""
    environ = {"CARILLON_AUTH_SECRET": SECRET, "CARILLON_AUTH_ISSUER": "me", "CARILLON_AUTH_AUDIENCE": "live"}
    made = token(environ, "somebody", 4_000_000_000)
    assert made is not None
    claims = jwt.decode(made, SECRET, ["HS256"], audience="live", issuer="me")

    assert claims["sub"] == "somebody"
    assert claims["exp"] == 4_000_000_300
    assert token({}, "somebody", 0) is None


def test_a_gateway_that_may_get_traffic_is_ready(fleet: Stack) -> None:
    """By the command that engines run."""
    port = str(fleet.gateways[0].internal_port)

    assert ready.main([], {"CARILLON_INTERNAL_PORT": port}) == 0
    assert ready.main([f"http://127.0.0.1:{port}/nothing"], {}) == 1
