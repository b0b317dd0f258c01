"""What the command line is told by its environment."""

from __future__ import annotations

import os
import sys
from typing import Literal

from carillon.exits import USAGE, Failed
from runtime.settings import ProcessSettings, Secret, SettingsError, load, misspelt


class CliSettings(ProcessSettings, frozen=True, kw_only=True):
    """Besides those of every process; those of the gateway have the same meaning here.

    url             where clients reach the gateways, a proxy in front included
    token           used to connect as a client; unset = one is made with auth_secret
    """

    url: str = "http://127.0.0.1:8080"
    token: Secret | None = None
    auth_algorithm: Literal["HS256", "RS256", "ES256", "EdDSA"] = "HS256"
    auth_secret: Secret | None = None
    auth_jwks: str | None = None
    auth_issuer: str | None = None
    auth_audience: str | None = None


def from_environment() -> CliSettings:
    """Raises Failed with every fault; names on stderr what is most likely misspelt."""
    for name, meant in misspelt(CliSettings, os.environ).items():
        sys.stderr.write(f"{name} is not read: {meant} may be meant.\n")
    try:
        return load(CliSettings, os.environ)
    except SettingsError as error:
        raise Failed(USAGE, "settings", str(error)) from None
