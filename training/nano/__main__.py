"""The steps of the recipe, alone or all together.

python -m training.nano all                 # everything, on two cores (`make nano`)
python -m training.nano train semantic      # one step
python -m training.nano all --rehearsal --steps-scale 0.01 --clips 1000 --texts 10000 \
    --folder /tmp/rehearsal --target /tmp/rehearsal/nano
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

if TYPE_CHECKING:
    from training.nano.evaluation import Judge

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
Target = Annotated[Path, typer.Option(help="The checkpoint's folder.")]
Folder = Annotated[Path, typer.Option(help="Where everything is kept; a rerun goes on from it.")]
Rehearsal = Annotated[bool, typer.Option("--rehearsal", help="No voices and scores at the end.")]
Scale = Annotated[float, typer.Option(help="Multiply every number of training steps.", min=1e-6)]

_FOLDER: Final = Path("runs/nano")
_TARGET: Final = Path("pipeline/models/nano")
_NUM_CLIPS: Final = 28_000
_NUM_TEXTS: Final = 120_000
_NUM_JUDGED: Final = 100


@dataclass(frozen=True, slots=True)
class Plan:
    """steps: of training. batch: clips, windows or crops a step."""

    steps: int
    batch: int


PLANS: Final = {
    "semantic": Plan(7000, 16),
    "coarse": Plan(7000, 14),
    "fine": Plan(3500, 8),
    "codec": Plan(8000, 8),
}
# What runs side by side, one line a core. The codec's decoder learns from the fine model.
_LANES: Final = (("fine", "codec", "semantic"), ("coarse",))


@app.command()
def clips(folder: Folder = _FOLDER, count: int = _NUM_CLIPS) -> None:
    """Let the teacher speak (3 minutes on 2 cores)."""
    from training.nano.clips import make_clips

    make_clips(folder / "clips", count)


@app.command()
def tokens(folder: Folder = _FOLDER) -> None:
    """Turn clips into semantic tokens and codes (3 minutes)."""
    from training.nano.tokens import make_tokens

    if (folder / "tokens").exists():
        print("tokens: already made")
    else:
        make_tokens(folder / "clips", folder / "tokens")


@app.command()
def texts(folder: Folder = _FOLDER, count: int = _NUM_TEXTS) -> None:
    """Let the teacher time many more texts, without sound (2 minutes)."""
    from training.nano.texts import make_texts

    make_texts(folder / "texts", folder / "tokens", count)


@app.command()
def train(name: str, folder: Folder = _FOLDER, steps_scale: Scale = 1.0) -> None:
    """Train one network: codec, semantic, coarse or fine; on one thread."""
    import torch

    from training.nano.codec_task import CodecTask
    from training.nano.dataset import Dataset
    from training.nano.gpt import FineGPT
    from training.nano.gpt_tasks import CoarseTask, FineTask, SemanticTask
    from training.nano.shape import nano_spec
    from training.nano.texts import Texts
    from training.nano.tokens import Index
    from training.nano.trainer import Recipe, Task
    from training.nano.trainer import train as run

    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    torch.manual_seed(0)  # the first weights
    num_symbols = len(Index.read(folder / "tokens").symbols)
    spec, states = nano_spec(num_symbols), nano_spec(num_symbols, num_phases=1)
    plan = PLANS[name]
    task: Task
    if name == "semantic":
        task = SemanticTask(Texts(folder / "texts"), spec.semantic, plan.batch)
    else:
        dataset = Dataset(folder / "tokens")
        if name == "coarse":
            task = CoarseTask(dataset, states, plan.batch)
        elif name == "fine":
            task = FineTask(dataset, spec, plan.batch)
        else:
            fine = FineGPT(spec.fine)
            fine.load_state_dict(torch.load(folder / "weights" / "fine.pt", weights_only=True))
            task = CodecTask(dataset, spec, plan.batch, fine)
    run(task, Recipe(max(1, round(plan.steps * steps_scale))), folder / "weights")


@app.command()
def export(
    folder: Folder = _FOLDER, target: Target = _TARGET, rehearsal: Rehearsal = False
) -> None:
    """Write the checkpoint, its two voices and its record; print how well it does."""
    from training.nano.evaluation import Judge
    from training.nano.export import export as write
    from training.nano.presets import make_presets
    from training.nano.record import write_record

    write(folder, target)
    facts: dict[str, object] = {}
    if not rehearsal:
        judge = Judge()
        facts["voices"] = make_presets(target, judge)
        facts["scores"] = _scores(target, judge, "test", _NUM_JUDGED, "fp32")
    write_record(target, folder, facts)


@app.command()
def evaluate(
    model: str = "nano",
    split: str = "test",
    count: Annotated[int, typer.Option(help="Texts of each kind.")] = _NUM_JUDGED,
    precision: str = "fp32",
) -> None:
    """Score a model (100 texts of each kind take 6 minutes); exit 1 if it misses a gate."""
    from training.nano.evaluation import Judge

    if _scores(model, Judge(), split, count, precision)["failures"]:
        raise typer.Exit(1)


@app.command()
def plots(folder: Folder = _FOLDER, target: Path = Path("docs/models")) -> None:
    """Draw losses, and spectrograms of the shipped model beside its teacher."""
    from pipeline.bark import Bark
    from training.nano.plots import plot_losses, plot_spectrograms
    from training.nano.teacher import VOICES, Teacher

    plot_losses(folder / "weights", target / "nano-losses.png")
    bark, teacher, text = Bark.load(), Teacher(), "Hello, I am a small Bark."
    drawn = []
    for voice in VOICES:
        drawn.append((f"teacher, {voice}: {text}", teacher(text, voice).samples))
        drawn.append((f"nano, {voice}: {text}", bark.generate(text, voice=voice, seed=7).samples))
    plot_spectrograms(drawn, target / "nano-spectrograms.png")


@app.command("all")
def everything(
    folder: Folder = _FOLDER,
    target: Target = _TARGET,
    clips: int = _NUM_CLIPS,
    texts: int = _NUM_TEXTS,
    steps_scale: Scale = 1.0,
    rehearsal: Rehearsal = False,
) -> None:
    """Run every step; what an earlier run finished is not done again."""
    began = time.monotonic()
    where = ["--folder", str(folder)]
    _run([["clips", *where, "--count", str(clips)]])
    _run([["tokens", *where]])
    _run([["texts", *where, "--count", str(texts)]])
    scale = ["--steps-scale", str(steps_scale)]
    _run(*([["train", name, *where, *scale] for name in lane] for lane in _LANES))
    last = ["--rehearsal"] if rehearsal else []
    _run([["export", *where, "--target", str(target), *last]])
    print(f"nano: done in {(time.monotonic() - began) / 60:.0f} minutes: {target}")


def _scores(
    model: str | Path, judge: Judge, split: str, count: int, precision: str
) -> dict[str, object]:
    from pipeline.bark import Bark

    scores = judge.score(Bark.load(model, precision=precision), split=split, count=count)
    found = scores.as_dict() | {"failures": scores.failures()}
    for key, value in found.items():
        print(f"{key:16} {value}")
    return found


def _run(*lanes: list[list[str]]) -> None:
    """Run lanes of commands side by side, each on its own core; stop all when one fails."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    waiting = [list(lane) for lane in lanes]
    running: list[subprocess.Popen[bytes] | None] = [None] * len(lanes)
    try:
        while any(waiting) or any(running):
            for place, process in enumerate(running):
                if process is not None and process.poll() is not None:
                    if process.returncode:
                        sys.exit(process.returncode)
                    running[place] = process = None
                if process is None and waiting[place]:
                    command = [sys.executable, "-m", "training.nano", *waiting[place].pop(0)]
                    # One thread each: two that share two cores are slower, and sums would depend
                    # on how many threads made them.
                    environment = {**os.environ, "OMP_NUM_THREADS": "1"} if lanes[1:] else None
                    running[place] = started = subprocess.Popen(command, env=environment)
                    if len(cores) >= len(lanes) > 1:
                        os.sched_setaffinity(started.pid, {cores[place]})
            time.sleep(0.5)
    finally:
        for process in running:
            if process is not None and process.poll() is None:
                process.terminate()
                process.wait()


if __name__ == "__main__":
    app()
