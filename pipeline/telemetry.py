"""Traces: the names of spans and attributes, and how one process hands its span to the next.

    bark.request ▸ bark.segment ▸ bark.semantic, bark.coarse, bark.fine, bark.codec ▸ queue, …
                                ▸ bark.watermark
                 ▸ bark.store

Only OpenTelemetry's API is used here: where nobody has set an SDK up, spans cost next to nothing.
The context crosses processes as a dict of W3C headers, in the request itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from pipeline.payloads import StageReport

_T = TypeVar("_T")

REQUEST: Final = "bark.request"
SEGMENT: Final = "bark.segment"
STORE: Final = "bark.store"
WATERMARK: Final = "bark.watermark"  # where sounds are marked
RETRY: Final = "bark.retry"
# A stage's children. Their lengths are sums: a sequence's prefills and steps alternate with those
# of its neighbours.
QUEUE: Final = "queue"
PREFILL: Final = "prefill"
DECODE: Final = "decode"

# Attributes of bark.request.
ID: Final = "bark.id"
SEED: Final = "bark.seed"
VOICE: Final = "bark.voice"
CHARACTERS: Final = "bark.characters"
SEGMENTS: Final = "bark.segments"
AUDIO_S: Final = "bark.audio_seconds"
FINISH: Final = "bark.finish_reason"
# … and of a stage: this request's own share of what was done in batches.
STAGE: Final = "bark.stage"
TOKENS: Final = "bark.tokens"
STEPS: Final = "bark.steps"
MEAN_BATCH: Final = "bark.mean_batch"
QUEUE_MS: Final = "bark.queue_ms"
DEVICE_S: Final = "bark.device_seconds"
PREFILLED: Final = "bark.prefilled_positions"
REUSED: Final = "bark.reused_positions"
REPLICA: Final = "bark.replica"
ATTEMPT: Final = "bark.attempt"

_NANOSECONDS: Final = 1_000_000_000
_W3C: Final = TraceContextTextMapPropagator()
_LINK: Final = "bark-link"  # beside the W3C headers: the attempt that this one repeats


def tracer() -> trace.Tracer:
    """Return the tracer of whatever SDK is set up by now."""
    return trace.get_tracer("bark-serve")


def carrier(context: Context | None = None) -> dict[str, str]:
    """Return the headers that let another process join the trace; none where there is no trace."""
    found: dict[str, str] = {}
    _W3C.inject(found, context)
    return found


def joined(headers: Mapping[str, str] | None) -> Context:
    """Return the context that headers carry; this process's own where they carry none."""
    return _W3C.extract(dict(headers or {}), otel_context.get_current())


@dataclass(frozen=True, slots=True)
class Planned:
    """A span that has children in other processes before it is recorded itself.

    A row of a bulk job passes from process to process, and only the last knows how it ended; so
    the ids are given out first, and the span is made with them at the end.
    """

    trace_id: int
    span_id: int
    began_ns: int


_PLANS: Final = otel_context.create_key("bark-planned-spans")
_chosen: ContextVar[Planned | None] = ContextVar("bark-chosen-ids", default=None)


def plan_span(name: str, context: Context | None) -> tuple[Planned, Context]:
    """Give out the ids of a span; returns them, and the context for its children."""
    span = tracer().start_span(name, context)  # never ended, so never exported; sampled as usual
    known = span.get_span_context()
    plan = Planned(known.trace_id, known.span_id, time.time_ns())
    return plan, trace.set_span_in_context(span, context)


def with_plans(context: Context, plans: Mapping[tuple[str, int], Planned]) -> Context:
    """Return a context in which spans of these names and numbers become what was planned."""
    return otel_context.set_value(_PLANS, dict(plans), context)


def chosen_ids() -> Planned | None:
    """Return the ids that the span being started must have; for the SDK's id generator."""
    return _chosen.get()


