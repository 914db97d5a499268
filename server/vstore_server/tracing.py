"""OpenTelemetry spans, one a request, under the span that the caller's `traceparent` names."""

from __future__ import annotations

import time
from typing import Any

from vstore.errors import MissingDependency
from vstore_server.methods import Call

_RECEIPT = ("plan", "n_matching", "n_distances", "n_round_trips", "n_requests", "bytes_fetched")


class Tracing:
    """Makes spans with the tracer provider that the process has; where exporters send them is its own affair.

    Args:
        provider: an OpenTelemetry TracerProvider; default: the process's.

    Raises:
        MissingDependency: opentelemetry-api is not installed.
    """

    def __init__(self, provider: Any = None) -> None:
        try:
            from opentelemetry import trace
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError as error:
            raise MissingDependency(
                "spans need opentelemetry-api; run: pip install 'vstore[server,otel]'"
            ) from error
        self._trace = trace
        self._propagator = TraceContextTextMapPropagator()
        self._tracer = trace.get_tracer("vstore_server", tracer_provider=provider)

    def record(self, method: str, call: Call, took_s: float, status: str) -> None:
        """Make the span of a request that has just ended."""
        end_ns = time.time_ns()
        carrier = {} if call.traceparent is None else {"traceparent": call.traceparent}
        attributes: dict[str, Any] = {
            "rpc.system": "grpc",
            "rpc.service": "vstore.v1.Store",
            "rpc.method": method,
            "vstore.tenant": call.caller.tenant,
            "vstore.request_id": call.request_id,
        }
        if call.collection is not None:
            attributes["vstore.collection"] = call.collection
        receipt = call.receipt
        if receipt is not None:
            attributes |= {f"vstore.{name}": receipt[name] for name in _RECEIPT}
            for stage, spent_ms in receipt["timings_ms"].items():
                attributes[f"vstore.stage.{stage}_ms"] = spent_ms
        span = self._tracer.start_span(
            f"vstore.v1.Store/{method}",
            context=self._propagator.extract(carrier),
            kind=self._trace.SpanKind.SERVER,
            attributes=attributes,
            start_time=end_ns - int(took_s * 1e9),
        )
        if status != "OK":
            span.set_status(self._trace.StatusCode.ERROR, status)
        span.end(end_ns)
