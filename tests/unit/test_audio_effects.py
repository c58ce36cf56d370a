"""Join, resample and change of speed, measured on tones, bursts and noise."""

import numpy as np
import pytest

from pipeline.audio import change_speed, join, resample
from pipeline.errors import InvalidRequest

RATE = 24_000


def tone(frequency_hz: float, num_samples: int, rate: int = RATE) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * frequency_hz * np.arange(num_samples) / rate)).astype("f4")


def frequency_hz(samples: np.ndarray, rate: int = RATE) -> float:
    """Return where the spectrum peaks, to about 0.1 Hz for a second of sound."""
    size = 16 * len(samples)
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), size))
    return float(np.argmax(spectrum) * rate / size)


def level_db(samples: np.ndarray, reference: np.ndarray) -> float:
    power = np.mean(samples.astype("f8") ** 2) / np.mean(reference.astype("f8") ** 2)
    return float(10 * np.log10(power))


# ── join ─────────────────────────────────────────────────────────────────────────────────────────
def test_segments_are_joined_with_silence_between_them() -> None:
    joined = join([np.ones(3, "f4"), np.full(2, 0.5, "f4"), np.ones(1, "f4")], 2 / RATE, RATE)
    assert joined.dtype == np.float32
    assert joined.tolist() == [1, 1, 1, 0, 0, 0.5, 0.5, 0, 0, 1]


def test_one_segment_gets_no_silence() -> None:
    assert join([np.ones(3, "f4")], 0.5, RATE).tolist() == [1, 1, 1]


def test_joining_leaves_the_segments_alone() -> None:
    segment = np.ones(3, "f4")
    join([segment], 0.0, RATE)[:] = 0
    assert segment.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("segments", "silence_s"),
    [([], 0.0), ([np.ones(2, "f4")], -1.0), ([np.ones(2, "f4")], np.nan), ([np.ones(2)], 0.0)],
    ids=["no segments", "negative silence", "silence is NaN", "float64"],
)
def test_what_can_not_be_joined_is_refused(segments: list[np.ndarray], silence_s: float) -> None:
    with pytest.raises(InvalidRequest):
        join(segments, silence_s, RATE)


# ── resample ─────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(("from_hz", "to_hz"), [(24_000, 48_000), (24_000, 16_000), (44_100, RATE)])
def test_resampling_keeps_a_tone_to_100_db(from_hz: int, to_hz: int) -> None:
    resampled = resample(tone(997, 2 * from_hz, from_hz), from_hz, to_hz)
    expected = tone(997, 2 * to_hz, to_hz)
    assert (resampled.dtype, len(resampled)) == (np.float32, len(expected))
    inner = slice(to_hz // 10, -to_hz // 10)  # the tone starts and stops abruptly
    assert level_db((resampled - expected)[inner], expected[inner]) < -100


def test_resampling_down_folds_nothing_back() -> None:
    high = tone(10_000, 2 * RATE)
    resampled = resample(high, RATE, 16_000)
    assert level_db(resampled[1600:-1600], high) < -100


def test_resampling_to_the_same_rate_returns_the_input() -> None:
    samples = tone(440, 100)
    assert resample(samples, RATE, RATE) is samples


@pytest.mark.parametrize("num_samples", [1, 2, 7, 320])
@pytest.mark.parametrize("to_hz", [8000, 44_100, 48_000])
def test_very_short_sounds_resample_to_the_right_length(num_samples: int, to_hz: int) -> None:
    resampled = resample(np.full(num_samples, 0.5, "f4"), RATE, to_hz)
    assert len(resampled) == max(1, round(num_samples * to_hz / RATE))
    assert np.isfinite(resampled).all()


@pytest.mark.parametrize(("from_hz", "to_hz"), [(0, RATE), (RATE, -1)])
def test_rates_that_are_not_positive_are_refused(from_hz: int, to_hz: int) -> None:
    with pytest.raises(InvalidRequest, match="positive"):
        resample(tone(440, 100), from_hz, to_hz)


# ── change of speed ──────────────────────────────────────────────────────────────────────────────
SPEEDS = [0.25, 0.4, 0.5, 0.8, 1.01, 1.5, 2.0, 3.0, 4.0]


@pytest.mark.parametrize("speed", SPEEDS)
@pytest.mark.parametrize("pitch_hz", [110, 440, 3000])
def test_speed_changes_the_length_and_not_the_pitch(pitch_hz: int, speed: float) -> None:
    samples = tone(pitch_hz, 2 * RATE)
    changed = change_speed(samples, RATE, speed)
    assert (changed.dtype, len(changed)) == (np.float32, round(len(samples) / speed))
    assert frequency_hz(changed) == pytest.approx(pitch_hz, rel=0.01)
    assert level_db(changed, samples) == pytest.approx(0, abs=0.5)


@pytest.mark.parametrize("speed", SPEEDS)
def test_speed_moves_events_in_time(speed: float) -> None:
    """Bursts at 0, 1 and 1.75 s: none is lost, each begins and ends where it should."""
    starts = (0, RATE, 2 * RATE - RATE // 4)
    samples = np.zeros(2 * RATE, "f4")
    for start in starts:
        samples[start : start + RATE // 4] = tone(330, RATE // 4)
    changed = change_speed(samples, RATE, speed)
    # WSOLA lays out fragments of 43 ms where they fit best, so edges flutter by as much, and by
    # more where slow speeds repeat them: look at the power over that span.
    span = round(0.043 * RATE * max(1.0, 1 / speed))
    power = np.convolve(changed**2, np.ones(span) / span, "same")
    is_loud = np.pad(power, 1) > 0.4 * np.median(power[power > 0.03])
    edges = np.flatnonzero(np.diff(is_loud.astype(int)))
    expected = [edge / speed for start in starts for edge in (start, start + RATE // 4)]
    assert len(edges) == len(expected)
    np.testing.assert_allclose(edges, expected, atol=span / 2)


def test_speed_one_returns_the_input() -> None:
    samples = tone(440, 1000)
    assert change_speed(samples, RATE, 1.0) is samples


def test_a_change_of_speed_is_deterministic() -> None:
    noise = np.random.default_rng(0).standard_normal(RATE).astype("f4") / 8
    np.testing.assert_array_equal(change_speed(noise, RATE, 1.3), change_speed(noise, RATE, 1.3))


@pytest.mark.parametrize("num_samples", [1, 2, 320])
@pytest.mark.parametrize("speed", [0.25, 1 + 1e-12, 1.7, 4.0])
def test_very_short_sounds_change_to_the_right_length(num_samples: int, speed: float) -> None:
    changed = change_speed(np.full(num_samples, 0.5, "f4"), RATE, speed)
    assert len(changed) == max(1, round(num_samples / speed))
    assert np.isfinite(changed).all()


@pytest.mark.parametrize("speed", [0.0, 0.249, 4.001, -1.0, np.nan, np.inf])
def test_speeds_out_of_range_are_refused(speed: float) -> None:
    with pytest.raises(InvalidRequest, match="speed must be"):
        change_speed(tone(440, 100), RATE, speed)


@pytest.mark.parametrize(
    "effect", [lambda x: change_speed(x, RATE, 2), lambda x: resample(x, 1, 2)]
)
def test_empty_and_endless_sounds_are_refused(effect) -> None:
    with pytest.raises(InvalidRequest, match="no samples"):
        effect(np.zeros(0, "f4"))
    with pytest.raises(InvalidRequest, match="NaN or infinite"):
        effect(np.array([0, np.nan], "f4"))
