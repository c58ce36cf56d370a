"""Hub models, fetched over HTTP from a server of our own that speaks the hub's protocol.

Each case runs in a process of its own: the hub's library reads its environment once.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest

SHA = "a" * 40
OLD_SHA = "b" * 40
SETTINGS = {
    "config.json": b"{}",
    "generation_config.json": b"{}",
    "vocab.txt": b"[PAD]\n",
    "tokenizer.json": b"{}",
    "tokenizer_config.json": b"{}",
    "speaker_embeddings_path.json": b"{}",
}
UNWANTED = {
    "README.md": b"#",
    "text_2.pt": b"suno",
    "speaker_embeddings/a.npy": b"npy",
    "onnx/model.safetensors": b"other",
}
REPOSITORIES = {
    "suno/both": SETTINGS | UNWANTED | {"model.safetensors": b"safe", "pytorch_model.bin": b"bin"},
    "suno/pickle": SETTINGS | UNWANTED | {"pytorch_model.bin": b"bin"},
    "suno/sharded": SETTINGS
    | {
        "model.safetensors.index.json": b"{}",
        "model-00001-of-00002.safetensors": b"one",
        "model-00002-of-00002.safetensors": b"two",
    },
}


class Hub(BaseHTTPRequestHandler):
    """Enough of the hub: what a repository is, what it holds, and its files."""

    protocol_version = "HTTP/1.1"
    fetched: list[str]

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            self.describe("/".join(parts[2:4]), parts[4:])
        elif parts[0] == "api":
            self.answer(404, b"{}")
        else:
            self.send_file("/".join(parts[:2]), parts[3], "/".join(parts[4:]))

    def describe(self, name: str, rest: list[str]) -> None:
        files = REPOSITORIES.get(name)
        if name == "suno/gated":
            self.answer(403, b"{}", X_Error_Code="GatedRepo")
        elif files is None:
            self.answer(404, b"{}", X_Error_Code="RepoNotFound")
        elif rest[:1] == ["tree"]:
            tree = [
                {
                    "type": "file",
                    "path": path,
                    "size": len(content),
                    "oid": hashlib.sha1(content).hexdigest(),
                }
                for path, content in files.items()
            ]
            self.answer(200, json.dumps(tree).encode(), Content_Type="application/json")
        elif rest[:1] == ["revision"] and rest[1] not in {"main", "v1"}:
            self.answer(404, b"{}", X_Error_Code="RevisionNotFound")
        else:
            sha = OLD_SHA if rest[1:2] == ["v1"] else SHA
            info = {"id": name, "sha": sha, "siblings": [{"rfilename": path} for path in files]}
            self.answer(200, json.dumps(info).encode(), Content_Type="application/json")

    def send_file(self, name: str, commit: str, path: str) -> None:
        content = REPOSITORIES[name][path]
        commit = SHA if commit == "main" else commit
        if self.command == "GET":
            self.fetched.append(f"{commit[0]}:{path}")
        etag = hashlib.sha1(content).hexdigest()
        self.answer(200, content, ETag=f'"{etag}"', X_Repo_Commit=commit)


@pytest.fixture
def hub() -> Iterator[tuple[str, list[str]]]:
    fetched: list[str] = []
    handler = type("OneHub", (Hub,), {"fetched": fetched})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", fetched
    server.shutdown()
    server.server_close()


_LOCATE = """
import json, sys
from pipeline.errors import InvalidCheckpoint
from pipeline.models.locate import locate
for call in json.loads(sys.argv[1]):
    try:
        print(json.dumps(str(locate(**call))))
    except InvalidCheckpoint as error:
        print(json.dumps("InvalidCheckpoint: " + error.message))
