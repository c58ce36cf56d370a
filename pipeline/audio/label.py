"""The label that says a sound is synthetic, and reading it back.

It is one line of ASCII in the comment of every container that has one, the field that ordinary
players and tools show; before the sound, so that a stream carries it from its first bytes:

    AI-generated (synthetic) audio; product=bark-serve/1.0.0; model=suno/bark; id=4f1c…; seed=7;
    voice=v2/en_speaker_6; digital_source_type=trainedAlgorithmicMedia

wav: RIFF INFO `ICMT`. flac, opus: Vorbis comment `DESCRIPTION`. mp3, aac: ID3v2.3 `COMM`.
pcm has no place for it. Metadata is easily removed: it informs, it does not prove.
"""

from __future__ import annotations

import importlib.metadata
import io
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote

PRODUCT = "bark-serve"
NOTICE = "AI-generated (synthetic) audio"
# IPTC's term for media made by a trained model: http://cv.iptc.org/newscodes/digitalsourcetype/
DIGITAL_SOURCE_TYPE = "trainedAlgorithmicMedia"

# Kept readable in values; all else, ";" and non-ASCII among it, is percent-encoded, because
# RIFF INFO has no declared character set.
_READABLE = " /:@+,()[]!'*~"


def installed_version() -> str:
    """Return the installed version of bark-serve, or "0" from a bare source tree."""
    try:
        return importlib.metadata.version(PRODUCT)
    except importlib.metadata.PackageNotFoundError:
        return "0"


@dataclass(frozen=True, slots=True)
class SyntheticLabel:
    """Who made a sound, from what, and how it can be made again.

    seed and voice are None where there is none; an empty voice reads back as None.
    """

    model: str
    generation_id: str
    seed: int | None = None
    voice: str | None = None
    product: str = PRODUCT
    version: str = field(default_factory=installed_version)

    def to_comment(self) -> str:
        """Write the label as one line of printable ASCII."""
        parts = [
            NOTICE,
            f"product={_escape(self.product)}/{quote(self.version, safe='+')}",
            f"model={_escape(self.model)}",
            f"id={_escape(self.generation_id)}",
        ]
        if self.seed is not None:
            parts.append(f"seed={self.seed}")
        if self.voice:
            parts.append(f"voice={_escape(self.voice)}")
        parts.append(f"digital_source_type={DIGITAL_SOURCE_TYPE}")
        return "; ".join(parts)

    @classmethod
    def from_comment(cls, comment: str) -> SyntheticLabel | None:
        """Read what `to_comment` wrote; None for any other text."""
        notice, *parts = comment.split("; ")
        fields = dict(part.split("=", 1) for part in parts if "=" in part)
        if notice != NOTICE or not {"product", "model", "id"} <= fields.keys():
            return None
        seed = fields.get("seed", "")
        if seed and not seed.removeprefix("-").isdecimal():
            return None
        product, _, version = fields["product"].rpartition("/")
        return cls(
            model=unquote(fields["model"]),
            generation_id=unquote(fields["id"]),
            seed=int(seed) if seed else None,
            voice=unquote(fields["voice"]) if "voice" in fields else None,
            product=unquote(product),
            version=unquote(version),
        )

    def to_tags(self) -> dict[str, str]:
        """Return FFmpeg's metadata keys: the comment, and an artist, which every player shows."""
        return {"comment": self.to_comment(), "artist": f"{self.product} (AI-generated)"}

    def to_id3(self) -> bytes:
        """Return the same two tags as an ID3v2.3 tag, to go in front of mp3 and ADTS.

        Written here because FFmpeg puts comments in a private `TXXX` frame that few tools show.
        """
        tags = self.to_tags()
        comment = _id3_frame(b"COMM", b"\0eng\0" + tags["comment"].encode("ascii"))
        artist = _id3_frame(b"TPE1", b"\0" + tags["artist"].encode("ascii", "replace"))
        size = len(comment) + len(artist)
        syncsafe = bytes((size >> shift) & 0x7F for shift in (21, 14, 7, 0))
        return b"ID3\x03\x00\x00" + syncsafe + comment + artist


def _escape(value: str) -> str:
    return quote(value, safe=_READABLE)


def _id3_frame(name: bytes, content: bytes) -> bytes:
    return name + len(content).to_bytes(4, "big") + b"\0\0" + content


def read_label(source: bytes | str | Path) -> dict[str, str | int | None] | None:
    """Read the synthetic label of a file or of a stream's bytes.

    Args:
        source: the encoded bytes, or a path.

    Returns:
        The fields of `SyntheticLabel`; None where there is no such label, as in pcm, and for
        bytes that are no sound.

    Raises:
        OSError: the path can not be read.
    """
    import av  # 70 MB of shared libraries

    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    # The bytes may come from strangers: only the demuxers we write for, and none that would
    # open a further file or address named inside.
    options = {"format_whitelist": "wav,flac,mp3,ogg,aac", "protocol_whitelist": "none"}
    try:
        with av.open(io.BytesIO(data), options=options) as container:
            tags = dict(container.metadata)
            for stream in container.streams:
                tags = {**stream.metadata, **tags}  # Ogg keeps its comments with the stream
    except (av.error.FFmpegError, UnicodeDecodeError):
        return None
    by_name = {name.lower(): text for name, text in tags.items()}
    label = SyntheticLabel.from_comment(by_name.get("comment", ""))
    return asdict(label) if label else None
