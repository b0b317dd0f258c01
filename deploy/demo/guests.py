"""What visitors are called in the chat room. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from random import Random

KINDS: Final = ("Amber", "Brisk", "Calm", "Dapper", "Early", "Frosty", "Gentle", "Hasty", "Merry", "Quiet")
ANIMALS: Final = ("Badger", "Crane", "Dolphin", "Finch", "Heron", "Lynx", "Marten", "Otter", "Plover")


def guest(random: Random) -> str:
    """A display name; two guests may share one."""
    return f"{random.choice(KINDS)} {random.choice(ANIMALS)}"