assert "torch" not in sys.modules
"""


def locate(home: Path, endpoint: str, *calls: dict[str, object], **environment: str) -> list[str]:
    """Call `locate` in a process whose hub is `endpoint`; errors come back as texts."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS_"))}
    run = subprocess.run(
        [sys.executable, "-c", _LOCATE, json.dumps(calls)],
        env=clean
        | {"HF_HOME": str(home), "HF_ENDPOINT": endpoint, "NO_PROXY": "127.0.0.1"}
        | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


def names(folder: str) -> set[str]:
    return {str(p.relative_to(folder)) for p in Path(folder).rglob("*") if not p.is_dir()}


def test_models_are_fetched_without_what_is_not_needed(
    hub: tuple[str, list[str]], tmp_path: Path
) -> None:
    endpoint, fetched = hub
    models = ["suno/both", "suno/pickle", "suno/sharded", "suno/both"]
    calls = [{"model": name} for name in models]
    both, pickle, sharded, again = locate(tmp_path, endpoint, *calls)
    assert names(both) == {*SETTINGS, "model.safetensors"}
    assert names(pickle) == {*SETTINGS, "pytorch_model.bin"}
    assert names(sharded) == set(REPOSITORIES["suno/sharded"])
    assert (Path(both) / "model.safetensors").read_bytes() == b"safe"
    assert again == both
    assert fetched.count("a:model.safetensors") == 1
    assert Path(both).is_relative_to(tmp_path / "hub")


def test_revision_and_cache_folder_are_honoured(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    endpoint, fetched = hub
    other = tmp_path / "other"
    by_tag, by_commit = locate(
        tmp_path / "home",
        endpoint,
        {"model": "suno/both", "revision": "v1", "cache_dir": str(other)},
        {"model": "suno/both", "revision": SHA, "cache_dir": str(other), "progress": False},
    )
    assert Path(by_tag).is_relative_to(other)
    assert (Path(by_tag).name, Path(by_commit).name) == (OLD_SHA, SHA)
    assert "b:model.safetensors" in fetched
    assert not (tmp_path / "home" / "hub").exists()


def test_errors_say_what_to_do(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    endpoint, _ = hub
    unknown, gated, revision, offline = locate(
        tmp_path,
        endpoint,
        {"model": "suno/nothing"},
        {"model": "suno/gated"},
        {"model": "suno/both", "revision": "v9"},
        {"model": "suno/both", "offline": True, "revision": "v1"},
    )
    assert "no model suno/nothing" in unknown
    assert "hf auth login" in gated
    assert "no revision v9" in revision
    assert "hf download suno/both --revision v1" in offline


def test_the_cache_serves_when_there_is_no_hub(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    endpoint, fetched = hub
    calls = [{"model": "suno/both"}, {"model": "suno/pickle"}]
    online = locate(tmp_path, endpoint, *calls)
    count = len(fetched)
    dead = "http://127.0.0.1:9"
    assert locate(tmp_path, dead, *calls, HF_HUB_OFFLINE="1") == online
    assert locate(tmp_path, dead, *calls) == online
    assert len(fetched) == count
    for environment in ({"HF_HUB_OFFLINE": "1"}, {}):
        (missing,) = locate(tmp_path, dead, {"model": "suno/sharded"}, **environment)
        assert missing.startswith("InvalidCheckpoint: suno/sharded is not")
        assert "hf download suno/sharded" in missing


def npy(*shape: int) -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros(shape, np.int64))
    return file.getvalue()


PRESET = "v2/en_speaker_6"
ARRAYS = {"semantic_prompt": (100,), "coarse_prompt": (2, 150), "fine_prompt": (8, 150)}
FILES = {key: f"speaker_embeddings/{PRESET}_{key}.npy" for key in ARRAYS}
REPOSITORIES["suno/voices"] = {
    **SETTINGS,
    "model.safetensors": b"safe",
    "speaker_embeddings_path.json": json.dumps({PRESET: FILES, "v2/de_speaker_0": FILES}).encode(),
    **{FILES[key]: npy(*shape) for key, shape in ARRAYS.items()},
}

REPOSITORIES["other/voices"] = {
    **REPOSITORIES["suno/voices"],
    "speaker_embeddings_path.json": json.dumps({"my/one": FILES, "my/two": FILES}).encode(),
}

_PRESET = """
import sys
from pipeline.errors import VoiceNotFound
from pipeline.models.locate import locate, preset_fetcher
from pipeline.voices import VoiceLibrary
folder = locate("suno/voices")
library = VoiceLibrary([folder], fetch=preset_fetcher("suno/voices", folder))
try:
    print(library.get(sys.argv[1]).fine.shape)
except VoiceNotFound as error:
    print("VoiceNotFound", error.message)
"""


def test_voice_presets_are_fetched_one_by_one_at_first_use(
    hub: tuple[str, list[str]], tmp_path: Path
) -> None:
    endpoint, fetched = hub
    clean = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    environment = clean | {"HF_HOME": str(tmp_path), "NO_PROXY": "127.0.0.1"}

    def get(preset: str, endpoint: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", _PRESET, preset],
            env=environment | {"HF_ENDPOINT": endpoint},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout.strip()

    assert get(PRESET, endpoint) == "(8, 150)"
    assert sorted(path for path in fetched if path.endswith(".npy")) == sorted(
        f"a:{file}" for file in FILES.values()
    )
    count = len(fetched)
    assert get(PRESET, endpoint) == "(8, 150)"
    assert get(PRESET, "http://127.0.0.1:9") == "(8, 150)"
    assert len(fetched) == count
    assert "VoiceNotFound" in get("v2/fr_speaker_1", endpoint)


def test_all_presets_are_imported_without_the_weights(
    hub: tuple[str, list[str]], tmp_path: Path
) -> None:
    endpoint, fetched = hub
    clean = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    command = [sys.executable, "-m", "pipeline", "voices", "import", "other/voices"]
    for _ in range(2):
        done = subprocess.run(
            [*command, "--consent", "silence", "--data", str(tmp_path / "data")],
            env=clean
            | {"HF_HOME": str(tmp_path), "NO_PROXY": "127.0.0.1", "HF_ENDPOINT": endpoint},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("2 voices in")
    assert sorted(path.name for path in (tmp_path / "data" / "voices" / "my").iterdir()) == [
        "one.json",
        "one.npz",
        "two.json",
        "two.npz",
    ]
    assert "a:model.safetensors" not in fetched


BERT = "google-bert/bert-base-multilingual-cased"
REPOSITORIES[BERT] = {"vocab.txt": b"[PAD]\n[UNK]\n"}

_VOCABULARY = """
from pipeline.errors import InvalidCheckpoint
from pipeline.models.hub_model import fetch_vocabulary
try:
    print(fetch_vocabulary().read_text().split()[0])
except InvalidCheckpoint as error:
    print(error.message)
"""


def test_vocabulary_of_sunos_checkpoints_comes_from_the_hub(
    hub: tuple[str, list[str]], tmp_path: Path
) -> None:
    endpoint, _ = hub
    clean = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}

    def fetch(**environment: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", _VOCABULARY],
            env=clean | {"HF_HOME": str(tmp_path), "NO_PROXY": "127.0.0.1"} | environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout.strip()

    assert "--tokenizer" in fetch(HF_HUB_OFFLINE="1")
    assert fetch(HF_ENDPOINT=endpoint) == "[PAD]"
    assert fetch(HF_HUB_OFFLINE="1") == "[PAD]"
