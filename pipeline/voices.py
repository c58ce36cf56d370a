"""Voice presets: from a name, a file or arrays to a checked `HistoryPrompt`.

A preset is Suno's .npz with three arrays, or in transformers' folders three .npy files listed in
`speaker_embeddings_path.json`. Everything read here may come from strangers: no pickles, no
surprises in size, no names that lead elsewhere. Knows no networks and no torch.

Source: bark/generation.py `_load_history_prompt` (suno-ai/bark f4f32d4), transformers
`BarkProcessor._load_voice_preset`.
"""

from __future__ import annotations

import difflib
import json
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final

from pipeline.errors import InvalidRequest, InvalidVoice, StoreUnavailable, VoiceNotFound
from pipeline.payloads import HistoryPrompt
from pipeline.spec import BarkSpec
from pipeline.stored_voices import Voices, check_voice_name
from pipeline.voice_files import (
    ARRAYS,
    parse_npy,
    prompt_of,
    read_preset_file,
    voice_digest,
    voice_from_bytes,
)

log = logging.getLogger(__name__)

# The presets that Suno published, by the names that its code accepts.
SUNO_LANGUAGES: Final = (
    "en",
    "de",
    "es",
    "fr",
    "hi",
    "it",
    "ja",
    "ko",
    "pl",
    "pt",
    "ru",
    "tr",
    "zh",
)
SUNO_PRESETS: Final = (
    "announcer",
    *(
        f"{folder}{language}_speaker_{number}"
        for folder in ("", "v2/")
        for language in SUNO_LANGUAGES
        for number in range(10)
    ),
)

_INDEX = "speaker_embeddings_path.json"


def read_voice(
    source: str | Path | Mapping[str, Any] | HistoryPrompt,
    *,
    spec: BarkSpec,
    voices: VoiceLibrary | None,
    allow_paths: bool = True,
) -> HistoryPrompt:
    """Find a voice preset and check that this model can use it.

    Args:
        source: a preset's name, a path that ends in .npz, the three arrays under Suno's names,
            or a history prompt.
        voices: where names are looked up.
        allow_paths: False for callers from elsewhere, who must not read this machine's files.

    Raises:
        VoiceNotFound: no such preset or file; says which names are close.
        InvalidVoice: says which array is wrong, and what was expected.
        InvalidRequest: a string that is neither a name nor a path.
        StoreUnavailable: the file can not be read.
    """
    return _find(source, voices, allow_paths).checked(spec)


def _find(
    source: str | Path | Mapping[str, Any] | HistoryPrompt,
    voices: VoiceLibrary | None,
    allow_paths: bool,
) -> HistoryPrompt:
    if isinstance(source, HistoryPrompt):
        return prompt_of(source.as_mapping())
    if isinstance(source, Mapping):
        return prompt_of(source)
    if not isinstance(source, (str, Path)):
        raise InvalidRequest(
            f"voice is a name, a path or a mapping of three arrays, not {type(source).__name__}"
        )
    if allow_paths and (isinstance(source, Path) or source.endswith(".npz")):
        path = Path(source)
        if path.suffix != ".npz":
            raise InvalidVoice(f"{path} is no voice preset: presets are .npz files")
        return voice_from_bytes(read_preset_file(path))
    name = check_voice_name(str(source))
    if voices is None:
        raise VoiceNotFound(f"no voice preset {name!r}: this model has none")
    return voices.get(name)


