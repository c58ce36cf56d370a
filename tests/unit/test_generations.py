"""Generations are kept whole, once, and described by their manifest."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.errors import InvalidRequest, StoreUnavailable
from pipeline.file_formats import pack_arrays
from pipeline.generations import Generations
from pipeline.store.local import LocalStore

ID = "ab12cd34"
TOKENS: dict[str, NDArray[Any]] = {
    "semantic_prompt": np.arange(5),
    "fine_prompt": np.zeros((8, 7), np.int32),
}


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "data")


def test_generation_is_kept_whole(store: LocalStore) -> None:
    generations = Generations(store)
    manifest = generations.save(ID, b"RIFF", "wav", TOKENS, {"text": "Grüße", "seed": 7})
    assert manifest == {
        "id": ID,
        "format": "wav",
        "sha256": hashlib.sha256(b"RIFF").hexdigest(),
        "text": "Grüße",
        "seed": 7,
    }
    assert generations.load_manifest(ID) == manifest
    assert generations.audio(ID) == b"RIFF"
    tokens = generations.load_tokens(ID)
    assert tokens is not None
    assert tokens.keys() == TOKENS.keys()
    for name, array in TOKENS.items():
        np.testing.assert_array_equal(tokens[name], array)
        assert tokens[name].dtype == array.dtype
    folder = f"generations/ab/{ID}"
    assert store.list() == [f"{folder}/{f}" for f in ("audio.wav", "manifest.json", "tokens.npz")]
    assert generations.list() == [ID]
    assert generations.delete(ID)
    assert store.list() == []
    assert not generations.delete(ID)


def test_generation_without_manifest_is_none(store: LocalStore) -> None:
    generations = Generations(store)
    store.put(f"generations/ab/{ID}/audio.wav", b"RIFF")
    store.put(f"generations/ab/{ID}/tokens.npz", pack_arrays(TOKENS))
    assert generations.load_manifest(ID) is None
    assert generations.audio(ID) is None
    assert generations.load_tokens(ID) is None
    assert generations.list() == []


def test_manifest_goes_last(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    create = store.put_if_absent

    def spy(key: str, data: bytes) -> bool:
        written.append(key.rpartition("/")[2])
        return create(key, data)

    monkeypatch.setattr(store, "put_if_absent", spy)
    Generations(store).save(ID, b"", "wav", TOKENS, {})
    assert written == ["audio.wav", "tokens.npz", "manifest.json"]


def test_second_save_of_an_id_changes_nothing(store: LocalStore) -> None:
    generations = Generations(store)
    first = generations.save(ID, b"one", "wav", TOKENS, {"n": 1})
    assert generations.save(ID, b"two", "mp3", {}, {"n": 2}) == first
    assert generations.audio(ID) == b"one"
    assert len(store.list()) == 3


def test_save_after_a_dead_writer_describes_what_is_stored(store: LocalStore) -> None:
    store.put(f"generations/ab/{ID}/audio.wav", b"of the dead")
    manifest = Generations(store).save(ID, b"ours", "wav", TOKENS, {})
    assert manifest["sha256"] == hashlib.sha256(b"of the dead").hexdigest()
    assert Generations(store).audio(ID) == b"of the dead"


def test_damaged_files_are_reported(store: LocalStore) -> None:
    generations = Generations(store)
    generations.save(ID, b"", "wav", TOKENS, {})
    store.put(f"generations/ab/{ID}/tokens.npz", b"PK no")
    with pytest.raises(StoreUnavailable, match=r"tokens.npz is damaged"):
        generations.load_tokens(ID)
    for content in (b"{", b"[]", b"\xff"):
        store.put(f"generations/ab/{ID}/manifest.json", content)
        with pytest.raises(StoreUnavailable, match=r"manifest.json is damaged"):
            generations.load_manifest(ID)


@pytest.mark.parametrize("generation_id", ["", "abc", "../../x", "a/b/c", "ab.cd", "a" * 129])
def test_bad_generation_id_is_refused(store: LocalStore, generation_id: str) -> None:
    with pytest.raises(InvalidRequest, match="no generation id"):
        Generations(store).load_manifest(generation_id)


def test_bad_format_is_refused(store: LocalStore) -> None:
    with pytest.raises(InvalidRequest, match="no audio format"):
        Generations(store).save(ID, b"", "../wav", {}, {})
