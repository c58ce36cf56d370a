import asyncio
import logging

import pytest
from fake_runner import FakeRunner
from starlette.responses import StreamingResponse
from test_engine import sequence

from deployments import metrics
from deployments.measured_store import MeasuredStore
from deployments.meters import EngineMeter, Reporter
from deployments.metrics import OF_A_STAGE, OF_THE_INGRESS, Counter, Histogram
from deployments.middleware import RequestCount, RequestEnvelope
from pipeline.engine.async_engine import AsyncEngine
from pipeline.engine.engine import Engine
from pipeline.errors import BarkError, DeadlineExceeded, StoreUnavailable, VoiceNotFound
from pipeline.store import open_store


@pytest.fixture
def told():
    """What was recorded: by name and labels; counters summed up, the rest as it was told last."""
    found = {}

    def sink(metric, value, labels):
        assert set(labels) == set(metric.labels)
        key = (metric.name, *labels.values())
        found[key] = found.get(key, 0) + value if isinstance(metric, Counter) else value

    metrics.send_to(sink)
    yield found
    metrics.send_to(None)


def test_names_are_what_prometheus_asks_of_them():
    every = (*OF_A_STAGE, *OF_THE_INGRESS)
    names = [metric.name for metric in every]
    assert len(set(names)) == len(names)
    for metric in every:
        assert metric.name.startswith("bark_")
        assert not metric.name.endswith(("_total", "_count"))
        assert not {"deployment", "replica", "application"} & set(metric.labels)  # Serve's own
        if isinstance(metric, Histogram):
            assert list(metric.buckets) == sorted(set(metric.buckets))


def test_labels_stay_few():
    for metric in (*OF_A_STAGE, *OF_THE_INGRESS):
        assert len(list(metric.series())) <= 150
    assert list(metrics.SLOTS.series(stage="fine")) == [{"stage": "fine"}]
    assert list(metrics.REQUESTS.series()) == []  # whatever routes there are


def test_a_sink_that_fails_is_complained_of_once_and_stops_nothing(caplog):
    def broken(*_):
        raise OSError("no agent")

    metrics.send_to(broken)
    for _ in range(3):
        metrics.JOBS.add(outcome="lost")
        metrics.FIRST_AUDIO_SECONDS.observe(1.0, way="http")
    metrics.send_to(None)
    metrics.JOBS.add(outcome="lost")
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2


def test_codes_of_what_ends_a_request():
    wrapped = RuntimeError("the response has begun")
    wrapped.__cause__ = DeadlineExceeded("late")
    cases = (None, VoiceNotFound("no"), wrapped, KeyError("ours"), GeneratorExit())
    assert [metrics.code_of(case) for case in cases] == [
        "ok",
        "voice_not_found",
        "deadline_exceeded",
        "engine_failed",
        "cancelled",
    ]
    assert {"ok", BarkError.code, VoiceNotFound.code, "cancelled"} <= set(metrics.codes())


@pytest.mark.parametrize(
    ("heard", "code"),
    [
        ({"type": "http.disconnect"}, "cancelled"),
        (RuntimeError("Serve's call was cancelled"), "cancelled"),
        (None, "ok"),  # who stays hears it all
    ],
)
def test_who_leaves_a_stream_is_no_failure_of_ours(told, heard, code):
    async def pieces():
        yield b"sound"
        if heard is not None:
            await asyncio.sleep(60)

    async def receive():
        await asyncio.sleep(0.01 if heard is not None else 60)
        if isinstance(heard, Exception):
            raise heard
        return heard

    async def send(message):
        sent.append(message["type"])

    async def app(scope, receive, send):
        await StreamingResponse(pieces())(scope, receive, send)

    sent = []
    whole = RequestCount(RequestEnvelope(app, max_body_bytes=100, echoes=True))
    asyncio.run(whole({"type": "http", "headers": [], "asgi": {}}, receive, send))
    assert told == {("bark_http_requests", "none", code): 1}
    assert sent[0] == "http.response.start"


def test_an_engine_is_told_by_differences(told):
    engine = AsyncEngine(Engine(FakeRunner(num_slots=3)))
    meter = EngineMeter("semantic", engine, 3)
    tokens = 0
    for seed in range(3):
        one = sequence(seed)
        engine.thread.post(lambda one=one: engine._engine.submit(one))
        tokens += len(one.result.result(10).tokens)
        meter.report()
        meter.report()  # nothing new
        assert told["bark_tokens", "semantic"] == tokens
    engine.close()
    meter.report()
    done = engine.counters
    assert told["bark_sequences", "semantic", "finished"] == 3
    assert told["bark_steps", "semantic", "prefill"] == 3
    assert told["bark_step_seconds_bucket", "semantic", "decode", "+Inf"] == sum(done.steps.counts)
    assert told["bark_steps", "semantic", "decode"] == sum(done.steps.counts)
    buckets = ("bark_step_seconds_bucket", "semantic", "decode")
    up_to = [told[(*buckets, bound)] for bound in metrics.STEP_BOUNDS]
    assert up_to == sorted(up_to)  # each bound's count has those below in it
    assert told["bark_step_seconds_sum", "semantic", "decode"] == pytest.approx(done.steps.total_s)
    assert told["bark_device_seconds", "semantic"] == pytest.approx(engine.busy_s)
    assert (told["bark_slots", "semantic"], told["bark_running_sequences", "semantic"]) == (3, 0)


def test_a_reporter_outlives_what_it_calls_and_has_the_last_word():
    calls = []

    def report():
        calls.append(1)
        raise ValueError("now and then")

    logging.disable(logging.CRITICAL)
    reporter = Reporter(report, every_s=0.01)
    while len(calls) < 3:
        pass
    reporter.close()
    logging.disable(logging.NOTSET)
    count = len(calls)
    assert count >= 4
    assert not reporter._thread.is_alive()


def test_a_store_is_timed_and_its_failures_are_counted(told, tmp_path):
    store = MeasuredStore(open_store(tmp_path / "store"))
    assert store.put_if_absent("a/b", b"1")
    assert store.get("a/b") == b"1"
    assert store.list("a/") == ["a/b"]
    (tmp_path / "file").write_text("")
    broken = MeasuredStore(open_store(tmp_path / "file"))
    with pytest.raises(StoreUnavailable):
        broken.put("a", b"1")
    operations = {key[1] for key in told if key[0] == "bark_store_seconds"}
    assert operations == {"put_if_absent", "get", "list", "put"}
    assert {k: v for k, v in told.items() if k[0] == "bark_store_errors"} == {
        ("bark_store_errors", "put"): 1
    }
