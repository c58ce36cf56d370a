"""Voice presets: found by name or path, and never trusted."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from pipeline.errors import InvalidRequest, InvalidVoice, StoreUnavailable, VoiceNotFound
from pipeline.payloads import HistoryPrompt
from pipeline.spec import BarkSpec
from pipeline.store import Store
from pipeline.store.local import LocalStore
from pipeline.stored_voices import Voices
from pipeline.voice_files import MAX_PRESET_BYTES, save_voice, voice_digest, voice_from_bytes
from pipeline.voice_records import suno_presets, voice_record
from pipeline.voices import SUNO_PRESETS, VoiceLibrary, read_voice

SPEC = BarkSpec()
Arrays = dict[str, Any]


def arrays(n: int = 20, first: int = 0) -> Arrays:
    frames = SPEC.num_frames(n)
    fine = np.arange(8 * frames, dtype=np.int32).reshape(8, frames) % 1024
    return {
        "semantic_prompt": np.arange(first, first + n, dtype=np.int64),
        "coarse_prompt": fine[:2].astype(np.int64),
        "fine_prompt": fine,
    }


def npz(content: Arrays, save: Callable[..., None] = np.savez) -> bytes:
    file = io.BytesIO()
    save(file, **content)
    return file.getvalue()


def read(source: Any, voices: VoiceLibrary | None = None) -> HistoryPrompt:
    return read_voice(source, spec=SPEC, voices=voices)


def suno_folder(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        path = root / f"{name}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(npz(arrays(first=number)))
    return root


def hf_folder(root: Path, *names: str, prefix: str = "") -> Path:
    index: dict[str, Any] = {"repo_or_path": "suno/bark"}
    for number, name in enumerate(names):
        index[name] = {}
        for key, array in arrays(first=100 + number).items():
            relative = f"speaker_embeddings/{name}_{key}.npy"
            path = root / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, array)
            index[name][key] = prefix + relative
    (root / "speaker_embeddings_path.json").write_text(json.dumps(index))
    return root


# ── what may be given ────────────────────────────────────────────────────────────────────────────
def test_preset_is_read_from_every_kind_of_source(tmp_path: Path) -> None:
    root = suno_folder(tmp_path, "v2/en_speaker_6")
    path = root / "v2" / "en_speaker_6.npz"
    library = VoiceLibrary([root])
    expected = voice_digest(read(arrays()))
    for source in ("v2/en_speaker_6", path, str(path), read(path)):
        prompt = read(source, library)
        assert voice_digest(prompt) == expected
        assert prompt.semantic.dtype == np.int64
        assert prompt.coarse.dtype == prompt.fine.dtype == np.int32


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.uint64, np.float32, np.float64])
def test_numbers_of_any_type_are_cast_if_whole(dtype: type) -> None:
    cast = {key: array.astype(dtype) for key, array in arrays().items()}
    assert voice_digest(read(cast)) == voice_digest(read(arrays()))
    assert voice_digest(read(npz_file(cast))) == voice_digest(read(arrays()))


def npz_file(content: Arrays) -> HistoryPrompt:
    return voice_from_bytes(npz(content))


def test_lists_and_compressed_files_are_fine() -> None:
    lists = {key: array.tolist() for key, array in arrays().items()}
    assert voice_digest(read(lists)) == voice_digest(read(arrays()))
    packed = voice_from_bytes(npz(arrays(), np.savez_compressed))
    assert voice_digest(packed) == voice_digest(read(arrays()))


def test_further_arrays_in_the_file_are_not_looked_at() -> None:
    extra = {**arrays(), "note": np.array(["x", {}], dtype=object)}
    assert voice_digest(npz_file(extra)) == voice_digest(read(arrays()))


def changed(key: str, change: Callable[[Any], Any]) -> Arrays:
    content = arrays()
    content[key] = change(content[key])
    return content


def with_value(value: float) -> Callable[[Any], Any]:
    def change(array: Any) -> Any:
        array = array.astype(type(value))
        array.flat[3] = value
        return array

    return change


BAD = {
    "missing": ({"semantic_prompt": [1]}, "has no coarse_prompt, fine_prompt"),
    "2-d semantic": (changed("semantic_prompt", lambda a: a[None]), r"must be \[n\]"),
    "empty semantic": (changed("semantic_prompt", lambda a: a[:0]), r"must be \[n\] with n > 0"),
    "three rows": (changed("coarse_prompt", lambda a: np.concatenate([a, a[:1]])), r"\[2, m\]"),
    "seven rows": (changed("fine_prompt", lambda a: a[:7]), r"fine_prompt must be \[8, m\]"),
    "no frames": (changed("fine_prompt", lambda a: a[:, :0]), r"fine_prompt must be \[8, m\]"),
    "negative": (changed("semantic_prompt", with_value(-1)), r"semantic_prompt holds -1"),
    "id too high": (changed("semantic_prompt", with_value(10_000)), r"knows 0…9999"),
    "code too high": (changed("fine_prompt", with_value(1024)), r"knows 0…1023"),
    "beyond 32 bits": (changed("coarse_prompt", with_value(2**40)), "no model knows"),
    "infinite": (changed("coarse_prompt", with_value(float("inf"))), "whole numbers"),
    "NaN": (changed("coarse_prompt", with_value(float("nan"))), "whole numbers"),
    "fraction": (changed("fine_prompt", with_value(0.5)), "fine_prompt must hold whole numbers"),
    "huge float": (changed("fine_prompt", with_value(1e30)), "no model knows"),
    "bool": (changed("fine_prompt", lambda a: a > 3), "integers, not bool"),
    "text": (changed("semantic_prompt", lambda _: np.array(["a"])), "integers"),
    "complex": (changed("semantic_prompt", lambda a: a * 1j), "integers, not complex128"),
    "ragged": (changed("coarse_prompt", lambda _: [[1, 2], [3]]), "coarse_prompt is no array"),
    "wrong ratio": (changed("coarse_prompt", lambda a: a[:, :20]), "ratio of 1.00"),
}


@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD.keys())
def test_bad_arrays_are_explained(content: Arrays, message: str) -> None:
    with pytest.raises(InvalidVoice, match=message):
        read(content)


@pytest.mark.parametrize("case", [case for case in BAD if case != "ragged"])
def test_bad_files_are_explained_alike(case: str, tmp_path: Path) -> None:
    content, message = BAD[case]
    (tmp_path / "bad.npz").write_bytes(npz(content))
    with pytest.raises(InvalidVoice, match=message):
        read(tmp_path / "bad.npz")


# ── files from strangers ─────────────────────────────────────────────────────────────────────────
class Pickled:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch /tmp/bark-was-here",)


def test_pickles_are_refused_unread() -> None:
    content = {**arrays(), "semantic_prompt": np.array([Pickled()], dtype=object)}
    with pytest.raises(InvalidVoice, match="Python objects"):
        voice_from_bytes(npz(content))
    assert not Path("/tmp/bark-was-here").exists()


def test_every_cut_and_flip_of_a_file_is_survived() -> None:
    data = npz(arrays())
    assert len(data) < 5000
    for stop in range(0, len(data), 7):
        with pytest.raises(InvalidVoice):
            voice_from_bytes(data[:stop])
    for at in range(0, len(data), 3):
        flipped = data[:at] + bytes([data[at] ^ 0x5B]) + data[at + 1 :]
        with suppress(InvalidVoice):  # and nothing else
            voice_from_bytes(flipped).checked(SPEC)


def archive(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in members.items():
            packed.writestr(f"{name}.npy", data)
    return file.getvalue()


def test_bomb_is_refused_before_it_is_unpacked() -> None:
    bomb = archive(semantic_prompt=bytes(MAX_PRESET_BYTES + 1))
    assert len(bomb) < 20_000
    with pytest.raises(InvalidVoice, match="too large"):
        voice_from_bytes(bomb)


def test_large_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "large.npz"
    with path.open("wb") as file:
        file.truncate(10 * MAX_PRESET_BYTES)
    with pytest.raises(InvalidVoice, match="larger than 10,000,000 bytes"):
        read(path)


def test_header_that_promises_terabytes_allocates_none() -> None:
    header = io.BytesIO()
    facts = {"descr": "<i8", "fortran_order": False, "shape": (2**40,)}
    np.lib.format.write_array_header_1_0(header, facts)
    with pytest.raises(InvalidVoice, match="cut off"):
        voice_from_bytes(archive(semantic_prompt=header.getvalue()))


@pytest.mark.parametrize("data", [b"", b"PK", b"hello", b"\x93NUMPY\x01\x00"], ids=repr)
def test_other_files_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidVoice, match=r"no \.npz"):
        voice_from_bytes(data)


def test_file_problems_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(VoiceNotFound, match=r"missing.npz"):
        read(tmp_path / "missing.npz")
    with pytest.raises(VoiceNotFound):
        read(str(tmp_path / "nul\0.npz"))
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(VoiceNotFound):
        read(tmp_path / "folder.npz")
    with pytest.raises(InvalidVoice, match=r"presets are \.npz files"):
        read(tmp_path / "voice.wav")


def test_unreadable_file_is_the_stores_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = suno_folder(tmp_path, "a") / "a.npz"

    def denied(*_args: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(StoreUnavailable, match="Permission denied"):
        read(path)


def test_remote_callers_can_not_name_files(tmp_path: Path) -> None:
    path = suno_folder(tmp_path, "a") / "a.npz"
    with pytest.raises(InvalidRequest, match="no voice name"):
        read_voice(str(path), spec=SPEC, voices=None, allow_paths=False)


# ── the library ──────────────────────────────────────────────────────────────────────────────────
def test_own_voices_come_before_the_checkpoints(tmp_path: Path) -> None:
    own = LocalStore(tmp_path / "data")
    Voices(own).add("v2/en_speaker_6", read(arrays(first=7)), {})
    Voices(own).add("mine", read(arrays(first=8)), {})
    theirs = suno_folder(tmp_path / "ckpt", "announcer", "v2/en_speaker_6", "v2/de_speaker_0")
    library = VoiceLibrary([own.path("voices"), theirs, tmp_path / "missing"])
    assert library.names() == ["announcer", "mine", "v2/de_speaker_0", "v2/en_speaker_6"]
    assert library.get("v2/en_speaker_6").semantic[0] == 7
    assert library.get("announcer").semantic[0] == 0


def test_voices_in_a_bucket_are_cached_by_their_digest_and_noticed_when_they_change() -> None:
    store, reads = MemoryStore(), list[str]()
    own = Voices(cast(Store, store))
    for name, first in (("mine", 7), ("copy", 7), ("other", 8)):
        own.add(
            name,
            read(arrays(first=first)),
            voice_record(read(arrays(first=first)), name, generation_id="abcd"),
        )
    library = VoiceLibrary(stored=own, max_cached=1)
    store.on_get = reads.append
    assert library.names() == ["copy", "mine", "other"]
    for name in ("mine", "mine", "copy"):
        assert library.get(name).semantic[0] == 7
    assert reads.count("voices/mine.npz") == 1
    assert "voices/copy.npz" not in reads  # the same arrays, by another name
    assert library.get("other").semantic[0] == 8
    assert library.get("mine").semantic[0] == 7
    assert reads.count("voices/mine.npz") == 2  # the bound is one
    own.remove("mine")
    with pytest.raises(VoiceNotFound):
        library.get("mine")
    own.add(
        "mine",
        read(arrays(first=9)),
        voice_record(read(arrays(first=9)), "mine", generation_id="abcd"),
    )
    assert library.get("mine").semantic[0] == 9
    store.is_away = True
    assert library.get("mine").semantic[0] == 9  # as it was last
    with pytest.raises(StoreUnavailable):
        library.get("other")


def test_the_models_own_voices_need_no_bucket(tmp_path: Path) -> None:
    store = MemoryStore()
    store.is_away = True
    theirs = suno_folder(tmp_path / "ckpt", "announcer")
    library = VoiceLibrary([theirs], stored=Voices(cast(Store, store)))
    assert library.get("announcer").semantic[0] == 0
    assert library.is_at_hand("announcer")
    assert not library.is_at_hand("mine")
    with pytest.raises(StoreUnavailable):
        library.get("mine")


def test_a_stored_voice_that_is_not_its_records_is_refused() -> None:
    store = MemoryStore()
    one, other = read(arrays(first=1)), read(arrays(first=2))
    Voices(cast(Store, store)).add("mine", one, voice_record(other, "mine", consent="mine"))
    with pytest.raises(InvalidVoice, match="not what its record says"):
        VoiceLibrary(stored=Voices(cast(Store, store))).get("mine")


def test_a_voice_of_unknown_origin_needs_consent() -> None:
    prompt = read(arrays())
    for consent in (None, "", "  "):
        with pytest.raises(InvalidRequest, match="whose voice it is"):
            voice_record(prompt, "mine/de_narrator", consent=consent)
    with pytest.raises(InvalidRequest, match="one of Suno's voices"):
        voice_record(prompt, "v2/de_speaker_0", consent="my own")
    record = voice_record(prompt, "mine/de_narrator", consent=" my own ")
    assert record["consent"] == "my own"
    assert record["source"] == "upload"
    assert record["language"] == "de"
    assert voice_record(prompt, "x", generation_id="abcd")["source"] == "generation"


def test_consent_is_handed_down_to_what_a_voice_said() -> None:
    prompt, parent = read(arrays()), voice_digest(read(arrays(first=5)))
    known = {parent: {"digest": parent, "consent": "Ann agreed"}}
    record = voice_record(prompt, "x", generation_id="abcd", parents=known)
    assert (record["consent"], record["parents"]) == ("Ann agreed", [parent])
    for stranger in ({parent: None},):
        with pytest.raises(InvalidRequest, match="whose voice it is"):
            voice_record(prompt, "x", generation_id="abcd", parents=stranger)
        given = voice_record(prompt, "x", generation_id="abcd", parents=stranger, consent="mine")
        assert (given["source"], given["consent"]) == ("generation", "mine")
    nobodys = {parent: {"digest": parent, "source": "generation", "consent": None}}
    assert voice_record(prompt, "x", generation_id="abcd", parents=nobodys)["consent"] is None


class MemoryStore:
    """A store whose every access is seen, and which can be away."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.is_away = False
        self.on_get: Callable[[str], object] = lambda _: None

    def _check(self) -> None:
        if self.is_away:
            raise StoreUnavailable("away")

    def get(self, key: str) -> bytes | None:
        self._check()
        self.on_get(key)
        return self.objects.get(key)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        self._check()
        return self.objects.setdefault(key, data) is data

    def delete(self, key: str) -> bool:
        return self.objects.pop(key, None) is not None

    def list(self, prefix: str = "") -> list[str]:
        self._check()
        return sorted(key for key in self.objects if key.startswith(prefix))


