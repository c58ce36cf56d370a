"""Voices of our own are kept under their names, whole, with a record."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from deployments.config import AppConfig
from deployments.store_access import StoreAccess
from pipeline.errors import InvalidRequest, VoiceNotFound
from pipeline.payloads import HistoryPrompt
from pipeline.store.local import LocalStore
from pipeline.stored_voices import Voices


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "data")


def prompt(first: int = 1) -> HistoryPrompt:
    semantic = np.arange(first, first + 10)
    return HistoryPrompt(semantic, np.ones((2, 15), np.int32), np.ones((8, 15), np.int32))


def test_voice_is_kept_with_its_record(store: LocalStore) -> None:
    voices = Voices(store)
    voices.add("mine", prompt(), {"source": "a test"})
    voices.add("v2/mine", prompt(), {})
    assert store.list() == [
        f"voices/{n}" for n in ("mine.json", "mine.npz", "v2/mine.json", "v2/mine.npz")
    ]
    assert voices.list() == ["mine", "v2/mine"]
    assert voices.show("mine") == {"name": "mine", "source": "a test"}
    with np.load(io.BytesIO(voices.read("mine"))) as arrays:
        np.testing.assert_array_equal(arrays["semantic_prompt"], prompt().semantic)
    assert voices.remove("mine")
    assert voices.list() == ["v2/mine"]
    assert not voices.remove("mine")
    assert voices.show("mine") is None
    with pytest.raises(VoiceNotFound, match="'mine'"):
        voices.read("mine")


def test_adding_a_voice_again_is_no_error_but_another_is(store: LocalStore) -> None:
    voices = Voices(store)
    voices.add("mine", prompt(), {"n": 1})
    voices.add("mine", prompt(), {"n": 2})
    assert voices.show("mine") == {"name": "mine", "n": 1}
    with pytest.raises(InvalidRequest, match="another voice named 'mine'"):
        voices.add("mine", prompt(2), {})


def test_half_written_voice_is_finished_or_removed(store: LocalStore) -> None:
    voices = Voices(store)
    voices.add("mine", prompt(), {})
    store.delete("voices/mine.json")
    assert voices.list() == []
    voices.add("mine", prompt(), {"n": 2})
    assert voices.show("mine") == {"name": "mine", "n": 2}
    store.delete("voices/mine.json")
    assert voices.remove("mine")
    assert store.list() == []


@pytest.mark.parametrize(
    "name",
    [
        "",
        "..",
        "../x",
        "/x",
        "a/../b",
        "a/b/c",
        "a\\b",
        "a\0",
        "a\n",
        ".a",
        "-a",
        "a/",
        "ä",
        "a b",
        "x.npz",
        "x.json",
        "a" * 65,
    ],
    ids=repr,
)
def test_bad_voice_name_is_refused(store: LocalStore, name: str) -> None:
    with pytest.raises(InvalidRequest, match="no voice name"):
        Voices(store).add(name, prompt(), {})


def test_voices_may_have_a_store_of_their_own(tmp_path: Path) -> None:
    section = {"url": str(tmp_path / "outputs"), "voices_url": str(tmp_path / "presets")}
    access = StoreAccess(AppConfig.model_validate({"store": section}))
    access.voices.add("narrator", prompt(), {})
    assert access.voices.list() == ["narrator"]
    assert (tmp_path / "presets" / "voices").is_dir()
    assert not (tmp_path / "outputs" / "voices").exists()
