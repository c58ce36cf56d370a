"""Sound in: the samples of a file that we, or someone after us, wrote."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray

from pipeline.audio.formats import FORMATS
from pipeline.errors import InvalidRequest


def decode(data: bytes) -> tuple[NDArray[np.float32], int, str]:
    """Decode an audio file that may come from anyone.

    Returns:
        float32 [N], its one channel; its rate in Hz; the format's name in `FORMATS`.

    Raises:
        InvalidRequest: no sound, or in a format that we do not write.
    """
    import av  # 70 MB of shared libraries

    options = {"format_whitelist": "wav,flac,mp3,ogg,aac", "protocol_whitelist": "none"}
    try:
        with av.open(io.BytesIO(data), "r", options=options) as container:
            stream = container.streams.audio[0]
            if len(container.streams) != 1 or stream.codec_context.layout.nb_channels != 1:
                raise InvalidRequest("this file holds more than one channel; ours hold one")
            # as it was encoded: nothing is mixed, resampled or rounded
            frames = [frame.to_ndarray() for frame in container.decode(stream)]
            rate, codec = stream.rate, stream.codec_context.name
            container_name = container.format.name
    except (av.error.FFmpegError, IndexError, UnicodeDecodeError, ValueError) as error:
        raise InvalidRequest(f"this is no sound that can be read: {error}") from error
    if not frames:
        raise InvalidRequest("this file holds no sound")
    samples = np.concatenate([frame[0] for frame in frames])
    if samples.dtype.kind == "i":
        samples = samples / np.float32(2 ** (8 * samples.itemsize - 1))
    return samples.astype(np.float32), int(rate), _name(container_name, codec)


def _name(container: str, codec: str) -> str:
    if container == "wav" and codec == "pcm_f32le":
        return "wav_float"
    found = {"ogg": "opus"}.get(container, container)
    if found not in FORMATS:
        raise InvalidRequest(f"{container} is no format that we write")
    return found