def test_transformers_folder_is_read_by_its_index(tmp_path: Path) -> None:
    root = hf_folder(tmp_path, "en_speaker_6", "v2/en_speaker_6")
    library = VoiceLibrary([root])
    assert library.names() == ["en_speaker_6", "v2/en_speaker_6"]
    assert library.get("en_speaker_6").semantic[0] == 100
    assert library.get("v2/en_speaker_6").semantic[0] == 101
    (root / "speaker_embeddings" / "en_speaker_6_fine_prompt.npy").unlink()
    assert library.names() == ["v2/en_speaker_6"]
    with pytest.raises(VoiceNotFound):
        library.get("en_speaker_6")


@pytest.mark.parametrize("prefix", ["../", "/", "x\\"])
def test_index_that_points_outside_is_refused(tmp_path: Path, prefix: str) -> None:
    library = VoiceLibrary([hf_folder(tmp_path, "evil", prefix=prefix)])
    with pytest.raises(InvalidVoice, match="outside the folder"):
        library.get("evil")


def test_broken_index_is_reported(tmp_path: Path) -> None:
    (tmp_path / "speaker_embeddings_path.json").write_text("{")
    with pytest.raises(InvalidVoice, match="no JSON"):
        VoiceLibrary([tmp_path]).get("a")


