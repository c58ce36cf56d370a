"""What samples must look like on the way out, and how floats become 16-bit integers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InvalidRequest

Float32 = NDArray[np.float32]
Int16 = NDArray[np.int16]

# The same factor on both sides of zero, so that silence is 0, sound has no offset and -x encodes
# to the negative of x. -32768 is never used. Readers divide by 32768: 0.0003 dB quieter.
INT16_SCALE = 32767


def check_samples(samples: Float32) -> None:
    """Check that samples are float32 [N], N >= 0, all finite.

    Raises:
        InvalidRequest: says what was given, and for NaN or infinity where it first occurs.
    """
    if samples.ndim != 1 or samples.dtype != np.float32:
        raise InvalidRequest(
            f"samples must be float32 [N], not {samples.dtype} {list(samples.shape)}"
        )
    is_finite = np.isfinite(samples)
    if not is_finite.all():
        first = int(np.argmin(is_finite))
        count = int(len(samples) - np.count_nonzero(is_finite))
        raise InvalidRequest(f"{count} samples are NaN or infinite, the first at {first}")


def check_not_empty(samples: Float32) -> None:
    """Check as `check_samples` does, and that there is at least one sample.

    Raises:
        InvalidRequest: also for N = 0.
    """
    check_samples(samples)
    if not len(samples):
        raise InvalidRequest("there are no samples")


def check_sample_rate(sample_rate: int) -> None:
    """Check that a rate in Hz is positive.

    Raises:
        InvalidRequest: it is not.
    """
    if sample_rate <= 0:
        raise InvalidRequest(f"the sample rate must be positive, not {sample_rate}")


def clip(samples: Float32) -> tuple[Float32, int]:
    """Return float32 [N] within [-1, 1], and how many samples were beyond it."""
    num_clipped = int(np.count_nonzero(np.abs(samples) > 1.0))
    return (np.clip(samples, -1.0, 1.0) if num_clipped else samples), num_clipped


def to_int16(samples: Float32) -> Int16:
    """Scale float32 [N] within [-1, 1] to little-endian int16 [N]; to nearest, ties to even."""
    # In float64 the product is exact; in float32 one sample in a thousand would round twice.
    levels: Int16 = np.rint(np.multiply(samples, INT16_SCALE, dtype=np.float64)).astype("<i2")
    return levels
