"""Every format, whole and streamed, read back by decoders that are not the encoder's."""

import hashlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

import pipeline
from pipeline.audio import FORMATS, MEDIA_TYPES, StreamEncoder, SyntheticLabel, encode
from pipeline.errors import InvalidRequest, UnsupportedFormat

RATE = 24_000
LABEL = SyntheticLabel(model="nano", generation_id="4f1c", seed=7, voice="v2/en_speaker_6")
LOSSLESS = ("wav", "wav_float", "flac", "pcm")
# Measured on `voiced(30 s)`: mp3 26 dB, opus 28 dB, aac 36 dB; a delay that is one sample wrong
# costs mp3 5 dB.
MIN_SNR_DB = {"mp3": 24.0, "opus": 25.0, "aac": 30.0}
# Where the first sample is heard, and how many a decoder may give beyond the input: what the
# header can not tell it to drop. mp3 streamed: 1105 of delay and two frames of 576 at most.
WHOLE_DELAY = {"mp3": 0, "opus": 0, "aac": 1024}
WHOLE_EXTRA = {"mp3": 46, "opus": 0, "aac": 2047}
STREAM_DELAY = {"mp3": 1105, "opus": 0, "aac": 1024}
STREAM_EXTRA = {"mp3": 1105 + 2 * 576, "opus": 0, "aac": 2047}


def voiced(num_samples: int) -> np.ndarray:
    """Harmonics of a gliding tone with syllables, and a little breath: what codecs are for."""
    t = np.arange(num_samples) / RATE
    phase = 2 * np.pi * np.cumsum(120 + 30 * np.sin(2 * np.pi * 0.7 * t)) / RATE
    tone = sum(np.sin(k * phase) / k for k in range(1, 12))
    breath = np.random.default_rng(3).standard_normal(num_samples)
    return ((0.2 * tone + 0.002 * breath) * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * t))).astype("f4")


def streamed(samples: np.ndarray, name: str, piece: int, label: SyntheticLabel = LABEL) -> bytes:
    encoder = StreamEncoder(name, RATE, label)
    pieces = [encoder.write(samples[i : i + piece]) for i in range(0, len(samples), piece)]
    return b"".join(pieces) + encoder.close()


def decoded(data: bytes, name: str) -> np.ndarray:
    """Decode to float32 [N] with libsndfile; aac with FFmpeg."""
    if name == "pcm":
        return np.frombuffer(data, "<i2").astype("f4") / 32768
    if name == "aac":
        return decoded_by_ffmpeg(data)
    samples, rate = soundfile.read(io.BytesIO(data), dtype="float32")
    assert rate == RATE
    return samples


def decoded_by_ffmpeg(data: bytes) -> np.ndarray:
    with av.open(io.BytesIO(data)) as container:
        assert container.streams[0].rate == RATE
        frames = [frame.to_ndarray().reshape(-1) for frame in container.decode(audio=0)]
    samples = np.concatenate(frames)
    return samples.astype("f4") / 32768 if samples.dtype == np.int16 else samples


def levels(samples: np.ndarray) -> np.ndarray:
    """Round to 16-bit levels, in double precision and plain words."""
    return (np.rint(samples.astype("f8") * 32767) / 32768).astype("f4")


def snr_db(samples: np.ndarray, heard: np.ndarray, delay: int) -> float:
    heard = heard[delay : delay + len(samples)]
    noise = heard - samples[: len(heard)]
    return float(10 * np.log10(np.mean(samples**2) / np.mean(noise**2)))


# ── whole files ──────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("num_samples", [1, 320, 24_000, 30 * RATE])
@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_files_hold_exactly_the_samples(name: str, num_samples: int) -> None:
    samples = voiced(num_samples)
    heard = decoded(encode(samples, RATE, name, LABEL), name)
    np.testing.assert_array_equal(heard, samples if name == "wav_float" else levels(samples))


@pytest.mark.parametrize("num_samples", [1, 320, 24_000, 30 * RATE])
@pytest.mark.parametrize("name", MIN_SNR_DB)
def test_lossy_files_have_the_right_length(name: str, num_samples: int) -> None:
    heard = decoded(encode(voiced(num_samples), RATE, name, LABEL), name)
    assert num_samples <= len(heard) <= num_samples + WHOLE_EXTRA[name]


@pytest.mark.parametrize("name", MIN_SNR_DB)
def test_lossy_files_sound_like_the_samples_at_the_stated_delay(name: str) -> None:
    samples = voiced(30 * RATE)
    heard = decoded(encode(samples, RATE, name, LABEL), name)
    assert snr_db(samples, heard, WHOLE_DELAY[name]) > MIN_SNR_DB[name]


def test_other_rates_are_written_as_they_are() -> None:
    data = encode(voiced(4410), 44_100, "flac", LABEL)
    assert soundfile.info(io.BytesIO(data)).samplerate == 44_100


