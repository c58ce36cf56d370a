"""The report holds what it says, and fetches nothing."""

import base64
import io
import re

import av
import numpy as np

from deployments.bulk.report import report_page, spectrogram
from pipeline.audio import SyntheticLabel, encode
from pipeline.generations import Generations
from pipeline.store.local import LocalStore


def test_a_page_has_numbers_clips_pictures_and_errors(tmp_path):
    store = LocalStore(tmp_path)
    rows = []
    for number in range(3):
        samples = np.sin(np.arange(24_000) / (9 + number)).astype(np.float32)
        sound = encode(samples, 24_000, "wav", SyntheticLabel("nano", f"gen{number}", 1, None))
        facts = {"request": {"text": f"<b>say {number}</b>"}}
        Generations(store).save(f"gen{number}", sound, "wav", {}, facts)
        rows.append(
            {
                "id": f"r{number}",
                "status": "ok",
                "generation_id": f"gen{number}",
                "seconds": 1.0,
                "device_seconds": 0.5,
                "finish_reason": "stop",
                "timings": {"semantic": 0.25, "coarse": 0.25},
                "seed": 1,
                "voice": None,
            }
        )
    rows.append({"id": "bad", "status": "error", "error": "invalid_request", "message": "<none>"})
    page = report_page(rows, store, "nano")
    assert "4 rows, 3 made" in page
    assert "real-time factor of the whole</td><td>0.500" in page
    assert "&lt;b&gt;say 2&lt;/b&gt;" in page
    assert "&lt;none&gt;" in page
    # all three are of one length: in the middle of what is shown, which begins at nothing
    assert ">0.00 s</text>" in page
    assert ">2.00</text>" in page
    assert "most: 3" in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "<script" not in page
    clips = re.findall(r"data:audio/mpeg;base64,([A-Za-z0-9+/=]+)", page)
    pictures = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", page)
    assert len(clips) == len(pictures) == 3
    with av.open(io.BytesIO(base64.b64decode(pictures[0]))) as picture:
        assert picture.streams.video[0].height == 160
    with av.open(io.BytesIO(base64.b64decode(clips[0]))) as clip:
        assert clip.streams.audio[0].codec.name.startswith("mp3")


def test_a_job_of_errors_alone_has_a_page_as_well(tmp_path):
    row = {"id": "a", "status": "error", "error": "voice_not_found", "message": "none"}
    assert "1 rows, 0 made" in report_page([row], LocalStore(tmp_path), "nano")


def test_a_spectrogram_shows_pitch_from_low_to_high():
    times = np.arange(24_000) / 24_000
    low, high = (
        spectrogram(np.sin(2 * np.pi * hz * times).astype(np.float32)) for hz in (500, 5000)
    )
    assert low[:, 20].argmax() > high[:, 20].argmax()  # row 0 is the highest
    assert spectrogram(np.zeros(100, np.float32)).max() < 255