@pytest.mark.parametrize(
    "name",
    ["", "../x", "/etc/x", "a\0b", "a\\b", "v2/../x", "a/b/c", ".hidden", "a b", "é"],
    ids=repr,
)
def test_name_can_not_leave_the_library(tmp_path: Path, name: str) -> None:
    suno_folder(tmp_path, "x")
    with pytest.raises(InvalidRequest, match="no voice name"):
        read(name, VoiceLibrary([tmp_path / "voices"]))


def test_unknown_name_gets_close_ones(tmp_path: Path) -> None:
    library = VoiceLibrary([suno_folder(tmp_path, "v2/en_speaker_6", "narrator")])
    with pytest.raises(
        VoiceNotFound, match=r"did you mean v2/en_speaker_6\? `bark-serve voices list`"
    ):
        library.get("en_speaker_6")
    with pytest.raises(VoiceNotFound, match=r"'qqq'\. `bark-serve voices list` shows all 2\."):
        library.get("qqq")
    with pytest.raises(VoiceNotFound, match="this model has none"):
        read("qqq")


def test_presets_are_cached_until_the_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = VoiceLibrary([suno_folder(tmp_path, "a", "b", "c")], max_cached=2)
    first = library.get("a")
    assert library.get("a") is first
    library.get("b")
    library.get("a")
    library.get("c")  # pushes b out, not a
    assert library.get("a") is first
    path = tmp_path / "a.npz"
    path.write_bytes(npz(arrays(first=50)))
    os.utime(path, (1, 1))
    assert library.get("a").semantic[0] == 50
    monkeypatch.setattr("pipeline.voices.voice_from_bytes", lambda _: pytest.fail("not cached"))
    library.get("a")


