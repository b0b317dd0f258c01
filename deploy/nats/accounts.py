"""The accounts part of a NATS configuration, from proto's table of permissions. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from proto.permissions import IDENTITIES, rights
from runtime.rpc import MAX_TIMEOUT_MS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from proto.registry import Party

SYSTEM: Final = "system"
"""Who watches the servers themselves (`nats server report`); not one of our processes."""
ADMIN: Final = "admin"
"""May do everything with our streams: for restoring and purging. Its seed belongs into a safe."""
HOLDERS: Final = (*(str(party) for party in IDENTITIES), ADMIN, SYSTEM)
"""Everybody with a key."""

ANSWER_SECONDS: Final = MAX_TIMEOUT_MS // 1000 + 10
"""How long a request may be answered: longer than any caller waits."""

ANSWER_MESSAGES: Final = 1000
"""An answer may come in several messages."""

HEAD: Final = """\
# Written by `make nats` from proto/permissions.py; tests compare them. Do not edit.
# keys.conf has the public keys: `python -m deploy.nats keys FOLDER` makes it, and the seeds beside it.
include "keys.conf"
"""


def variable(holder: str) -> str:
    """The variable of a holder's public key in the configuration."""
    return f"{holder.upper()}_NKEY"


def permissions(party: Party) -> dict[str, Any]:
    """A user's `permissions` block."""
    granted = rights(party)
    block: dict[str, Any] = {
        "publish": {"allow": list(granted.publish)},
        "subscribe": {"allow": list(granted.subscribe)},
    }
    if granted.responds:
        block["allow_responses"] = {"max": ANSWER_MESSAGES, "expires": f"{ANSWER_SECONDS}s"}
    return block


def accounts(keys: Mapping[str, str]) -> dict[str, Any]:
    """The `accounts` block, of holder -> public key: the chart of NATS has it as `config.merge.accounts`."""
    return {
        "CARILLON": {
            "jetstream": "enabled",
            "users": [
                *({"nkey": keys[party], "permissions": permissions(party)} for party in IDENTITIES),
                {"nkey": keys[ADMIN]},
            ],
        },
        "SYS": {"users": [{"nkey": keys[SYSTEM]}]},
    }


def values(keys: Mapping[str, str]) -> dict[str, Any]:
    """The same for the chart of NATS: a values file."""
    return {"config": {"merge": {"accounts": accounts(keys), "system_account": "SYS"}}}


def configuration() -> str:
    """The file accounts.conf; public keys are variables of keys.conf."""
    lines = [
        HEAD,
        "system_account: SYS\n",
        "accounts {",
        "  CARILLON {",
        "    jetstream: enabled",
        "    users [",
    ]
    for party in IDENTITIES:
        lines += [f"      # {party}", f"      {{ nkey: ${variable(party)}, permissions {{"]
        lines += _block(permissions(party))
        lines += ["      } }"]
    lines += [f"      # {ADMIN}: no limits", f"      {{ nkey: ${variable(ADMIN)} }}"]
    lines += ["    ]", "  }", f"  SYS {{ users [ {{ nkey: ${variable(SYSTEM)} }} ] }}", "}", ""]
    return "\n".join(lines)


def table() -> str:
    """Who may what, in Markdown."""
    lines = ["| process | may publish | may subscribe |", "|---|---|---|"]
    for party in IDENTITIES:
        granted = rights(party)
        publish = _listed(granted.publish) + (", answers" if granted.responds else "")
        lines.append(f"| {party} | {publish} | {_listed(granted.subscribe)} |")
    return "\n".join(lines) + "\n"


def _listed(subjects: Iterable[str]) -> str:
    return ", ".join(f"`{subject}`" for subject in subjects)


def key_file(keys: Mapping[str, str]) -> str:
    """The file keys.conf."""
    return "".join(f"{variable(holder)}: {keys[holder]}\n" for holder in HOLDERS)


def _block(block: dict[str, Any]) -> Iterable[str]:
    for kind in ("publish", "subscribe"):
        yield f"        {kind} {{ allow ["
        yield from (f"          {_quoted(subject)}" for subject in block[kind]["allow"])
        yield "        ] }"
    if "allow_responses" in block:
        answers = block["allow_responses"]
        yield f"        allow_responses {{ max: {answers['max']}, expires: {_quoted(answers['expires'])} }}"


def _quoted(text: str) -> str:
    return msgspec.json.encode(text).decode()
