"""What NATS lets each process do, made from the registry's rows and the streams.

A message's publishers may publish on its filter, its readers may subscribe to it or read the stream that
stores it, and nobody may do anything else. What the runtime needs besides is added here by rule: an inbox of
one's own, the JetStream API of exactly the streams a process touches, advisories for those that follow
republished messages, `$SRV` for those that answer requests. A new row or stream needs no edit of this file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from proto.registry import MESSAGES, Delivery, Direction, Message, Party
from proto.streams import STREAMS, StreamSpec

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

IDENTITIES: Final = tuple(party for party in Party if party is not Party.SERVER)
"""Everybody who connects to NATS; the server itself does not."""

ADVISORIES: Final = ("CREATED", "DELETED", "RESTORE_COMPLETE", "LEADER_ELECTED")
"""What JetStream says of a stream that may mean that messages were stored and never republished."""

WHO_AM_I: Final = "$SYS.REQ.USER.INFO"
"""Tells a connection its own permissions; `carillon doctor` compares them with this table."""

_SERVICE_VERBS: Final = ("PING", "INFO", "STATS")


class Rights(msgspec.Struct, frozen=True, kw_only=True):
    """What one identity may do. Each of `subscribe` is a filter, or a filter and the queue group it must use.

    `responds`: it may also answer whatever request reached it.
    """

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    responds: bool


def inbox(party: Party) -> str:
    """The first token of a party's reply subjects: CARILLON_NATS_INBOX_PREFIX. Its own, so that nobody else
    can read the answers.
    """
    return f"_INBOX_{party}"


def rights(
    party: Party, messages: Sequence[Message] = MESSAGES, streams: Sequence[StreamSpec] = STREAMS
) -> Rights:
    """Everything `party` may do with these messages and streams; nothing else is allowed."""
    mine = f"{inbox(party)}.>"
    published = [row.filter for row in messages if party in row.publishers]
    return Rights(
        publish=_unique(published, _api(party, messages, streams), [WHO_AM_I, mine]),
        subscribe=_unique(_subscribed(party, messages), _advisories(party, messages, streams), [mine]),
        responds=_answers(party, messages),
    )


def _unique(*parts: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(subject for part in parts for subject in part))


def _answers(party: Party, messages: Sequence[Message]) -> bool:
    return any(row.owner is party and row.direction is Direction.IN for row in messages)


def _subscribed(party: Party, messages: Sequence[Message]) -> Iterable[str]:
    for row in messages:
        if party in row.readers and row.delivery is Delivery.CORE:
            # A request has one of the replicas as its reader, never all of them.
            yield f"{row.filter} {row.owner}" if row.pattern.startswith("rpc.") else row.filter
    if _answers(party, messages):
        for verb in _SERVICE_VERBS:
            yield from (f"$SRV.{verb}", f"$SRV.{verb}.{party}", f"$SRV.{verb}.{party}.*")


def _api(party: Party, messages: Sequence[Message], streams: Sequence[StreamSpec]) -> Iterable[str]:
    for spec in streams:
        stored = [row for row in messages if _stores(spec, row)]
        touched = [row for row in stored if party in (*row.publishers, *row.readers)]
        if party is Party.PROVISION:
            yield from (f"$JS.API.STREAM.{verb}.{spec.name}" for verb in ("INFO", "CREATE", "UPDATE"))
        elif party is Party.BACKUP:
            yield from (f"$JS.API.STREAM.{verb}.{spec.name}" for verb in ("INFO", "SNAPSHOT"))
            yield f"$JS.SNAPSHOT.ACK.{spec.name}.*"
        elif party is Party.OPERATOR or touched:
            yield f"$JS.API.STREAM.INFO.{spec.name}"
        if touched and party is not Party.OPERATOR:
            yield f"$JS.API.STREAM.MSG.GET.{spec.name}"
            # One for batches, which name their subjects in the body, and one for each subject.
            yield f"$JS.API.DIRECT.GET.{spec.name}"
            yield from (f"$JS.API.DIRECT.GET.{spec.name}.{row.filter}" for row in touched)
    if party is Party.OPERATOR:
        yield from (f"$SRV.{verb}{rest}" for verb in _SERVICE_VERBS for rest in ("", ".>"))


def _advisories(party: Party, messages: Sequence[Message], streams: Sequence[StreamSpec]) -> Iterable[str]:
    heard = {row.pattern for row in messages if party in row.readers}
    for spec in streams:
        live = {spec.live_subject(row.pattern) for row in messages if _stores(spec, row)}
        if live & heard:
            yield from (f"$JS.EVENT.ADVISORY.STREAM.{advisory}.{spec.name}" for advisory in ADVISORIES)


def _stores(spec: StreamSpec, row: Message) -> bool:
    return row.delivery is Delivery.JETSTREAM and any(
        covers(subject, row.filter) for subject in spec.subjects
    )


def covers(wide: str, narrow: str) -> bool:
    """Whether every subject that matches the filter `narrow` matches the filter `wide` too."""
    wanted, given = wide.split("."), narrow.split(".")
    for index, word in enumerate(wanted):
        if word == ">":
            return len(given) > index
        if index >= len(given) or given[index] == ">" or word not in ("*", given[index]):
            return False
    return len(wanted) == len(given)