# ── streams ──────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("num_samples", [1, 320, 24_000, 30 * RATE])
@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_streams_hold_exactly_the_samples(name: str, num_samples: int) -> None:
    samples = voiced(num_samples)
    data = streamed(samples, name, piece=5000)
    # libsndfile can not read FLAC of unknown length: it asks for all memory there is.
    heard = decoded_by_ffmpeg(data) if name == "flac" else decoded(data, name)
    np.testing.assert_array_equal(heard, samples if name == "wav_float" else levels(samples))


@pytest.mark.parametrize("num_samples", [1, 320, 24_000, 30 * RATE])
@pytest.mark.parametrize("name", MIN_SNR_DB)
def test_lossy_streams_have_the_right_length(name: str, num_samples: int) -> None:
    heard = decoded(streamed(voiced(num_samples), name, piece=5000), name)
    assert num_samples <= len(heard) <= num_samples + STREAM_EXTRA[name]


@pytest.mark.parametrize("name", MIN_SNR_DB)
def test_lossy_streams_sound_like_the_samples_at_the_stated_delay(name: str) -> None:
    samples = voiced(30 * RATE)
    heard = decoded(streamed(samples, name, piece=5000), name)
    assert snr_db(samples, heard, STREAM_DELAY[name]) > MIN_SNR_DB[name]


@pytest.mark.parametrize("name", FORMATS)
def test_the_pieces_of_a_stream_leave_no_trace_in_its_bytes(name: str) -> None:
    samples = voiced(10_000)
    assert streamed(samples, name, piece=333) == streamed(samples, name, piece=10_000)


@pytest.mark.parametrize("name", FORMATS)
def test_a_stream_sends_bytes_while_it_is_being_made(name: str) -> None:
    encoder = StreamEncoder(name, RATE, LABEL)
    counts = [len(encoder.write(piece)) for piece in np.split(voiced(3 * RATE), 10)]
    encoder.close()
    assert min(counts) > 0


@pytest.mark.parametrize(("name", "sample_bytes"), [("wav", 2), ("wav_float", 4), ("pcm", 2)])
def test_formats_without_frames_send_every_sample_at_once(name: str, sample_bytes: int) -> None:
    encoder = StreamEncoder(name, RATE, LABEL)
    encoder.write(voiced(1))
    assert len(encoder.write(voiced(10))) == 10 * sample_bytes


@pytest.mark.parametrize("name", ["wav", "wav_float"])
def test_a_wav_stream_leaves_its_lengths_open(name: str) -> None:
    data = streamed(voiced(100), name, piece=100)
    start = data.index(b"data")
    assert data[4:8] == data[start + 4 : start + 8] == b"\xff\xff\xff\xff"


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", FORMATS)
def test_an_abandoned_stream_raises_nothing(name: str) -> None:
    encoder = StreamEncoder(name, RATE, LABEL)
    encoder.write(voiced(5000))
    del encoder


def test_a_closed_stream_takes_no_more() -> None:
    encoder = StreamEncoder("mp3", RATE, LABEL)
    encoder.write(voiced(100))
    assert encoder.close()
    assert encoder.close() == b""
    with pytest.raises(ValueError, match="closed"):
        encoder.write(voiced(100))