def test_published_presets_are_fetched_on_demand(tmp_path: Path) -> None:
    asked: list[str] = []

    def fetch(name: str) -> Path:
        asked.append(name)
        if name == "announcer":
            return suno_folder(tmp_path / "one", "announcer") / "announcer.npz"
        return hf_folder(tmp_path / "hub", name)

    library = VoiceLibrary([suno_folder(tmp_path / "own", "mine")], fetch=fetch)
    assert len(SUNO_PRESETS) == 261
    assert set(library.names()) == {"mine", *SUNO_PRESETS}
    assert library.get("announcer").semantic[0] == 0
    assert library.get("v2/pl_speaker_3").semantic[0] == 100
    library.get("mine")
    with pytest.raises(VoiceNotFound):
        library.get("speaker_11")  # nobody published it, so nobody is asked
    assert asked == ["announcer", "v2/pl_speaker_3"]


# ── writing ──────────────────────────────────────────────────────────────────────────────────────
def test_saved_voice_is_read_back_and_its_bytes_are_stable(tmp_path: Path) -> None:
    prompt = read(arrays())
    for name in ("a.npz", "b.npz"):
        save_voice(prompt, tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert voice_digest(read(tmp_path / "a.npz")) == voice_digest(prompt)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as content:
        assert set(content.files) == {"semantic_prompt", "coarse_prompt", "fine_prompt"}
    with pytest.raises(InvalidRequest, match=r"must end in \.npz"):
        save_voice(prompt, tmp_path / "a.wav")
    with pytest.raises(StoreUnavailable):
        save_voice(prompt, tmp_path / "a.npz" / "b.npz")


def test_digest_is_of_values_and_shape_alone() -> None:
    prompt = read(arrays())
    fortran = HistoryPrompt(prompt.semantic, np.asfortranarray(prompt.coarse), prompt.fine)
    assert voice_digest(fortran) == voice_digest(prompt)
    assert voice_digest(read(arrays(first=1))) != voice_digest(prompt)
    reshaped = HistoryPrompt(prompt.semantic, prompt.coarse.reshape(-1, 2), prompt.fine)
    assert voice_digest(reshaped) != voice_digest(prompt)
    # Part of every generation's id: must never change.
    assert voice_digest(prompt).startswith("aad08d51af9be9e39a761d677905c69a240a55ab7e6dedd8")


# ── Suno's own ───────────────────────────────────────────────────────────────────────────────────
def _presets() -> Path | None:
    root = Path(__file__).parents[2]
    named = os.environ.get("BARK_SHARED")
    for folder in [Path(named)] if named else [root / "shared", root.parent / "shared"]:
        if (folder / "data" / "presets" / "announcer.npz").is_file():
            return folder / "data" / "presets"
    return None


PRESETS = _presets()


@pytest.mark.skipif(
    PRESETS is None, reason="no published presets: set BARK_SHARED to the folder that holds data/"
)
def test_every_published_preset_loads() -> None:
    assert PRESETS is not None
    library = VoiceLibrary([PRESETS])
    names = library.names()
    assert len(names) == 131
    for name in names:
        prompt = read(name, library)
        assert prompt.coarse.shape[1] == SPEC.num_frames(len(prompt.semantic))
        np.testing.assert_array_equal(prompt.fine[:2], prompt.coarse)
    with np.load(PRESETS / "announcer.npz") as content:
        assert content["semantic_prompt"].dtype == np.uint16
        np.testing.assert_array_equal(library.get("announcer").fine, content["fine_prompt"])


@pytest.mark.skipif(PRESETS is None, reason="as above")
def test_every_published_preset_is_known_as_sunos() -> None:
    assert PRESETS is not None
    library = VoiceLibrary([PRESETS])
    for name in library.names():
        record = voice_record(library.get(name), f"my/{name.replace('/', '-')}")
        assert (record["source"], record["suno_preset"]) == ("suno", name)
    assert len(suno_presets()) == 131
