"""NKeys: a seed of its own for everybody who connects, in a file that only its owner reads.

The seeds of processes that run in a cluster are in a folder of their own; those of people, and of what people
run, stay out of it.
"""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING, Final

import nkeys  # type: ignore[import-untyped]

from deploy.nats.accounts import ACCOUNTS, DEFAULT_ACCOUNT, HOLDERS, OWN_ACCOUNT, key_file
from proto.permissions import IDENTITIES
from proto.registry import Party

if TYPE_CHECKING:
    from pathlib import Path

KEYS_FILE: Final = "keys.conf"
ACCOUNT_FILE: Final = "account"
WORKLOADS: Final = "workloads"
PEOPLE: Final = frozenset({Party.BACKUP, Party.OPERATOR})
"""Parties that are no process of a deployment."""
IN_WORKLOADS: Final = frozenset(IDENTITIES) - PEOPLE


class UnknownAccount(Exception):
    """The folder names an account that the users cannot be in."""


def seed_file(folder: Path, holder: str) -> Path:
    """Where a holder's seed is."""
    return (folder / WORKLOADS if holder in IN_WORKLOADS else folder) / f"{holder}.nk"


def make(folder: Path) -> dict[str, str]:
    """Make every seed that is missing, and keys.conf anew; returns holder -> public key.

    A seed that exists is kept: remove its file to replace it. A folder that an older version made is brought
    into today's order, and keeps the account it was made for.
    """
    for each in (folder, folder / WORKLOADS):
        each.mkdir(mode=0o700, parents=True, exist_ok=True)
    _remember_account(folder)
    for holder in IN_WORKLOADS:
        _moved(folder / f"{holder}.nk", seed_file(folder, holder))
    keys = {holder: _public(_kept(seed_file(folder, holder))) for holder in HOLDERS}
    (folder / KEYS_FILE).write_text(key_file(keys), encoding="ascii")
    return keys


def account(folder: Path) -> str:
    """The account that the users of this folder are in. Raises UnknownAccount."""
    said = (folder / ACCOUNT_FILE).read_text(encoding="ascii").strip()
    if said not in ACCOUNTS:
        raise UnknownAccount(f"{folder / ACCOUNT_FILE} says {said!r}, not one of {', '.join(ACCOUNTS)}")
    return said


def _remember_account(folder: Path) -> None:
    path = folder / ACCOUNT_FILE
    if not path.exists():
        # Without it, keys.conf is that of a version that knew one account only; its streams are in there.
        chosen = OWN_ACCOUNT if (folder / KEYS_FILE).exists() else DEFAULT_ACCOUNT
        path.write_text(f"{chosen}\n", encoding="ascii")


def _moved(old: Path, new: Path) -> None:
    if old.exists() and not new.exists():
        old.rename(new)


def _kept(path: Path) -> bytes:
    if not path.exists():
        seed = nkeys.encode_seed(secrets.token_bytes(32), nkeys.PREFIX_BYTE_USER)
        # No line end: nats-py takes the whole file for the seed.
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(seed)
    return path.read_bytes().strip()


def _public(seed: bytes) -> str:
    public: bytes = nkeys.from_seed(bytearray(seed)).public_key
    return public.decode()
