"""What a file carries beside its samples is told, whatever the store knows."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from certificates import Authority

from pipeline import watermark
from pipeline.audio import SyntheticLabel, encode
from pipeline.audio.credentials import FileSigner
from pipeline.bark import Bark
from pipeline.clip import Clip
from pipeline.errors import InvalidRequest
from pipeline.generations import Generations
from pipeline.store.local import LocalStore
from pipeline.verification import verify_file, verify_id

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
