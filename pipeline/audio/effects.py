"""Sound to sound, float32 in and out: join segments, change the rate, change the speed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import cast

import numpy as np

from pipeline.audio.samples import Float32, check_not_empty, check_sample_rate, check_samples
from pipeline.errors import InvalidRequest

MIN_SPEED, MAX_SPEED = 0.25, 4.0  # the range of OpenAI's `speed`

# atempo alone spans more, but below 0.5 it is not defined and above 2 it drops whole fragments;
# two equal steps stay within.
_MAX_STEP = 2.0
# How early atempo puts a sound, in parts of its window, for a step below and above 1. Measured:
# onsets and ends of noise and tone bursts, 24 kHz, 14 speeds, PyAV 18.1.0; the mean is meant,
# single onsets stray by up to half a window either way.
_LEAD_SLOWER, _LEAD_FASTER = 0.40, 0.125
_BLOCK_SAMPLES = 4096


def join(segments: Sequence[Float32], silence_s: float, sample_rate: int) -> Float32:
    """Put segments one after the other with silence between them, none at the ends.

    Args:
        segments: at least one float32 [N].
        silence_s: seconds, >= 0, rounded to whole samples.
        sample_rate: Hz.

    Returns:
        float32 [sum N + (count - 1) * silence], a new array.

    Raises:
        InvalidRequest: no segments, a negative silence, not float32 [N], NaN or infinity.
    """
    check_sample_rate(sample_rate)
    if not segments:
        raise InvalidRequest("there are no segments to join")
    if not 0 <= silence_s < math.inf:
        raise InvalidRequest(f"the silence must be zero or longer, not {silence_s} s")
    silence = np.zeros(round(silence_s * sample_rate), np.float32)
    parts: list[Float32] = []
    for segment in segments:
        check_samples(segment)
        parts += [segment] if not parts else [silence, segment]
    return np.concatenate(parts)


def resample(samples: Float32, from_hz: int, to_hz: int) -> Float32:
    """Change the sample rate: linear phase, nothing above the lower Nyquist frequency folds back.

    Args:
        samples: float32 [N], N > 0.
        from_hz: the input's rate.
        to_hz: the rate wanted; where they are equal the input itself is returned.

    Returns:
        float32 [round(N * to_hz / from_hz)], at least one, aligned with the input; may go a
        little beyond the input's peaks.

    Raises:
        InvalidRequest: a rate that is not positive, no samples, not float32 [N], NaN or infinity.
    """
    check_not_empty(samples)
    check_sample_rate(from_hz)
    check_sample_rate(to_hz)
    if from_hz == to_hz:
        return samples
    import soxr

    # VHQ costs what HQ costs at these lengths and leaves -150 dB of error in place of -130.
    resampled = soxr.resample(samples, from_hz, to_hz, quality="VHQ")
    return _fit(cast(Float32, resampled), round(len(samples) * to_hz / from_hz))


def change_speed(samples: Float32, sample_rate: int, speed: float) -> Float32:
    """Make a sound longer or shorter and keep its pitch (FFmpeg's atempo, a WSOLA).

    Args:
        samples: float32 [N], N > 0.
        sample_rate: Hz.
        speed: 0.25 … 4; 1 returns the input itself.

    Returns:
        float32 [round(N / speed)], at least one.

    Raises:
        InvalidRequest: a speed out of range, no samples, not float32 [N], NaN or infinity.
    """
    check_not_empty(samples)
    check_sample_rate(sample_rate)
    if not MIN_SPEED <= speed <= MAX_SPEED:
        raise InvalidRequest(f"speed must be from {MIN_SPEED} to {MAX_SPEED}, not {speed}")
    if speed == 1.0:
        return samples
    num_steps = 1 if 1 / _MAX_STEP <= speed <= _MAX_STEP else 2
    step = speed ** (1 / num_steps)
    window = 1 << math.ceil(math.log2(max(2, sample_rate // 24)))  # as af_atempo.c has it
    # Silence around the sound: atempo swallows up to a window at either end.
    padding = 4 * window
    stretched = _atempo(np.pad(samples, padding), sample_rate, [step] * num_steps)
    lead = window * (_LEAD_SLOWER if step < 1 else _LEAD_FASTER)
    lead_of_all = sum(lead / step**later for later in range(num_steps))
    start = round(padding / speed - lead_of_all)
    return _fit(stretched[start:], round(len(samples) / speed))


def _fit(samples: Float32, num_samples: int) -> Float32:
    """Cut, or fill with silence, to this many samples, at least one."""
    num_samples = max(1, num_samples)
    missing = num_samples - len(samples)
    return np.pad(samples, (0, missing)) if missing > 0 else samples[:num_samples].copy()


def _atempo(samples: Float32, sample_rate: int, steps: Sequence[float]) -> Float32:
    """Run float32 [N] through a chain of atempo filters."""
    import av  # 70 MB of shared libraries
    from av.filter import Graph

    time_base = Fraction(1, sample_rate)
    graph = Graph()
    graph.threads = 1
    source = graph.add_abuffer(
        sample_rate=sample_rate, format="flt", layout="mono", time_base=time_base
    )
    filters = [graph.add("atempo", repr(step)) for step in steps]
    sink = graph.add("abuffersink")
    graph.link_nodes(source, *filters, sink).configure()
    pulled: list[Float32] = []

    def pull_all() -> None:
        while True:
            try:
                frame = cast(av.AudioFrame, sink.pull())
            except (av.BlockingIOError, av.EOFError):
                return
            pulled.append(cast(Float32, frame.to_ndarray().reshape(-1)))

    for start in range(0, len(samples), _BLOCK_SAMPLES):
        block = np.ascontiguousarray(samples[np.newaxis, start : start + _BLOCK_SAMPLES])
        frame = av.AudioFrame.from_ndarray(block, format="flt", layout="mono")
        frame.sample_rate = sample_rate
        frame.pts = start
        frame.time_base = time_base
        source.push(frame)
        pull_all()
    source.push(None)
    pull_all()
    return np.concatenate(pulled)
