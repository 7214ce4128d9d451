"""A trace of each request, with --otlp_endpoint: one span for it, and below it one for each stage.

Beside the way SavedModel -> server -> client: an observer of desk.py over OpenTelemetry's own library and exporter,
which is imported only when this module is. A caller's W3C traceparent is honoured: the request's span is its child, and
is exported only if the caller sampled it.
"""

import threading
import time

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from serving.call import LONGEST, Call


class Tracing:
    """Sends traces to a collector, in a thread of its own; what the collector does not take in time is dropped."""

    def __init__(self, endpoint: str, service: str = "vit22b-serving"):
        """Sends to a collector over OTLP's gRPC.

        Args:
            endpoint: http://HOST:PORT, or https:// for TLS; the port is 4317 by convention.
            service: the name of the server in the traces.

        Raises:
            ValueError: the endpoint is no such address.
        """
        if not endpoint.startswith(("http://", "https://")):
            raise ValueError(f"--otlp_endpoint is {endpoint!r}; expected http://HOST:PORT or https://HOST:PORT")
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": service}),
            span_limits=SpanLimits(max_span_attribute_length=LONGEST),
            shutdown_on_exit=False,  # `close` does
        )
        self._exporter = OTLPSpanExporter(endpoint=endpoint)
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("serving")
        self._caller = TraceContextTextMapPropagator()

    def end(self, call: Call, status: str, seconds: float) -> None:
        """Hands a request's spans to the exporter."""
        now = time.time_ns()
        context = self._caller.extract(call.metadata)
        span = self._tracer.start_span(
            call.api or "unknown",
            context,
            kind=trace.SpanKind.SERVER,
            attributes=_attributes(call, status),
            start_time=now - int(seconds * 1e9),
        )
        if status != "OK":
            span.set_status(trace.StatusCode.ERROR, status)
        inside = trace.set_span_in_context(span, context)
        for stage, start, end in call.spans:
            self._tracer.start_span(stage, inside, start_time=start).end(end)
        span.end(now)

    def close(self, seconds: float = 5.0) -> None:
        """Sends what is left, and stops; what a collector has not taken after so many seconds is lost."""
        # The library waits 30 seconds for a collector that is not there, which is all the time that a pod has to end.
        closing = threading.Thread(target=self._provider.shutdown, name="tracing", daemon=True)
        closing.start()
        closing.join(seconds)
        if closing.is_alive():
            self._exporter.shutdown()
            closing.join(seconds)


def _attributes(call: Call, status: str) -> dict[str, str | int]:
    attributes: dict[str, str | int] = {
        "rpc.system": "grpc" if call.entrypoint == "GRPC" else "http",
        "rpc.method": call.api,
        "serving.request_id": call.id,
        "serving.model": call.model,
        "serving.signature": call.signature,
        "serving.rows": call.rows,
        "serving.status": status,
    }
    if call.version is not None:
        attributes["serving.version"] = call.version
    return attributes
