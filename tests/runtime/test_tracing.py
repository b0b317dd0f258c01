"""runtime/tracing.py and runtime/otel.py"""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from structlog.contextvars import get_contextvars

from runtime import headers, tracing
from runtime.otel import Tracing
from runtime.settings import SettingsError
from tests.support.stack import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.sdk.trace import ReadableSpan


class Recorder:
    """Tracing whose spans are kept."""

    def __init__(self, share: float) -> None:
        self._exporter = InMemorySpanExporter()
        self._tracing = Tracing("test", "test-1", share, self._exporter)
        tracing.use(self._tracing)

    def spans(self) -> dict[str, ReadableSpan]:
        """What was recorded, by name; nothing is recorded any more."""
        tracing.close()
        return {span.name: span for span in self._exporter.get_finished_spans()}


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    """Everything is traced."""
    yield Recorder(1.0)
    tracing.use(None)


def test_off_is_nothing_at_all() -> None:
    """The same object for every span, no header, and no module of OpenTelemetry in any process."""
    spans = {
        id(tracing.span("a", "client")),
        id(tracing.part("b", "producer")),
        id(tracing.served("c", "server", None)),
    }
    code = (
        "import sys\n"
        "import services.gateway.app, services.orders.handlers, services.chat.handlers, runtime.provision\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert len(spans) == 1
    assert tracing.headers() == {}
    assert tracing.trace_id() is None
    assert loaded.stdout == "[]\n"


def test_a_trace_goes_on_behind_a_message(recorder: Recorder) -> None:
    """Caller, server and what is stored are one trace, each a part of the one before."""
    with tracing.span("call", "client"):
        request = headers.encode(tracing.headers())
        told = tracing.trace_id()
    with tracing.served("serve", "server", request), tracing.part("append", "producer"):
        stored = headers.encode(tracing.headers())
    with tracing.served("deliver", "consumer", stored):
        assert "trace_id" in get_contextvars()
    spans = recorder.spans()

    assert {f"{span.context.trace_id:032x}" for span in spans.values() if span.context} == {told}
    assert tracing.trace_id() is None
    order = ["call", "serve", "append", "deliver"]
    assert spans.keys() == set(order)
    for before, after in pairwise(order):
        parent, context = spans[after].parent, spans[before].context
        assert parent is not None
        assert context is not None
        assert parent.span_id == context.span_id
    assert [spans[name].kind for name in order] == [
        SpanKind.CLIENT, SpanKind.SERVER, SpanKind.PRODUCER, SpanKind.CONSUMER,
    ]  # fmt: skip
    assert "trace_id" not in get_contextvars()


def test_who_only_takes_part_begins_nothing(recorder: Recorder) -> None:
    """A message without a context, and a write outside of any request, are not traced."""
    with tracing.served("serve", "server", headers.encode({"Carillon-Request-Id": "r1"})):
        assert tracing.headers() == {}
        with tracing.part("append", "producer"):
            assert tracing.headers() == {}

    assert recorder.spans() == {}


def test_a_broken_context_is_no_harm(recorder: Recorder) -> None:
    """What is no traceparent begins a trace of its own, or none."""
    for text in ("nonsense", "00-0-0-0", ""):
        with tracing.served("serve", "server", headers.encode({"traceparent": text})):
            pass

    assert set(recorder.spans()) <= {"serve"}


def test_an_error_marks_the_span_and_tells_no_more_than_its_name(recorder: Recorder) -> None:
    """What a client sent may be in its message."""
    with pytest.raises(ValueError, match="secret"), tracing.span("call", "client"):
        raise ValueError("secret")
    span = recorder.spans()["call"]

    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "ValueError")
    assert not span.events


def test_only_a_share_is_traced() -> None:
    """What is not chosen sends no context, so that nobody behind it traces either."""
    recorder = Recorder(1e-18)
    try:
        with tracing.span("call", "client"):
            assert tracing.headers() == {}
            assert "trace_id" not in get_contextvars()
        assert recorder.spans() == {}
    finally:
        tracing.use(None)


def test_without_the_extra_it_is_a_fault_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Named with what is missing; a share of 0 asks for nothing."""
    monkeypatch.setitem(sys.modules, "runtime.otel", None)
    monkeypatch.delattr("runtime.otel", raising=False)
    tracing.configure("test", "test-1", 0.0)

    with pytest.raises(SettingsError) as told:
        tracing.configure("test", "test-1", 0.5)
    assert told.value.faults == ["CARILLON_TRACE_SHARE: needs the extra `otel`"]