# ── the same bytes ───────────────────────────────────────────────────────────────────────────────
def python(code: str, stdin: bytes = b"") -> str:
    """Run code in a fresh interpreter with another hash seed and return what it prints."""
    root = str(Path(pipeline.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root, "PYTHONHASHSEED": "11"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, input=stdin, env=environment, stdout=subprocess.PIPE, check=True)
    return done.stdout.decode()


DIGESTS = """
import hashlib, sys
import numpy as np
from pipeline.audio import FORMATS, StreamEncoder, SyntheticLabel, encode
samples = np.frombuffer(sys.stdin.buffer.read(), np.float32)
label = SyntheticLabel(model="nano", generation_id="4f1c", seed=7, voice="v2/en_speaker_6")
for name in FORMATS:
    encoder = StreamEncoder(name, 24_000, label)
    stream = encoder.write(samples) + encoder.close()
    for data in (encode(samples, 24_000, name, label), stream):
        print(name, hashlib.sha256(data).hexdigest())
"""


def test_another_process_writes_the_same_bytes() -> None:
    samples = voiced(RATE)
    here = [
        f"{name} {hashlib.sha256(data).hexdigest()}"
        for name in FORMATS
        for data in (
            encode(samples, RATE, name, LABEL),
            streamed(samples, name, piece=len(samples)),
        )
    ]
    assert python(DIGESTS, samples.tobytes()).splitlines() == here


@pytest.mark.parametrize("name", FORMATS)
def test_files_do_not_name_the_version_of_the_library(name: str) -> None:
    assert not re.search(rb"Lav[cf]\d", encode(voiced(RATE), RATE, name, LABEL))


def test_ogg_serials_come_from_the_generation_id() -> None:
    first, again, other = (
        streamed(voiced(320), "opus", 320, SyntheticLabel(model="nano", generation_id=each))[14:18]
        for each in ("a", "a", "b")
    )
    assert first == again != other


# ── peaks and bad samples ────────────────────────────────────────────────────────────────────────
def peaks() -> np.ndarray:
    """A 100 Hz tone that swings to ±1.5."""
    return (1.5 * np.sin(2 * np.pi * 100 * np.arange(RATE) / RATE)).astype("f4")


@pytest.mark.parametrize("name", ["wav", "flac", "pcm"])
def test_peaks_are_cut_and_never_wrap(name: str) -> None:
    heard = decoded(encode(peaks(), RATE, name, LABEL), name)
    np.testing.assert_array_equal(heard, levels(np.clip(peaks(), -1, 1)))
    assert heard.max() == -heard.min() == np.float32(32767 / 32768)


@pytest.mark.parametrize("name", MIN_SNR_DB)
def test_lossy_formats_are_given_the_cut_peaks(name: str) -> None:
    clipped = np.clip(peaks(), -1, 1)
    assert encode(peaks(), RATE, name, LABEL) == encode(clipped, RATE, name, LABEL)
    heard = decoded(encode(peaks(), RATE, name, LABEL), name)
    assert snr_db(clipped, heard, WHOLE_DELAY[name]) > 20  # wrapped peaks would leave less than 0


def test_wav_float_keeps_what_is_beyond_full_scale() -> None:
    heard = decoded(encode(peaks(), RATE, "wav_float", LABEL), "wav_float")
    np.testing.assert_array_equal(heard, peaks())


def test_a_stream_counts_the_samples_that_it_cut() -> None:
    encoder = StreamEncoder("pcm", RATE, LABEL)
    encoder.write(np.array([0.5, 1.0, 1.5], "f4"))
    encoder.write(np.array([-1.0, -1.01, 2.0], "f4"))
    assert (encoder.num_clipped, encoder.num_samples) == (3, 6)


def test_levels_are_symmetrical_and_rounded_to_nearest() -> None:
    samples = np.array([1.0, -1.0, 0.0, 0.6 / 32767, -0.6 / 32767, 0.4 / 32767], "f4")
    data = encode(samples, RATE, "pcm", LABEL)
    assert np.frombuffer(data, "<i2").tolist() == [32767, -32767, 0, 1, -1, 0]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", FORMATS)
def test_samples_that_are_no_numbers_are_refused(name: str, bad: float) -> None:
    samples = voiced(100)
    samples[[41, 60]] = bad
    with pytest.raises(InvalidRequest, match="2 samples are NaN or infinite, the first at 41"):
        encode(samples, RATE, name, LABEL)
    with pytest.raises(InvalidRequest, match="the first at 41"):
        StreamEncoder(name, RATE, LABEL).write(samples)


@pytest.mark.parametrize(
    "samples",
    [np.zeros((1, 100), "f4"), np.zeros(100, "f8"), np.zeros(100, "i2")],
    ids=["2-d", "float64", "int16"],
)
def test_other_shapes_and_dtypes_are_refused(samples: np.ndarray) -> None:
    with pytest.raises(InvalidRequest, match=r"must be float32 \[N\]"):
        encode(samples, RATE, "wav", LABEL)


@pytest.mark.parametrize("name", FORMATS)
def test_a_sound_without_samples_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match="no samples"):
        encode(np.zeros(0, "f4"), RATE, name, LABEL)
    encoder = StreamEncoder(name, RATE, LABEL)
    encoder.write(np.zeros(0, "f4"))
    with pytest.raises(InvalidRequest, match="no samples"):
        encoder.close()


# ── formats ──────────────────────────────────────────────────────────────────────────────────────
def test_an_unknown_format_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnsupportedFormat, match=r"'ogg' is not one of wav, .*pcm"):
        encode(voiced(10), RATE, "ogg", LABEL)
    with pytest.raises(UnsupportedFormat):
        StreamEncoder("", RATE, LABEL)


@pytest.mark.parametrize(("name", "rate"), [("opus", 44_100), ("pcm", 16_000), ("mp3", 96_000)])
def test_a_rate_that_a_format_does_not_have_is_refused(name: str, rate: int) -> None:
    with pytest.raises(InvalidRequest, match=r"resample"):
        encode(voiced(10), rate, name, LABEL)


def test_a_rate_that_is_not_positive_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="positive"):
        encode(voiced(10), 0, "wav", LABEL)


def test_every_format_of_openai_has_a_media_type() -> None:
    assert {"mp3", "opus", "aac", "flac", "wav", "pcm"} <= MEDIA_TYPES.keys() == FORMATS.keys()
    assert all(media_type.startswith("audio/") for media_type in MEDIA_TYPES.values())


def test_the_tables_are_imported_without_the_codec_libraries() -> None:
    code = "import sys, pipeline.audio; print({'av', 'soxr'} & sys.modules.keys())"
    assert python(code) == "set()\n"