# ── a library of presets ─────────────────────────────────────────────────────────────────────────
class VoiceLibrary:
    """Presets by name, from several folders. Safe to share between threads.

    Args:
        roots: searched in this order. Each holds `{name}.npz` files (Suno's folder, or the
            `voices` of a store) or transformers' `speaker_embeddings_path.json`. A folder may
            appear, change or be missing at any time.
        fetch: brings one of Suno's presets, which is on no root, onto this machine: name → its
            .npz, or a folder like those of `roots`. Asked for published names only.
        stored: presets in a bucket, looked for after `roots`, so that a name which the model
            itself has is found while the bucket is away. Each time its record is asked for, which
            is small, and the arrays only where they are not in memory by their digest.
        max_cached: presets that stay in memory; a changed file is read again.
    """

    def __init__(
        self,
        roots: Sequence[Path] = (),
        *,
        stored: Voices | None = None,
        fetch: Callable[[str], Path] | None = None,
        max_cached: int = 256,
    ) -> None:
        self.roots = tuple(Path(root) for root in roots)
        self._stored, self._fetch = stored, fetch
        self._digests: dict[str, str] = {}  # of presets in the bucket, when last heard of
        self._max_cached = max_cached
        self._cache: OrderedDict[tuple[object, ...], HistoryPrompt] = OrderedDict()
        self._lock = threading.Lock()
        self.num_hits = self.num_misses = 0  # of presets looked for in memory

    def names(self) -> list[str]:
        """Return every name that `get` knows, sorted.

        Raises:
            StoreUnavailable: the bucket does not answer.
        """
        found: set[str] = set(SUNO_PRESETS if self._fetch is not None else ())
        for root in self.roots:
            if index := _read_index(root):
                found |= {name for name in index if _indexed(root, index, name)}
                continue
            for pattern in ("*.npz", "*/*.npz"):
                for path in root.glob(pattern):
                    found.add(path.relative_to(root).as_posix().removesuffix(".npz"))
        if self._stored is not None:
            found |= set(self._stored.list())
        return sorted(name for name in found if _is_name(name))

    def get(self, name: str) -> HistoryPrompt:
        """Return a preset.

        The arrays are shared: do not write to them. Whether they fit a model is checked by
        `read_voice`.

        Raises:
            VoiceNotFound: none of this name; says which are close.
            InvalidVoice: there is one, but it is broken.
            InvalidRequest: no name at all.
            StoreUnavailable: only the bucket can know it, and does not answer.
        """
        check_voice_name(name)
        for root in self.roots:
            if paths := _locate(root, name):
                return self._read(paths)
        if self._stored is not None and (prompt := self._read_stored(name, self._stored)):
            return prompt
        if self._fetch is not None and name in SUNO_PRESETS:
            fetched = self._fetch(name)
            if paths := [fetched] if fetched.suffix == ".npz" else _locate(fetched, name):
                return self._read(paths)
        names = self.names()
        close = difflib.get_close_matches(name, names, n=3)
        hint = f"; did you mean {' or '.join(close)}?" if close else "."
        raise VoiceNotFound(
            f"There is no voice preset {name!r}{hint} "
            + (
                f"`bark-serve voices list` shows all {len(names)}."
                if names
                else "This model and store have none: `bark-serve voices add FILE.npz` adds one."
            )
        )

    def is_at_hand(self, name: str) -> bool:
        """Say whether a preset is found without asking a bucket."""
        check_voice_name(name)
        return any(_locate(root, name) for root in self.roots)

    def _read_stored(self, name: str, stored: Voices) -> HistoryPrompt | None:
        try:
            record = stored.show(name)
            if record is None:
                self._digests.pop(name, None)
                return None
            digest = str(record.get("digest", ""))
            prompt = self._cached((digest,))
            if prompt is None:
                prompt = voice_from_bytes(stored.read(name))
                if digest and voice_digest(prompt) != digest:
                    raise InvalidVoice(
                        f"the voice {name!r} in the store is not what its record says"
                    )
                if digest:
                    self._keep((digest,), prompt)
        except VoiceNotFound:
            return None  # removed in between
        except StoreUnavailable as error:
            prompt = self._cached((self._digests.get(name, ""),))
            if prompt is None:
                raise
            log.warning("voice %s as it was last: %s", name, error)
            return prompt
        self._digests[name] = digest
        return prompt

    def _cached(self, key: tuple[object, ...]) -> HistoryPrompt | None:
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                self.num_hits += 1
            else:
                self.num_misses += 1
            return self._cache.get(key)

    def _keep(self, key: tuple[object, ...], prompt: HistoryPrompt) -> None:
        with self._lock:
            self._cache[key] = prompt
            while len(self._cache) > self._max_cached:
                self._cache.popitem(last=False)

    def _read(self, paths: list[Path]) -> HistoryPrompt:
        try:
            facts = [path.stat() for path in paths]
        except OSError as error:
            raise StoreUnavailable(f"can not read {paths[0]}: {error.strerror}") from error
        key = tuple((str(p), f.st_mtime_ns, f.st_size) for p, f in zip(paths, facts, strict=True))
        if (kept := self._cached(key)) is not None:
            return kept
        if len(paths) == 1:
            prompt = voice_from_bytes(read_preset_file(paths[0]))
        else:
            prompt = prompt_of(
                {
                    name: parse_npy(read_preset_file(path), name)
                    for name, path in zip(ARRAYS, paths, strict=True)
                }
            )
        self._keep(key, prompt)
        return prompt


def _locate(root: Path, name: str) -> list[Path]:
    """Return a preset's one .npz or three .npy files; none if the root does not have it."""
    if index := _read_index(root):
        return _indexed(root, index, name)
    path = root / f"{name}.npz"
    return [path] if path.is_file() else []


def _indexed(root: Path, index: Mapping[str, Any], name: str) -> list[Path]:
    files = index.get(name)
    if not isinstance(files, Mapping):
        return []
    paths = []
    for key in ARRAYS:
        relative = PurePosixPath(str(files.get(key, "")))
        if relative.is_absolute() or ".." in relative.parts or "\\" in str(relative):
            raise InvalidVoice(f"{root / _INDEX}: the {key} of {name!r} lies outside the folder")
        paths.append(root / relative)
    return paths if all(path.is_file() for path in paths) else []


def _read_index(root: Path) -> Mapping[str, Any]:
    path = root / _INDEX
    try:
        index = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise StoreUnavailable(f"can not read {path}: {error.strerror}") from error
    except ValueError as error:
        raise InvalidVoice(f"{path} is no JSON: {error}") from error
    return index if isinstance(index, Mapping) else {}


def _is_name(name: str) -> bool:
    try:
        check_voice_name(name)
    except InvalidRequest:
        return False
    return True
