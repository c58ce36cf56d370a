"""The label goes into every container and comes out again, by our reader and by another's."""

import io
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import tinytag

from pipeline.audio import FORMATS, StreamEncoder, SyntheticLabel, encode, read_label

RATE = 24_000
LABELLED = tuple(name for name in FORMATS if name != "pcm")
TONE = (0.5 * np.sin(np.arange(2400) / 10)).astype("f4")
LABELS = {
    "full": SyntheticLabel("suno/bark", "4f1c-09", 7, "v2/en_speaker_6", version="1.2.0"),
    "bare": SyntheticLabel("nano", "00"),
    "hard": SyntheticLabel("a; b=c%", "é\n/ü", -3, "  声 ; seed=9  ", "bark-serve", "1+é/2"),
}


def whole(label: SyntheticLabel, name: str) -> bytes:
    return encode(TONE, RATE, name, label)


def streamed(label: SyntheticLabel, name: str) -> bytes:
    encoder = StreamEncoder(name, RATE, label)
    return encoder.write(TONE) + encoder.close()


@pytest.mark.parametrize("write", [whole, streamed])
@pytest.mark.parametrize("label", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize("name", LABELLED)
def test_a_label_reads_back_as_it_was(name: str, label: SyntheticLabel, write) -> None:
    assert read_label(write(label, name)) == asdict(label)


@pytest.mark.parametrize("write", [whole, streamed])
@pytest.mark.parametrize("name", LABELLED)
def test_an_ordinary_tool_shows_that_the_sound_is_synthetic(name: str, write) -> None:
    tags = tinytag.TinyTag.get(file_obj=io.BytesIO(write(LABELS["full"], name)))
    assert tags.comment == (
        "AI-generated (synthetic) audio; product=bark-serve/1.2.0; model=suno/bark; id=4f1c-09; "
        "seed=7; voice=v2/en_speaker_6; digital_source_type=trainedAlgorithmicMedia"
    )
    assert tags.artist == "bark-serve (AI-generated)"


@pytest.mark.parametrize("name", LABELLED)
def test_a_stream_is_labelled_before_its_first_sound(name: str) -> None:
    encoder = StreamEncoder(name, RATE, LABELS["full"])
    first = encoder.write(np.tile(TONE, 3))
    assert first.find(b"AI-generated (synthetic)") in range(400)


def test_the_wav_label_stands_before_the_data_chunk() -> None:
    data = whole(LABELS["full"], "wav")
    assert 0 < data.index(b"ICMT") < data.index(b"data")


@pytest.mark.parametrize("name", ["mp3", "aac"])
def test_there_is_one_id3_tag(name: str) -> None:
    data = whole(LABELS["full"], name)
    assert data.startswith(b"ID3")
    assert data.count(b"ID3") == 1


def test_a_label_is_read_from_a_path(tmp_path: Path) -> None:
    path = tmp_path / "hello.flac"
    path.write_bytes(whole(LABELS["full"], "flac"))
    assert read_label(path) == read_label(str(path)) == asdict(LABELS["full"])


def test_a_missing_file_is_an_error_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_label(tmp_path / "none.wav")


def test_raw_pcm_has_no_label() -> None:
    assert read_label(whole(LABELS["full"], "pcm")) is None


@pytest.mark.parametrize(
    "data",
    [b"", b"RIFF", b"no sound at all " * 50],
    ids=["empty", "cut off", "text"],
)
def test_bytes_that_are_no_sound_have_no_label(data: bytes) -> None:
    assert read_label(data) is None


def test_a_playlist_opens_no_other_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("secret.opus").write_bytes(whole(LABELS["full"], "opus"))
    assert read_label(b"ffconcat version 1.0\nfile secret.opus\n") is None


@pytest.mark.parametrize(
    "comment",
    [
        "",
        "my holiday; model=x; id=1; product=y/1",
        "AI-generated (synthetic) audio",
        "AI-generated (synthetic) audio; product=bark-serve/1; model=nano; id=1; seed=x",
    ],
)
def test_other_comments_are_no_label(comment: str) -> None:
    assert SyntheticLabel.from_comment(comment) is None


def test_comments_are_printable_ascii() -> None:
    comment = LABELS["hard"].to_comment()
    assert comment.isascii()
    assert comment.isprintable()
