"""The mark in the sound, on nano's own speech."""

from __future__ import annotations

import hashlib
import sys
import threading

import numpy as np
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from pipeline import Bark, telemetry, watermark
from pipeline.audio import SyntheticLabel, change_speed, encode, resample
from pipeline.audio.decode import decode
from pipeline.errors import InvalidRequest
from pipeline.models.encodec import torch_threads
from pipeline.payloads import Float32, Waveform
from pipeline.waterfall import Waterfall
from pipeline.watermark import FOUND, Watermark

RATE = 24_000
LABEL = SyntheticLabel("nano", "0" * 32)
FOREIGN = ("librosa", "torchaudio", "torchaudio.transforms", "pkg_resources")


@pytest.fixture(scope="module")
def speech() -> Float32:
    with Bark.load() as bark:
        return bark.generate("Room four hundred and seven is ready.", voice="oak", seed=3).samples


@pytest.fixture(scope="module")
def mark() -> Watermark:
    return Watermark()


@pytest.fixture(scope="module")
def marked(mark: Watermark, speech: Float32) -> Float32:
    return mark.mark(speech, RATE)


def test_it_is_found_where_it_is_and_only_there(
    mark: Watermark, speech: Float32, marked: Float32
) -> None:
    assert mark.confidence(speech, RATE) < 0.05
    assert mark.confidence(marked, RATE) > 0.95
    assert mark.name == "perth 1.0.1"


def test_the_sound_stays_as_long_as_it_was_and_close_to_it(
    speech: Float32, marked: Float32
) -> None:
    assert (marked.dtype, marked.shape) == (np.float32, speech.shape)
    assert np.corrcoef(speech, marked)[0, 1] > 0.95
    spectra = [np.abs(np.fft.rfft(sound)) ** 2 for sound in (speech, marked)]
    above = np.fft.rfftfreq(len(speech), 1 / RATE) > 3_000  # where the mark has nothing to do
    assert spectra[1][above].sum() == pytest.approx(spectra[0][above].sum(), rel=0.01)


@pytest.mark.parametrize("audio_format", ["wav", "mp3", "opus", "aac"])
def test_it_outlives_a_format_and_a_cut_to_one_second(
    mark: Watermark, speech: Float32, marked: Float32, audio_format: str
) -> None:
    def found(sound: Float32) -> float:
        samples, rate, _ = decode(encode(sound, RATE, audio_format, LABEL))
        return mark.confidence(samples[rate // 2 : rate // 2 + rate], rate)

    assert found(marked) > FOUND > found(speech)


def test_it_outlives_other_rates_speeds_and_levels(mark: Watermark, marked: Float32) -> None:
    assert mark.confidence(resample(resample(marked, RATE, 8_000), 8_000, RATE), RATE) > FOUND
    assert mark.confidence(resample(marked, RATE, 48_000), 48_000) > FOUND
    assert mark.confidence(change_speed(marked, RATE, 1.5), RATE) > FOUND
    assert mark.confidence(marked / 16, RATE) > FOUND


@pytest.mark.parametrize("num_samples", [1, 320, 7_200], ids=str)
def test_short_sounds_keep_their_length(mark: Watermark, speech: Float32, num_samples: int) -> None:
    short = speech[RATE : RATE + num_samples]
    assert mark.mark(short, RATE).shape == short.shape
    assert 0 <= mark.confidence(short, RATE) <= 1


def test_silence_stays_silence_and_has_no_mark(mark: Watermark) -> None:
    silence = np.zeros(RATE, np.float32)
    assert np.abs(mark.mark(silence, RATE)).max() < 1e-6
    assert mark.confidence(silence, RATE) == 0


def test_a_mark_in_a_part_of_a_long_sound_is_found(
    mark: Watermark, speech: Float32, marked: Float32
) -> None:
    parts = [np.zeros(40 * RATE, np.float32), marked, np.zeros(40 * RATE, np.float32)]
    assert mark.confidence(np.concatenate(parts), RATE) > FOUND


def test_the_peak_stays_within_full_scale(mark: Watermark, speech: Float32) -> None:
    for peak in (1.0, 1.5):
        loud = mark.mark(speech * np.float32(peak / np.abs(speech).max()), RATE)
        assert np.abs(loud).max() <= 1
        assert mark.confidence(loud, RATE) > 0.95


def test_its_bytes_depend_on_nothing_but_the_sound(
    mark: Watermark, speech: Float32, marked: Float32
) -> None:
    sounds: list[str] = []

    def work(num_threads: int) -> None:
        with torch_threads(num_threads):
            sounds.append(hashlib.sha256(mark.mark(speech, RATE).tobytes()).hexdigest())

    threads = [threading.Thread(target=work, args=(count,)) for count in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(sounds) == {hashlib.sha256(marked.tobytes()).hexdigest()}
    assert len(sounds) == 3


def test_loading_is_quiet_and_leaves_no_stand_ins(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = object()
    monkeypatch.setitem(sys.modules, "librosa", real)  # type: ignore[arg-type]
    forget_perth(monkeypatch)
    before = {name: sys.modules.get(name) for name in FOREIGN}
    Watermark()
    assert {name: sys.modules.get(name) for name in FOREIGN} == before
    assert before["librosa"] is real
    assert capsys.readouterr().out == ""


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_perth(monkeypatch)
    monkeypatch.setitem(sys.modules, "perth", None)
    assert not Watermark.is_installed()
    with pytest.raises(InvalidRequest, match=r"pip install 'bark-serve\[watermark\]'"):
        Watermark()
    with pytest.raises(InvalidRequest, match="watermark"):
        Bark.load(watermark=True)


def forget_perth(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "perth"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(watermark, "_network", watermark._network.__wrapped__)


def test_a_generation_with_the_mark_is_another_with_another_id(
    mark: Watermark, speech: Float32
) -> None:
    with Bark.load(watermark=True) as bark:
        clip = bark.generate("Room four hundred and seven is ready.", voice="oak", seed=3)
        assert bark.manifest(clip)["watermark"] == "perth 1.0.1"
    with Bark.load() as bark:
        plain = bark.generate("Room four hundred and seven is ready.", voice="oak", seed=3)
        assert bark.manifest(plain)["watermark"] is None
    assert np.array_equal(clip.samples, mark.finish(Waveform(speech, RATE)).samples)
    assert np.array_equal(plain.samples, speech)
    assert np.array_equal(clip.tokens.fine, plain.tokens.fine)
    assert clip.id != plain.id


def test_marking_is_a_span_and_a_bar_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(telemetry, "tracer", lambda: provider.get_tracer("test"))
    with Bark.load(watermark=True) as bark:
        clip = bark.generate("Room four hundred and seven is ready.", voice="oak", seed=3)
    with Bark.load() as bark:
        plain = bark.generate("Room four hundred and seven is ready.", voice="oak", seed=3)
    spans = {span.context.span_id: span for span in exporter.get_finished_spans()}
    (marking,) = (span for span in spans.values() if span.name == "bark.watermark")
    assert spans[marking.parent.span_id].name == "bark.segment"
    (codec, _) = (span for span in spans.values() if span.name == "bark.codec")
    assert marking.start_time >= codec.end_time
    stages = ["semantic", "coarse", "fine", "codec"]
    bars = Waterfall.of(clip.segments, clip.timings["total"]).bars
    assert [bar.stage for bar in bars] == [*stages, "watermark"]
    assert bars[-1].start_s >= bars[-2].start_s
    assert bars[-1].length_s > 0
    assert [bar.stage for bar in Waterfall.of(plain.segments, 1.0).bars] == stages
