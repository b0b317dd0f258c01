"""Write what NATS must know of Carillon.

accounts [--check]           write the users, how a server includes them, and the table of README.md here, or
                             compare them: exit code 1 on a difference
keys FOLDER                  make a seed for everybody who has none there, those of processes in
                             FOLDER/workloads, and keys.conf with the public keys
values FOLDER [--optional]   print the users for the chart of NATS, with the keys of FOLDER: a values file;
                             --optional: who has no key may do everything, as before there were keys
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from deploy.nats import seeds
from deploy.nats.accounts import AUTHORIZATION, OWN, configuration, table, values

if TYPE_CHECKING:
    from collections.abc import Sequence

FOLDER: Final = Path(__file__).parent
CONFIGURATION: Final = "users.conf"
DEFAULT: Final = "authorization.conf"
OWN_FILE: Final = "accounts.conf"
PAGE: Final = "README.md"
BEGIN: Final = "<!-- permissions: written by `make nats` -->\n"
END: Final = "<!-- end of permissions -->\n"


def main(arguments: Sequence[str], folder: Path = FOLDER) -> int:
    """See the module's docstring. Returns the exit code; 2: wrong usage."""
    match list(arguments):
        case ["accounts"]:
            for path, text in _wanted(folder).items():
                path.write_text(text, encoding="utf-8")
        case ["accounts", "--check"]:
            return _check(folder)
        case ["keys", keys]:
            seeds.make(Path(keys))
        case ["values", keys]:
            return _values(Path(keys), optional=False)
        case ["values", keys, "--optional"]:
            return _values(Path(keys), optional=True)
        case _:
            sys.stderr.write(f"{__doc__}")
            return 2
    return 0


def _values(folder: Path, *, optional: bool) -> int:
    keys = seeds.make(folder)
    try:
        account = seeds.account(folder)
    except seeds.UnknownAccount as error:
        sys.stderr.write(f"{error}\n")
        return 2
    written = msgspec.json.encode(values(keys, account, optional=optional))
    sys.stdout.write(msgspec.json.format(written).decode() + "\n")
    return 0


def _wanted(folder: Path) -> dict[Path, str]:
    page = folder / PAGE
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    return {
        folder / CONFIGURATION: configuration(),
        folder / DEFAULT: AUTHORIZATION,
        folder / OWN_FILE: OWN,
        page: f"{before}{BEGIN}{table()}{END}{after}",
    }


def _check(folder: Path) -> int:
    differing = [
        path.name
        for path, text in _wanted(folder).items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    for name in differing:
        sys.stderr.write(f"{name} does not match proto/permissions.py: run `make nats`.\n")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
