"""The record that ships beside the weights: how they came about, and how well they do."""

from __future__ import annotations

import hashlib
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import torch

from training.nano.export import SHARPNESS
from training.nano.tokens import Index
from training.nano.trainer import read_log

RECORD: Final = "training.json"
_PACKAGES = ("torch", "numpy", "hibari-tts", "onnxruntime", "transformers", "pocketsphinx")


def write_record(folder: Path, run: Path, facts: dict[str, Any]) -> None:
    """Write steps, losses, versions and the facts given (voices, scores) into a checkpoint."""
    index = Index.read(run / "tokens")
    networks = {}
    for path in sorted((run / "weights").glob("*.log.jsonl")):
        *_, last = read_log(path)
        networks[path.name.removesuffix(".log.jsonl")] = last
    record = {
        "weights_sha256": hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest(),
        "data": {
            "clips": len(index.texts),
            "hours": round(sum(index.num_frames) / 75 / 3600, 2),
            "symbols": index.symbols,
        },
        "networks": networks,
        "sharpness": dict(SHARPNESS),
        "seeds": "clips: part numbers; first weights 0; batches 1 and the step's number",
        "versions": {name: version(name) for name in _PACKAGES},
        "machine": {
            "python": platform.python_version(),
            "processor": platform.machine(),
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        },
        **facts,
    }
    (folder / RECORD).write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def read_record(folder: Path) -> dict[str, Any]:
    """Read what `write_record` wrote."""
    record: dict[str, Any] = json.loads((folder / RECORD).read_text())
    return record
