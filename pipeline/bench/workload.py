"""What every configuration is asked to do: a clip of fixed length, and the checkpoint for it.

The model never ends by itself here, so both sides make the same number of tokens in each stage.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.bench.figures import Json
from pipeline.engine.runner import Device
from pipeline.errors import InvalidRequest
from pipeline.models.cache import cache_folder, publish_folder
from pipeline.models.checkpoint import open_checkpoint
from pipeline.models.locate import locate
from pipeline.models.seeded import build_seeded
from pipeline.models.sizes import Size
from pipeline.spec import BarkSpec
from pipeline.stages.fine import window_starts

# Short, of words that nano knows: one segment in every model.
TEXTS = (
    "The train leaves the station at seven",
    "She found the letter and the key",
    "Anna has nine books and a green bird",
    "We were at the river last week",
)
WARM_UP_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Work:
    """One clip, counted: `frames` of the codec, `fine_windows` of six passes each."""

    seconds: float
    semantic_tokens: int
    coarse_tokens: int
    frames: int
    fine_windows: int
    rate_hz: float

    @classmethod
    def plan(cls, spec: BarkSpec, seconds: float) -> Work:
        """Count a clip's tokens; 10 s of Bark are 499 semantic and 1500 coarse ones.

        Raises:
            InvalidRequest: shorter than a frame, or longer than the model can speak at once.
        """
        semantic, rate = round(seconds * spec.semantic.rate_hz), spec.semantic.rate_hz
        longest = spec.semantic.max_new_tokens
        frames = spec.num_frames(semantic)
        if not (0 < semantic <= longest and frames):
            raise InvalidRequest(
                f"a clip can be 0.05 to {int(longest / rate * 10) / 10} s long in this model, "
                f"not {seconds:g} s"
            )
        windows = window_starts(frames, 0, max(frames, spec.fine.window), spec)
        return cls(
            seconds=frames / spec.codec.frame_rate_hz,
            semantic_tokens=semantic,
            coarse_tokens=frames * spec.coarse.num_codebooks,
            frames=frames,
            fine_windows=len(windows),
            rate_hz=rate,
        )

    @property
    def semantic_fields(self) -> dict[str, Any]:
        """Settings with which `Bark.generate` makes exactly this many semantic tokens.

        The token that crosses the maximum is kept, so the maximum lies half a token below.
        """
        half_below = (self.semantic_tokens - 0.5) / self.rate_hz
        return {"max_duration_s": half_below, "allow_early_stop": False}


def text(number: int) -> str:
    """Return the text of a request: one sentence, one segment, and never twice the same."""
    return f"{TEXTS[number % len(TEXTS)]} {number}."


def prepare(
    *, size: Size, model: str | None, seconds: float | None, device: str, backend: str
) -> Json:
    """Find the model, or build one of random weights; check what can be wrong with the run.

    Args:
        model: as in `locate`; None is random weights of the size.
        seconds: None is 10 s, or as long as a smaller model speaks at once.

    Raises:
        InvalidRequest: a device, backend or length that does not exist here.
        InvalidCheckpoint: there is no such model.
    """
    device_class = Device(device, backend).device_class
    if model is not None:
        folder = locate(model)
    else:
        folder = publish_folder(
            cache_folder() / "bench" / f"{size}-seeded",
            lambda draft: build_seeded(draft, size=size, seed=0, layout="hf"),
        )
    spec = open_checkpoint(folder).spec
    if seconds is None:
        seconds = min(10.0, spec.semantic.max_new_tokens / spec.semantic.rate_hz)
    work, warm_up = Work.plan(spec, seconds), Work.plan(spec, min(seconds, WARM_UP_SECONDS))
    return {
        "path": str(folder),
        "device_class": device_class,
        "work": asdict(work),
        "warm_up": asdict(warm_up),
    }


def checkpoint_spec(path: str) -> BarkSpec:
    """Read a checkpoint's numbers."""
    return open_checkpoint(Path(path)).spec
