"""The audio formats that we write: names, media types, codecs. Data only; loads no library.

| name      | container     | samples        | streamed                                           |
|-----------|---------------|----------------|----------------------------------------------------|
| wav       | RIFF          | 16-bit integer | yes; lengths in the header are 0xFFFFFFFF          |
| wav_float | RIFF          | 32-bit float   | yes; likewise; the only format that is not clipped |
| flac      | FLAC          | 16-bit integer | yes; total and MD5 are 0, which means unknown      |
| mp3       | ID3v2 + MPEG  | lossy          | yes; without the Info frame, so 1105 samples of    |
|           |               |                | encoder delay stay in front and padding at the end |
| opus      | Ogg           | lossy          | yes; length exact either way                       |
| aac       | ID3v2 + ADTS  | lossy          | yes; ADTS can not say its 1024 samples of delay    |
| pcm       | none          | 16-bit integer | yes; little-endian, always 24 kHz; carries no label|
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from pipeline.errors import UnsupportedFormat

PCM_SAMPLE_RATE_HZ = 24_000  # raw samples can not name their rate, so there is only one


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """One format and how FFmpeg's libraries write it.

    container: the muxer's name; empty for raw samples.
    sample_format: FFmpeg's name of what the encoder takes: "s16" integers or "flt"/"fltp" floats.
    bit_rate: bits a second; None for a lossless codec.
    has_id3: the label goes in an ID3v2 tag in front, since the container has no place of its own.
    """

    name: str
    media_type: str
    extension: str
    container: str
    codec: str
    sample_format: str
    bit_rate: int | None = None
    has_id3: bool = False
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_clipped(self) -> bool:
        """Whether samples beyond full scale are cut to it; 32-bit float keeps them."""
        return self.codec != "pcm_f32le"


# Bit rates: well above transparent for 24 kHz mono speech, and enough for Bark's music.
_ALL = (
    AudioFormat("wav", "audio/wav", "wav", "wav", "pcm_s16le", "s16"),
    AudioFormat("wav_float", "audio/wav", "wav", "wav", "pcm_f32le", "flt"),
    AudioFormat(
        "flac",
        "audio/flac",
        "flac",
        "flac",
        "flac",
        "s16",
        options={"metadata_header_padding": "0"},  # FFmpeg's 8 KiB would outweigh a short sound
    ),
    AudioFormat(
        "mp3",
        "audio/mpeg",
        "mp3",
        "mp3",
        "libmp3lame",
        "fltp",
        bit_rate=96_000,
        has_id3=True,
        options={"id3v2_version": "0"},  # FFmpeg's own tag hides comments from most players
    ),
    AudioFormat(
        "opus",
        "audio/ogg; codecs=opus",  # RFC 7845; audio/opus is the type of RTP packets
        "opus",
        "ogg",
        "libopus",
        "flt",
        bit_rate=64_000,
        options={"page_duration": "200000"},  # µs; FFmpeg's 1 s would delay the first sound
    ),
    AudioFormat("aac", "audio/aac", "aac", "adts", "aac", "fltp", bit_rate=96_000, has_id3=True),
    AudioFormat("pcm", "audio/pcm", "pcm", "", "pcm_s16le", "s16"),
)
FORMATS: Mapping[str, AudioFormat] = MappingProxyType({each.name: each for each in _ALL})
MEDIA_TYPES: Mapping[str, str] = MappingProxyType({each.name: each.media_type for each in _ALL})


def find_format(name: str) -> AudioFormat:
    """Return the format of this name.

    Raises:
        UnsupportedFormat: names the formats there are.
    """
    if name not in FORMATS:
        raise UnsupportedFormat(f"format {name!r} is not one of {', '.join(FORMATS)}")
    return FORMATS[name]
