"""Who may do what on NATS, from proto's table of permissions: files, and values for NATS's chart. Pure."""

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

DEFAULT_ACCOUNT: Final = "$G"
"""NATS's name for the account of clients that have none: streams that were made without users are there."""
OWN_ACCOUNT: Final = "CARILLON"
"""An account of Carillon's own, apart from others that use the same servers."""
ACCOUNTS: Final = (DEFAULT_ACCOUNT, OWN_ACCOUNT)
"""Where the users may be. Streams do not move from one to the other."""

WRITTEN: Final = "# Written by `make nats` from proto/permissions.py; tests compare them. Do not edit.\n"
USERS_HEAD: Final = f"""\
{WRITTEN}# A user for each process, for authorization.conf or accounts.conf to include.
# keys.conf has the public keys: `python -m deploy.nats keys FOLDER` makes it, and the seeds.
include "keys.conf"

CARILLON_USERS: [
"""
AUTHORIZATION: Final = f"""\
{WRITTEN}# The users in NATS's default account: streams that were made without identities stay where they are.
include "users.conf"

authorization {{ users: $CARILLON_USERS }}
accounts {{
  $SYS {{ users [ {{ nkey: $SYSTEM_NKEY }} ] }}
}}
"""
OWN: Final = f"""\
{WRITTEN}# The users in an account of their own, instead of authorization.conf. With the first install only:
# streams that were made in the default account do not move here.
include "users.conf"

system_account: SYS
accounts {{
  CARILLON {{ jetstream: enabled, users: $CARILLON_USERS }}
  SYS {{ users [ {{ nkey: $SYSTEM_NKEY }} ] }}
}}
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


def users(keys: Mapping[str, str]) -> list[dict[str, Any]]:
    """A user for each process and the administrator, of holder -> public key."""
    processes = [{"nkey": keys[party], "permissions": permissions(party)} for party in IDENTITIES]
    return [*processes, {"nkey": keys[ADMIN]}]


def merged(keys: Mapping[str, str], account: str) -> dict[str, Any]:
    """What a server's configuration has besides, the users being in `account`, one of ACCOUNTS."""
    system = {"users": [{"nkey": keys[SYSTEM]}]}
    if account == DEFAULT_ACCOUNT:
        return {"authorization": {"users": users(keys)}, "accounts": {"$SYS": system}}
    own = {"jetstream": "enabled", "users": users(keys)}
    return {"accounts": {account: own, "SYS": system}, "system_account": "SYS"}


def values(keys: Mapping[str, str], account: str, *, optional: bool = False) -> dict[str, Any]:
    """The same as a values file for the chart of NATS. While keys are `optional`, a client without one may do
    what the administrator may, so that processes get their keys one after the other.
    """
    without = {"no_auth_user": keys[ADMIN]} if optional else {}
    return {"config": {"merge": {**merged(keys, account), **without}}}


def configuration() -> str:
    """The file users.conf; public keys are variables of keys.conf."""
    lines = [USERS_HEAD.removesuffix("\n")]
    for party in IDENTITIES:
        lines += [f"  # {party}", f"  {{ nkey: ${variable(party)}, permissions {{"]
        lines += _block(permissions(party))
        lines += ["  } }"]
    lines += [f"  # {ADMIN}: no limits", f"  {{ nkey: ${variable(ADMIN)} }}", "]", ""]
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
        yield f"    {kind} {{ allow ["
        yield from (f"      {_quoted(subject)}" for subject in block[kind]["allow"])
        yield "    ] }"
    if "allow_responses" in block:
        answers = block["allow_responses"]
        yield f"    allow_responses {{ max: {answers['max']}, expires: {_quoted(answers['expires'])} }}"


def _quoted(text: str) -> str:
    return msgspec.json.encode(text).decode()
