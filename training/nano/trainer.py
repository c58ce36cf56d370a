"""Training by the step: seeded, resumable, and telling how far it is.

What a step sees depends on the recipe's seed and the step's number alone, so a run that was
interrupted goes on as if it had not been. Its state is saved every two minutes.
"""

from __future__ import annotations

import json
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

Split = Literal["train", "validation"]
_SAVE_EVERY_S = 120.0
_TELL_EVERY_S = 30.0
_NUM_VALIDATION_BATCHES = 6


class Task(ABC):
    """One network, how its batches are drawn, and its loss."""

    name: str
    model: nn.Module

    @abstractmethod
    def loss(self, rng: np.random.Generator, split: Split) -> tuple[Tensor, dict[str, float], int]:
        """Draw a batch; return its loss, what else is worth a plot, and its number of tokens."""

    @abstractmethod
    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Return the optimizers with their highest learning rates set."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """steps: how many. decay: the share of them, at the end, over which the rate falls to 0."""

    steps: int
    seed: int = 1
    warmup: int = 50
    decay: float = 0.6
    clip: float = 1.0

    def rate(self, step: int) -> float:
        """Return the factor of the learning rate at a step: up, level, down, all straight."""
        return min(1.0, (step + 1) / self.warmup, (1 - step / self.steps) / self.decay)


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast() -> AbstractContextManager[Any]:
    return torch.autocast(device().type, torch.bfloat16)


def train(task: Task, recipe: Recipe, folder: Path) -> None:
    """Train to the recipe's end, from wherever an earlier run got to.

    Writes `<name>.pt` (the weights, when done), `<name>.state.pt` (to go on from) and
    `<name>.log.jsonl` (a line every 30 s).
    """
    final, state = folder / f"{task.name}.pt", folder / f"{task.name}.state.pt"
    if final.exists():
        print(f"{task.name}: already trained", flush=True)
        return
    folder.mkdir(parents=True, exist_ok=True)
    task.model.to(device()).train()
    optimizers = task.optimizers()
    peaks = [[float(group["lr"]) for group in o.param_groups] for o in optimizers]
    progress = _Progress(task.name, recipe.steps, folder / f"{task.name}.log.jsonl")
    first = _resume(task, optimizers, progress, state)
    saved = time.monotonic()
    for step in range(first, recipe.steps):
        torch.manual_seed(recipe.seed * 1_000_003 + step)
        for optimizer, rates in zip(optimizers, peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = peak * recipe.rate(step)
            optimizer.zero_grad(set_to_none=True)
        loss, facts, tokens = task.loss(np.random.default_rng([recipe.seed, step]), "train")
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(task.model.parameters(), recipe.clip)
        for optimizer in optimizers:
            optimizer.step()
        progress.add(step, {"loss": float(loss.detach()), **facts}, tokens)
        if progress.is_due or step + 1 == recipe.steps:
            progress.tell(_validate(task))
        if time.monotonic() - saved > _SAVE_EVERY_S:
            _save(task, optimizers, progress, step + 1, state)
            saved = time.monotonic()
    _write(task.model.state_dict(), final)
    state.unlink(missing_ok=True)


class _Progress:
    """Averages since the last line; what is printed and logged."""

    def __init__(self, name: str, steps: int, log: Path) -> None:
        self.name, self.steps, self.log = name, steps, log
        self.spent_s = 0.0  # in earlier runs
        self._began = self._told = time.monotonic()
        self._recent: list[dict[str, float]] = []
        self._step = self._first = self._tokens = 0

    def begin(self, step: int, spent_s: float) -> None:
        self._first, self.spent_s = step, spent_s

    @property
    def elapsed_s(self) -> float:
        return self.spent_s + time.monotonic() - self._began

    @property
    def is_due(self) -> bool:
        early = self._step - self._first in (5, 20) and self._first == 0
        return early or time.monotonic() - self._told > _TELL_EVERY_S

    def add(self, step: int, facts: dict[str, float], tokens: int) -> None:
        self._step, self._tokens = step + 1, self._tokens + tokens
        self._recent.append(facts)

    def tell(self, validation: dict[str, float]) -> None:
        self._told = now = time.monotonic()
        mean = {key: float(np.mean([f[key] for f in self._recent])) for key in self._recent[0]}
        self._recent = []
        rate = self._tokens / (now - self._began)
        left = (now - self._began) / (self._step - self._first) * (self.steps - self._step)
        line: dict[str, Any] = {"step": self._step, "elapsed_s": round(self.elapsed_s, 1)}
        line |= {"tokens_per_s": round(rate), "train": mean, "validation": validation}
        with self.log.open("a") as file:
            file.write(json.dumps(line) + "\n")
        losses = " ".join(f"{k} {mean.get(k, 0):.3f}/{v:.3f}" for k, v in validation.items())
        print(
            f"{self.name}: step {self._step} of {self.steps}, {losses}, {rate:.0f} tokens/s, "
            f"{left / 60:.1f} min left",
            flush=True,
        )


@torch.no_grad()
def _validate(task: Task) -> dict[str, float]:
    """Return means over the same few batches each time."""
    task.model.eval()
    found = []
    for i in range(_NUM_VALIDATION_BATCHES):
        torch.manual_seed(i)
        loss, facts, _ = task.loss(np.random.default_rng([7, i]), "validation")
        found.append({"loss": float(loss), **facts})
    task.model.train()
    return {key: float(np.mean([f[key] for f in found])) for key in found[0]}


def _resume(
    task: Task, optimizers: list[torch.optim.Optimizer], progress: _Progress, path: Path
) -> int:
    if not path.exists():
        progress.log.unlink(missing_ok=True)
        return 0
    state = torch.load(path, map_location=device(), weights_only=True)
    task.model.load_state_dict(state["model"])
    for optimizer, kept in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(kept)
    progress.begin(state["step"], state["elapsed_s"])
    print(f"{task.name}: going on from step {state['step']}", flush=True)
    return int(state["step"])


def _save(
    task: Task,
    optimizers: list[torch.optim.Optimizer],
    progress: _Progress,
    step: int,
    path: Path,
) -> None:
    state = {
        "model": task.model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "step": step,
        "elapsed_s": progress.elapsed_s,
    }
    _write(state, path)


def _write(content: object, path: Path) -> None:
    """Write whole or not at all."""
    draft = path.with_suffix(f".{os.getpid()}")
    torch.save(content, draft)
    draft.replace(path)


def read_log(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text().splitlines():
        yield json.loads(line)
