"""Sound out: float32 samples become labelled files or streams, at another rate or speed.

    samples (float32 [N], mono) ▸ effects: join, change_speed, resample ▸ encode ▸ bytes

`formats` says what we write, `label` what every container says about its origin. Nothing in here
knows Bark, tokens or HTTP. The codec libraries are loaded at the first call that needs them, so
the tables below are cheap to import.
"""

from pipeline.audio.effects import change_speed, join, resample
from pipeline.audio.encode import StreamEncoder, encode
from pipeline.audio.formats import FORMATS, MEDIA_TYPES, AudioFormat, find_format
from pipeline.audio.label import SyntheticLabel, read_label

__all__ = [
    "FORMATS",
    "MEDIA_TYPES",
    "AudioFormat",
    "StreamEncoder",
    "SyntheticLabel",
    "change_speed",
    "encode",
    "find_format",
    "join",
    "read_label",
    "resample",
]
