"""What a file carries beside its samples is told, whatever the store knows."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest
from certificates import Authority

from pipeline import watermark
from pipeline.audio import StreamEncoder, SyntheticLabel, change_speed, encode
from pipeline.audio.credentials import FileSigner
from pipeline.bark import Bark
from pipeline.clip import Clip
from pipeline.errors import InvalidRequest
from pipeline.generations import Generations, audio_key, rendition_key
from pipeline.jobs import Held, Jobs
from pipeline.store.local import LocalStore
from pipeline.verification import Verification, verify_file, verify_id

FIELDS = {
    "text": "Hello",
    "voice": "oak",
    "seed": 7,
    "semantic": {"max_duration_s": 0.4, "allow_early_stop": False},
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> LocalStore:
    return LocalStore(tmp_path_factory.mktemp("store"))


def make(store: LocalStore, *, is_marked: bool) -> Clip:
    with Bark.load(watermark=is_marked) as bark:
        clip = bark.generate(**FIELDS)
        data, tokens = wav(clip, clip.id), clip.tokens.as_mapping()
        Generations(store).save(clip.id, data, "wav", tokens, bark.manifest(clip))
    return clip


@pytest.fixture(scope="module")
def plain(store: LocalStore) -> Clip:
    return make(store, is_marked=False)


@pytest.fixture(scope="module")
def marked(store: LocalStore) -> Clip:
    return make(store, is_marked=True)


def wav(clip: Clip, generation_id: str, audio_format: str = "wav") -> bytes:
    label = SyntheticLabel("nano", generation_id, 7, "oak")
    return encode(clip.samples, clip.sample_rate, audio_format, label)


def found(data: bytes, store: LocalStore) -> tuple[bool, str, str]:
    report = verify_file(data, store)
    states = {finding.subject: finding.state for finding in report.findings}
    return report.is_verified, states["watermark"], states["credentials"]


def test_a_mark_is_made_again_and_found(store: LocalStore, marked: Clip) -> None:
    assert found(wav(marked, marked.id), store) == (True, "same", "absent")
    assert found(wav(marked, marked.id, "mp3"), store) == (True, "same", "absent")
    assert verify_id(marked.id, store).is_verified


def test_a_mark_that_is_claimed_must_be_there_and_no_other(
    store: LocalStore, plain: Clip, marked: Clip
) -> None:
    assert found(wav(plain, plain.id), store) == (True, "absent", "absent")
    assert found(wav(plain, marked.id), store) == (False, "differs", "absent")
    assert found(wav(marked, plain.id), store) == (False, "differs", "absent")


def test_a_mark_is_found_without_a_manifest(tmp_path: Path, marked: Clip) -> None:
    assert found(wav(marked, marked.id), LocalStore(tmp_path)) == (False, "same", "absent")
    bare = wav(marked, marked.id).replace(b"AI-generated", b"Ai-generated")  # no label any more
    assert found(bare, LocalStore(tmp_path)) == (False, "same", "absent")


def test_a_signature_is_of_this_generation(store: LocalStore, plain: Clip, tmp_path: Path) -> None:
    signer, data = FileSigner(*Authority(tmp_path).issue("bark")), wav(plain, plain.id)
    right = signer.sign(data, "wav", SyntheticLabel("nano", plain.id))
    assert found(right, store) == (True, "absent", "same")
    wrong = signer.sign(data, "wav", SyntheticLabel("nano", "0" * 32))
    assert found(wrong, store) == (False, "absent", "differs")
    assert found(right.replace(b"voice=oak", b"voice=elm"), store) == (False, "absent", "differs")


def test_extras_that_are_missing_are_needed_only_for_what_claims_them(
    store: LocalStore, plain: Clip, marked: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] in ("perth", "c2pa")]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("perth", "c2pa"):
        monkeypatch.setitem(sys.modules, name, None)
    report = verify_file(wav(plain, plain.id), store)
    assert report.is_verified
    details = {finding.subject: finding.detail for finding in report.findings}
    assert "bark-serve[watermark] is missing" in details["watermark"]
    assert "bark-serve[c2pa] is missing" in details["credentials"]
    monkeypatch.setattr(watermark, "_network", watermark._network.__wrapped__)  # as if not loaded
    with pytest.raises(InvalidRequest, match=r"pip install 'bark-serve\[watermark\]'"):
        verify_file(wav(marked, marked.id), store)


# ── what pretends ────────────────────────────────────────────────────────────────────────────────
def other(store: LocalStore) -> Clip:
    with Bark.load() as bark:
        clip = bark.generate(**{**FIELDS, "seed": 8})
        label = SyntheticLabel("nano", clip.id, 8, "oak")
        data = encode(clip.samples, clip.sample_rate, "wav", label)
        Generations(store).save(clip.id, data, "wav", clip.tokens.as_mapping(), bark.manifest(clip))
    return clip


def differing(report: Verification) -> set[str]:
    assert not report.is_verified
    return {finding.subject for finding in report.findings if finding.state == "differs"}


def test_one_generations_file_under_anothers_id(tmp_path: Path) -> None:
    own = LocalStore(tmp_path)
    first, second = make(own, is_marked=False), other(own)
    own.put(audio_key(first.id, "wav"), own.get(audio_key(second.id, "wav")) or b"")
    assert {"label", "stored bytes"} <= differing(verify_id(first.id, own))
    # with its manifest, too
    folder = f"generations/{first.id[:2]}/{first.id}"
    there = f"generations/{second.id[:2]}/{second.id}"
    own.put(f"{folder}/manifest.json", own.get(f"{there}/manifest.json") or b"")
    assert "label" in differing(verify_id(first.id, own))
    lying = encode(
        second.samples, second.sample_rate, "wav", SyntheticLabel("nano", first.id, 8, "oak")
    )
    assert "identity" in differing(verify_file(lying, own))


def test_a_label_that_lies(store: LocalStore, plain: Clip) -> None:
    for label in (
        SyntheticLabel("suno/bark", plain.id, 7, "oak"),
        SyntheticLabel("nano", plain.id, 999, "oak"),
    ):
        data = encode(plain.samples, plain.sample_rate, "wav", label)
        assert differing(verify_file(data, store)) == {"label"}


def test_a_header_that_makes_it_another_sound(store: LocalStore, plain: Clip) -> None:
    data = wav(plain, plain.id)
    place = data.index(b"fmt ") + 10
    assert data[place : place + 2] == b"\1\0"
    with pytest.raises(InvalidRequest, match="more than one channel"):
        verify_file(data[:place] + b"\2\0" + data[place + 2 :], store)


def test_stored_bytes_that_are_not_those_of_the_manifest(tmp_path: Path) -> None:
    own = LocalStore(tmp_path)
    clip = make(own, is_marked=False)
    key = audio_key(clip.id, "wav")
    # the same samples and label, with a comment more
    own.put(key, (own.get(key) or b"") + b"junk\4\0\0\0more")
    assert differing(verify_id(clip.id, own)) == {"stored bytes"}


def test_a_jobs_own_file_is_what_is_looked_at(tmp_path: Path) -> None:
    own = LocalStore(tmp_path)
    clip = make(own, is_marked=False)
    key, data = rendition_key(clip.id, "mp3", 1.0), wav(clip, clip.id, "mp3")
    own.put(key, data)
    jobs = Jobs(own)
    job = jobs.submit({"text": "Hello"}, owner="me", content="c", audio_format="mp3")
    held = jobs.take(job.signpost, "a")
    assert isinstance(held, Held)
    told = {"key": key, "sha256": hashlib.sha256(data).hexdigest()}
    jobs.succeed(held, clip.id, {"audio": told})
    assert verify_id(job.id, own).is_verified
    own.put(key, own.get(audio_key(other(own).id, "wav")) or b"")
    assert {"label", "stored bytes"} <= differing(verify_id(job.id, own))


def test_a_stream_at_another_speed_is_made_again_segment_by_segment(tmp_path: Path) -> None:
    own = LocalStore(tmp_path)
    with Bark.load() as bark:
        text = "Good morning. How are you today? The train leaves at nine on Monday. Thank you."
        clip = bark.generate(text, seed=3)
        label = SyntheticLabel("nano", clip.id, 3)
        data = encode(clip.samples, clip.sample_rate, "wav", label)
        Generations(own).save(clip.id, data, "wav", clip.tokens.as_mapping(), bark.manifest(clip))
    assert len(clip.segments) > 1
    stream = StreamEncoder("mp3", clip.sample_rate, label)
    silence = np.zeros(round(0.25 * clip.sample_rate / 1.5), np.float32)
    pieces = []
    for number, segment in enumerate(clip.segments):
        pieces += [stream.write(silence)] if number else []
        pieces.append(stream.write(change_speed(segment.sound.samples, clip.sample_rate, 1.5)))
    sent = b"".join(pieces) + stream.close()
    assert verify_file(sent, own, speed=1.5).is_verified
    assert not verify_file(sent, own, speed=1.25).is_verified
