"""Spans and their context in NATS headers, or nothing at all: off by default, and then no module of
OpenTelemetry is imported and a span is one shared object that does nothing.

One span for each request and each stored message, one for each flush to the clients of a channel's kind, and
never one for each of them.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Final, Literal

from proto.headers import TRACEPARENT
from runtime import headers as wire
from runtime.settings import SettingsError, variable

if TYPE_CHECKING:
    from runtime.otel import Tracing

Kind = Literal["client", "server", "producer", "consumer"]

_FIELD: Final = TRACEPARENT.encode()
_NOTHING: Final[AbstractContextManager[None]] = nullcontext()
_tracing: Tracing | None = None


def configure(component: str, instance: str, share: float) -> None:
    """Begin to trace `share` of all requests; 0: stay off. Raises SettingsError when OpenTelemetry is not
    installed.
    """
    if not share:
        return
    try:
        from runtime import otel  # noqa: PLC0415 - an extra, and slow to import
    except ImportError:
        raise SettingsError([f"{variable('trace_share')}: needs the extra `otel`"]) from None
    use(otel.Tracing(component, instance, share))


def use(tracing: Tracing | None) -> None:
    """Trace with this from now on; None: off."""
    global _tracing  # noqa: PLW0603 - as the metrics' registry, one for the process
    _tracing = tracing


def close() -> None:
    """Send what was not sent yet, and be off."""
    if _tracing is not None:
        _tracing.close()
    use(None)


def is_on() -> bool:
    """Whether anything is traced at all."""
    return _tracing is not None


def span(name: str, kind: Kind) -> AbstractContextManager[None]:
    """The work inside, as a part of what is going on, or the beginning of a trace."""
    return _NOTHING if _tracing is None else _tracing.span(name, kind, None)


def part(name: str, kind: Kind) -> AbstractContextManager[None]:
    """As `span`, but only of what is being traced: it begins no trace of its own."""
    return _NOTHING if _tracing is None or _tracing.outgoing() is None else _tracing.span(name, kind, None)


def served(name: str, kind: Kind, block: bytes | None) -> AbstractContextManager[None]:
    """As `span`, as a part of what the header block of a message tells. Without a context in it: nothing."""
    if _tracing is None:
        return _NOTHING
    parent = wire.value(block, _FIELD)
    return _NOTHING if parent is None else _tracing.span(name, kind, parent.decode("ascii", "replace"))


def trace_id() -> str | None:
    """Of what is going on, if it is traced: 32 hexadecimal digits."""
    return None if _tracing is None else _tracing.trace_id()


def headers() -> dict[str, str]:
    """What a message has to carry so that its reader continues the trace."""
    found = None if _tracing is None else _tracing.outgoing()
    return {} if found is None else {TRACEPARENT: found}