def _start(name: str, context: Context | None, number: int = 0, **more: Any) -> Span:
    plans: Any = otel_context.get_value(_PLANS, context) or {}
    plan: Planned | None = plans.get((name, number))
    if plan is None or not plan.span_id:
        return tracer().start_span(name, context, **more)
    token = _chosen.set(plan)
    try:
        return tracer().start_span(name, context, start_time=plan.began_ns, **more)
    finally:
        _chosen.reset(token)


@contextmanager
def spanned(
    name: str, context: Context | None = None, number: int = 0, **more: Any
) -> Iterator[Span]:
    """Run a block in a span, which is told how the block ended.

    number: of those of this name in the request.
    """
    started = _start(name, context, number, **more)
    with trace.use_span(started, end_on_exit=True) as span:
        try:
            yield span
        except asyncio.CancelledError:
            span.set_status(Status(StatusCode.ERROR, "cancelled"))
            raise


@contextmanager
def request_span(context: Context | None, **attributes: Any) -> Iterator[tuple[Span, Context]]:
    """Run a block as a request; yields its span, and the context for what belongs to it.

    The span is not made the current one: the block may be part of a generator, whose callers run
    in between.
    """
    span = _start(REQUEST, context, kind=SpanKind.SERVER, attributes=attributes)
    try:
        yield span, trace.set_span_in_context(span, context)
    except (asyncio.CancelledError, GeneratorExit):
        span.set_status(Status(StatusCode.ERROR, "cancelled"))
        raise
    except Exception as error:
        span.record_exception(error)
        span.set_status(Status(StatusCode.ERROR, getattr(error, "code", type(error).__name__)))
        raise
    finally:
        span.end()


@contextmanager
def stage_span(stage: str, headers: Mapping[str, str] | None = None) -> Iterator[Span]:
    """Run one stage's work on one segment; `describe` then says what it took.

    headers: of the caller's process; None: the caller is this one.
    """
    link = (headers or {}).get(_LINK)
    links = [] if link is None else [Link(_span_context(link))]
    context = None if headers is None else joined(headers)
    with spanned(f"bark.{stage}", context, kind=SpanKind.SERVER, links=links) as span:
        yield span


async def traced(
    stage: str, headers: Mapping[str, str] | None, work: Awaitable[tuple[_T, StageReport]]
) -> tuple[_T, StageReport]:
    """Await one stage's work on one segment in a span of its own; see `stage_span`."""
    with stage_span(stage, headers) as span:
        result, report = await work
        describe(span, report)
        return result, report


def describe(span: Span, report: StageReport) -> None:
    """Give a stage's span its costs, and the children that say where its time went."""
    if not span.is_recording():
        return
    span.set_attributes(
        {
            STAGE: report.stage,
            TOKENS: report.tokens,
            STEPS: report.steps,
            MEAN_BATCH: report.mean_batch,
            QUEUE_MS: max(0.0, report.queue_s) * 1000,
            DEVICE_S: report.device_s,
            PREFILLED: report.prefilled_positions,
            REUSED: report.reused_positions,
        }
    )
    start = round(report.began_unix_s * _NANOSECONDS)
    parent, end = trace.set_span_in_context(span), time.time_ns()
    for name, seconds in report.parts:
        # clocks are read at different places: a child never ends after its parent
        stop = min(end, start + round(max(0.0, seconds) * _NANOSECONDS))
        tracer().start_span(name, parent, start_time=start).end(stop)
        start = stop


def failed_attempt(stage: str, attempt: int, error: BaseException) -> dict[str, str]:
    """Record a call that was lost with its replica; return the headers for the next attempt."""
    with tracer().start_as_current_span(RETRY, kind=SpanKind.CLIENT) as span:
        span.set_attributes({STAGE: stage, ATTEMPT: attempt})
        span.record_exception(error)
        span.set_status(Status(StatusCode.ERROR, type(error).__name__))
        lost = carrier().get("traceparent")
    return {**carrier(), **({} if lost is None else {_LINK: lost})}


def _span_context(traceparent: str) -> trace.SpanContext:
    context = _W3C.extract({"traceparent": traceparent}, Context())
    return trace.get_current_span(context).get_span_context()
