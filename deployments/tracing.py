"""Traces leave this process for a collector, if there is one: OpenTelemetry's SDK, set up once.

Everything is said in OpenTelemetry's own environment variables, for all processes alike:
`OTEL_EXPORTER_OTLP_ENDPOINT` (http://collector:4318) turns export on, `OTEL_TRACES_SAMPLER` and
`OTEL_TRACES_SAMPLER_ARG` choose what is kept. The choice is made where a trace begins and travels
with it, so a trace is kept whole or not at all. Spans wait in a queue with a bound, and are sent
from a thread of their own: a receiver that is slow or gone costs spans, never requests.
"""

from __future__ import annotations

import os

from opentelemetry import trace

from pipeline.telemetry import chosen_ids

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def set_up_tracing(deployment: str, replica: str) -> bool:
    """Export this process's spans if an endpoint is named; say whether one is.

    Args:
        deployment: becomes `service.name`, after OTEL_SERVICE_NAME where that is set.
        replica: which of them, in every span's resource.
    """
    if not any(os.environ.get(name) for name in _ENDPOINTS):
        return False
    # half a second, and only where it is wanted
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

    class Ids(RandomIdGenerator):
        """Random, but for spans whose ids were given out before."""

        def generate_trace_id(self) -> int:
            plan = chosen_ids()
            return super().generate_trace_id() if plan is None else plan.trace_id

        def generate_span_id(self) -> int:
            plan = chosen_ids()
            return super().generate_span_id() if plan is None else plan.span_id

    provider = trace.get_tracer_provider()
    if not isinstance(provider, TracerProvider):  # Serve's own tracing may have made one
        family = os.environ.get("OTEL_SERVICE_NAME", "bark")
        name = f"{family}.{deployment.removesuffix('Stage').lower()}"
        resource = {"service.name": name, "bark.replica": replica}
        provider = TracerProvider(resource=Resource.create(resource), id_generator=Ids())
        trace.set_tracer_provider(provider)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return True
