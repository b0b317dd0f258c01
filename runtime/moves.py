"""What earlier versions stored elsewhere comes to where this one keeps it, and what may be missing is found.

Whose turn it is to decide: nothing is missing if the register was never there (there is no mark of it in any
stream) or vouches for itself. Anything else is for an operator to say, and until then the rooms are closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from typing import TYPE_CHECKING, Any, Final

import msgspec
import structlog

from proto import subjects
from proto.orders import OrderOwned
from proto.positions import epoch_of
from proto.streams import CHAT, CHAT_POLICIES, ORDER_OWNERS, ORDERS
from proto.subjects import OWNERS, POLICIES, InvalidSubject
from runtime.errors import DeadlineExceeded, Unavailable, WrongSequence
from runtime.log import Log
from runtime.register import Register, accounts_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping

    from runtime.bus import Bus
    from runtime.register import Standing

log = structlog.get_logger(__name__)

CONFIRMED: Final = CHAT_POLICIES.name
MARK: Final = "carillon.registers"
"""In the metadata of every stream, once there were registers."""
CONFIRMED_EPOCH: Final = "carillon.confirmed"
"""In that of the register: the incarnation in which it was vouched for, for whoever may not read it."""
AT_ONCE: Final = 64
GATHERED: Final = 10_000
API_SECONDS: Final = 10.0


class NotConfirmed(Exception):
    """Policies may be missing; the message says what to do."""


class _Subjects(msgspec.Struct):
    subjects: dict[str, int] | None = None


class _Listing(msgspec.Struct):
    state: _Subjects | None = None
    total: int = 0


def marked(config: Mapping[str, Any], created: str) -> Mapping[str, Any]:
    """The configuration of a stream that was created then, with the marks that belong there."""
    metadata = config.get("metadata") or {}
    marks = {MARK: "1"}
    if config["name"] == CONFIRMED:
        marks[CONFIRMED_EPOCH] = epoch_of(created)
    return config if metadata.items() >= marks.items() else {**config, "metadata": {**metadata, **marks}}


def confirmed(config: Mapping[str, Any], created: str) -> bool:
    """Whether a register was vouched for in the incarnation that was created then."""
    return (config.get("metadata") or {}).get(CONFIRMED_EPOCH) == epoch_of(created)


async def move(
    bus: Bus, existing: Mapping[str, Mapping[str, Any]], *, confirm: bool, patience: float
) -> None:
    """Move policies and owners. `existing` is what there was before this run, `confirm` what an operator says
    of the policies. Goes on for `patience` seconds while NATS does not answer. Raises NotConfirmed,
    TimeoutError.
    """
    known = any(MARK in (config.get("metadata") or {}) for config in existing.values())
    began = asyncio.get_running_loop().time()
    while True:
        try:
            await _move_owners(bus)
            await _move_policies(bus, known=known, confirm=confirm)
        except (Unavailable, DeadlineExceeded, WrongSequence) as error:
            if asyncio.get_running_loop().time() - began > patience:
                raise TimeoutError from error
            log.warning("move_waits", code=error.code)
            await asyncio.sleep(0.2)
        else:
            return


async def _move_policies(bus: Bus, *, known: bool, confirm: bool) -> None:
    register = Register(Log(bus, CHAT_POLICIES), Log(bus, CHAT), POLICIES)
    standing = await register.standing()
    complete = standing.vouch is not None and accounts_for(standing.vouch, standing.old.first_at)
    never = standing.vouch is None and not known and not await register.confirmed()
    if not (complete or never or confirm):
        raise NotConfirmed(_what_to_do(standing))
    taken = await register.take_over_all(lost=not complete and not never)
    if confirm or never:
        await register.confirm(None if confirm else _since(standing))
    await register.copy_all()
    log.info("policies_in_force", taken_over=taken, confirmed=confirm)


def _since(standing: Standing) -> dt.datetime | None:
    """Without an older log every room begins now; with one, whatever it said has just been taken over."""
    return None if standing.old.last_seq else dt.datetime.fromisoformat(standing.kept.created)


def _what_to_do(standing: Standing) -> str:
    lost = "were restored, lost or made anew" if standing.vouch is None else "are younger than the chat log"
    return (
        f"the policies of rooms ({CONFIRMED}) {lost}, so that some may be missing: every room is closed. "
        f"Restore the newest backup or set what is missing, then run this with CARILLON_CONFIRM={CONFIRMED}"
    )


async def _move_owners(bus: Bus) -> None:
    """Owners that older versions stored, and those whose record was lost and whose order is still there."""
    owners, orders = Log(bus, ORDER_OWNERS), Log(bus, ORDERS)
    # Of each a number, because there may be a million of them.
    known = {hash(_order(kept)) async for kept in _subjects(bus, ORDER_OWNERS.name, f"{OWNERS.kept}*")}
    slots = asyncio.Semaphore(AT_ONCE)
    moved = 0

    async def keep(order: str, stored: str) -> None:
        async with slots:
            await _keep_owner(owners, orders, order, stored)

    for pattern in (f"{OWNERS.old}*", "orders.log.*.*"):
        missing: dict[str, str] = {}
        async for stored in _subjects(bus, ORDERS.name, pattern):
            order = _order(stored)
            if hash(order) not in known:
                known.add(hash(order))
                missing[order] = stored
            if len(missing) >= GATHERED:
                await _all(keep(*each) for each in missing.items())
                moved += len(missing)
                missing.clear()
        await _all(keep(*each) for each in missing.items())
        moved += len(missing)
    if moved:
        log.info("owners_moved", count=moved)


async def _keep_owner(owners: Log, orders: Log, order: str, stored: str) -> None:
    """Record whose an order is: as an older version recorded it at `stored`, or whose log `stored` is."""
    if stored.startswith(OWNERS.old):
        copy = await orders.last(stored)
        payload = None if copy is None else copy.payload
    else:
        payload = _owned(stored.split(".")[2])
    if payload is None:
        return
    with contextlib.suppress(WrongSequence):  # it was claimed meanwhile
        await owners.append(OWNERS.kept + order, payload, message_id=f"move:{order}", expected=0)


def _order(subject: str) -> str:
    return subject.rpartition(".")[2]


def _owned(user: str) -> bytes | None:
    try:
        return msgspec.json.encode(OrderOwned(user_id=subjects.decode(user)))
    except InvalidSubject:
        return None


async def _all(chores: Iterable[Any]) -> None:
    results = await asyncio.gather(*chores, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result


async def _subjects(bus: Bus, stream: str, pattern: str) -> AsyncIterator[str]:
    """Every subject of a stream that has a message and matches, page by page."""
    offset = 0
    while True:
        asked = msgspec.json.encode({"subjects_filter": pattern, "offset": offset})
        message = await bus.request(f"$JS.API.STREAM.INFO.{stream}", asked, timeout=API_SECONDS)
        listing = msgspec.json.decode(message.payload, type=_Listing)
        if listing.state is None:
            raise Unavailable
        page = listing.state.subjects or {}
        for subject in page:
            yield subject
        offset += len(page)
        if not page or offset >= listing.total:
            return
