"""Tracing with OpenTelemetry: the only file that imports it, and imported only when tracing is on."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from structlog.contextvars import bound_contextvars

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace.export import SpanExporter

KINDS: Final = {
    "client": SpanKind.CLIENT,
    "server": SpanKind.SERVER,
    "producer": SpanKind.PRODUCER,
    "consumer": SpanKind.CONSUMER,
}
_FIELD: Final = "traceparent"
_propagator: Final = TraceContextTextMapPropagator()


class Tracing:
    """Spans of this process. `share` of those without a parent are recorded; a parent decides for its own."""

    def __init__(
        self, component: str, instance: str, share: float, exporter: SpanExporter | None = None
    ) -> None:
        resource = Resource.create({"service.name": f"carillon-{component}", "service.instance.id": instance})
        self._provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(share)), resource=resource)
        # By default where OTEL_EXPORTER_OTLP_ENDPOINT says; bounded, and full means that spans are dropped.
        self._provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("carillon")

    @contextmanager
    def span(self, name: str, kind: str, parent: str | None) -> Iterator[None]:
        """The work inside, with `parent` (a traceparent) or what is going on; an error marks it."""
        context = _context(parent) if parent is not None else None
        with self._tracer.start_as_current_span(
            name, context, KINDS[kind], record_exception=False, set_status_on_exception=False
        ) as span:
            if not span.is_recording():
                yield
                return
            trace_id = trace.format_trace_id(span.get_span_context().trace_id)
            try:
                with bound_contextvars(trace_id=trace_id):
                    yield
            except BaseException as error:
                # The name and no more: a message may hold what a client sent.
                span.set_status(Status(StatusCode.ERROR, type(error).__name__))
                raise

    def outgoing(self) -> str | None:
        """The traceparent of what is going on, if it is recorded."""
        if not trace.get_current_span().is_recording():
            return None
        carrier: dict[str, str] = {}
        _propagator.inject(carrier)
        return carrier.get(_FIELD)

    def trace_id(self) -> str | None:
        """Of what is going on, if it is recorded."""
        span = trace.get_current_span()
        return trace.format_trace_id(span.get_span_context().trace_id) if span.is_recording() else None

    def close(self) -> None:
        """Send what was not sent yet. Blocks for a while at most."""
        self._provider.shutdown()


def _context(parent: str) -> Context:
    return _propagator.extract({_FIELD: parent})
