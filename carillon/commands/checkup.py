"""`doctor`: what is wrong, and how it is mended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from carillon.doctor.examination import examine
from carillon.exits import OK, REFUSED, USAGE, Failed
from carillon.settings import from_environment
from proto.permissions import IDENTITIES
from proto.registry import Party

if TYPE_CHECKING:
    from carillon.doctor.finding import Finding
    from carillon.output import Output

_MARKS: Final = {"ok": "ok", "fault": "FAULT", "skipped": "-"}


async def doctor(output: Output, *, url: str | None, nats_only: bool, identity: str, hold: float) -> int:
    """Print what was found; REFUSED when anything is a fault."""
    settings = from_environment()
    address = None if nats_only else url or settings.url
    if identity not in IDENTITIES:
        raise Failed(USAGE, "usage", f"--as is one of {', '.join(IDENTITIES)}.")
    found = await examine(settings, Party(identity), url=address, hold=hold)
    rows = [(_MARKS[each.status], each.check, _told(each)) for each in found]
    output.rows(found, ("", "Check", "Finding"), rows)
    return REFUSED if any(each.status == "fault" for each in found) else OK


def _told(finding: Finding) -> str:
    return f"{finding.detail}. {finding.fix}" if finding.fix else finding.detail
