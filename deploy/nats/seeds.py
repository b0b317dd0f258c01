"""NKeys: a seed of its own for everybody who connects, in a file that only its owner reads."""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING, Final

import nkeys  # type: ignore[import-untyped]

from deploy.nats.accounts import HOLDERS, key_file

if TYPE_CHECKING:
    from pathlib import Path

KEYS_FILE: Final = "keys.conf"


def seed_file(folder: Path, holder: str) -> Path:
    """Where a holder's seed is."""
    return folder / f"{holder}.nk"


def make(folder: Path) -> dict[str, str]:
    """Make every seed that is missing, and keys.conf anew; returns holder -> public key.

    A seed that exists is kept: remove its file to replace it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    keys = {holder: _public(_kept(seed_file(folder, holder))) for holder in HOLDERS}
    (folder / KEYS_FILE).write_text(key_file(keys), encoding="ascii")
    return keys


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
