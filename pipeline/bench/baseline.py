"""transformers' BarkModel on the same checkpoint, at its best ordinary settings.

Its four stages are called one after the other, as `BarkModel.generate` does, with a clock between.
KV cache on, inference mode, all the threads that ours gets, a warm-up. What differs from its
defaults makes the work equal: a fixed number of tokens, and no top-k, which Suno's code has not.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.bench.child import note
from pipeline.bench.figures import Json, clip_figures, middle, seconds_by_part
from pipeline.bench.machine import peak_memory_bytes
from pipeline.bench.workload import Work, text
from pipeline.errors import EngineFailed
from pipeline.models.checkpoint import open_checkpoint
from pipeline.stages.text import TextStage

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def transformers_clip(
    *,
    path: str,
    precision: str,
    device: str,
    work: Json,
    warm_up: Json,
    repeats: int,
    static_batch: int | None,
) -> Json:
    """Measure one clip at a time, and (if asked) one batch of equal clips.

    Returns:
        `clip_figures` of the median clip; `static_batch` holds those of the batch.
    """
    began = time.perf_counter()
    baseline = Baseline(path, precision, device)
    load_s = time.perf_counter() - began
    note(f"loaded in {load_s:.1f} s, warming up")
    baseline.clip(Work(**warm_up), 0, rows=1)
    clip_work, runs = Work(**work), []
    for number in range(1, repeats + 1):
        runs.append(baseline.clip(clip_work, number, rows=1))
        note(f"{clip_work.seconds:g} s of sound in {runs[-1]['total_s']:.2f} s")
    found = middle(runs)
    found |= {
        "precision": precision,
        "runs_s": seconds_by_part(runs),
        "load_s": load_s,
        "first_audio_s": found["total_s"],  # it gives no sound before the end
        "peak_memory_bytes": peak_memory_bytes(),
    }
    if torch.cuda.is_available():
        found["peak_device_memory_bytes"] = torch.cuda.max_memory_allocated()
    if static_batch is not None:
        note(f"a static batch of {static_batch}")
        batch = baseline.clip(clip_work, 100, rows=static_batch)
        found["static_batch"] = batch | {"peak_memory_bytes": peak_memory_bytes()}
    return found


class Baseline:
    """A loaded BarkModel and the text front end that both sides share."""

    def __init__(self, path: str, precision: str, device: str) -> None:
        from transformers import BarkModel
        from transformers.models.bark import generation_configuration_bark

        kinds: Any = generation_configuration_bark

        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self._device = torch.device(device)
        model: Any = BarkModel.from_pretrained(path, dtype=DTYPES[precision])
        self._model = model.eval().to(self._device)
        given = self._model.generation_config
        self._configs: dict[str, Any] = {
            "semantic_generation_config": kinds.BarkSemanticGenerationConfig(
                **given.semantic_config
            ),
            "coarse_generation_config": kinds.BarkCoarseGenerationConfig(
                **given.coarse_acoustics_config
            ),
            "fine_generation_config": kinds.BarkFineGenerationConfig(**given.fine_acoustics_config),
        }
        self._codebook_size = given.codebook_size
        checkpoint = open_checkpoint(Path(path))
        assert checkpoint.tokenizer_path is not None
        self._spec = checkpoint.spec.semantic
        self._text = TextStage(checkpoint.tokenizer_path, self._spec)

    @torch.inference_mode()
    def clip(self, work: Work, number: int, rows: int) -> Json:
        """Make `rows` clips as one batch; seconds are the batch's, rates count all rows."""
        ids, mask = self._prompts(number, rows)
        torch.manual_seed(number)
        model, seconds = self._model, {}
        configs, size = self._configs, {"codebook_size": self._codebook_size}
        semantic_config = {"semantic_generation_config": configs["semantic_generation_config"]}
        before_fine = {k: v for k, v in configs.items() if k != "fine_generation_config"}
        seconds["semantic"], semantic = self._timed(
            lambda: model.semantic.generate(
                ids,
                attention_mask=mask,
                min_new_tokens=work.semantic_tokens,
                max_new_tokens=work.semantic_tokens,
                top_k=0,
                **semantic_config,
            )
        )
        seconds["coarse"], coarse = self._timed(
            lambda: model.coarse_acoustics.generate(semantic, top_k=0, **before_fine, **size)
        )
        seconds["fine"], fine = self._timed(
            lambda: model.fine_acoustics.generate(coarse, **configs, **size)
        )
        seconds["codec"], sound = self._timed(lambda: model.codec_decode(fine).float().cpu())
        made = (semantic.shape[1], coarse.shape[1], fine.shape[2], sound.shape[0])
        if made != (work.semantic_tokens, work.coarse_tokens, work.frames, rows):
            raise EngineFailed(f"transformers made {made} where {asdict(work)} was asked for")
        total_s = sum(seconds.values())
        all_rows = {
            key: value * rows if key in ("seconds", "semantic_tokens", "coarse_tokens") else value
            for key, value in asdict(work).items()
        }
        return {"rows": rows, **clip_figures(all_rows, seconds, total_s)}

    def _prompts(self, number: int, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ids [rows, prompt_length] without Bark's offset, and their mask."""
        tokens = [self._text(text(number + row)) for row in range(rows)]
        ids = np.stack([each.ids for each in tokens]) - self._spec.text_offset
        kept = np.array([each.num_tokens for each in tokens])
        mask = (np.arange(ids.shape[1]) < kept[:, None]).astype(np.int64)
        return tuple(torch.from_numpy(a).to(self._device) for a in (ids * mask, mask))  # type: ignore[return-value]

    def _timed(self, call: Callable[[], Any]) -> tuple[float, Any]:
        began = time.perf_counter()
        result = call()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter() - began, result
