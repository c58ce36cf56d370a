"""`bark-serve voices …`: the presets that this model and the store know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from pipeline.cli import options
from pipeline.errors import BarkError, VoiceNotFound

if TYPE_CHECKING:
    from pipeline.models.checkpoint import Checkpoint
    from pipeline.spec import BarkSpec
    from pipeline.voices import VoiceLibrary

app = typer.Typer(
    help="List, show, add and remove voice presets.", no_args_is_help=True, add_completion=False
)
Name = Annotated[str, typer.Argument(help="The preset's name, such as v2/en_speaker_6.")]


@app.command("list")
def list_voices(
    model: options.Model = "nano",
    data: options.DataFolder = options.DEFAULT_DATA,
    as_json: options.AsJson = False,
) -> None:
    """List the presets of the store and of the model.

    Example: bark-serve voices list --model suno/bark
    """
    names = _library(model, data).names()
    if as_json:
        print(json.dumps(list(names)))
        return
    for name in names:
        print(name)
    if not names:
        Console(stderr=True).print(
            "no voices yet: bark-serve voices add FILE.npz, or say … --save-voice NAME"
        )


@app.command()
def show(
    name: Name,
    model: options.Model = "nano",
    data: options.DataFolder = options.DEFAULT_DATA,
    as_json: options.AsJson = False,
) -> None:
    """Show a preset's arrays, length, digest and record.

    Example: bark-serve voices show v2/en_speaker_6 --model suno/bark
    """
    from pipeline.store.local import LocalStore
    from pipeline.stored_voices import Voices
    from pipeline.voices import read_voice, voice_digest

    spec, library = _spec(model), _library(model, data)
    prompt = read_voice(name, spec=spec, voices=library)
    facts: dict[str, Any] = {
        "name": name,
        "digest": voice_digest(prompt),
        "semantic_tokens": len(prompt.semantic),
        "frames": int(prompt.fine.shape[1]),
        "duration_s": round(prompt.fine.shape[1] / spec.codec.frame_rate_hz, 3),
        "record": Voices(LocalStore(data)).show(name),
    }
    if as_json:
        print(json.dumps(facts))
        return
    table = Table(show_header=False, box=None)
    for key, value in facts.items():
        table.add_row(key.replace("_", " "), str(value))
    Console().print(table)


@app.command()
def add(
    file: Annotated[Path, typer.Argument(help="An .npz with the three arrays.")],
    name: Annotated[str | None, typer.Option(help="Default: the file's name.")] = None,
    model: options.Model = "nano",
    data: options.DataFolder = options.DEFAULT_DATA,
) -> None:
    """Check a preset and keep it in the store.

    Example: bark-serve voices add my_voice.npz --name narrator
    """
    from pipeline.store.local import LocalStore
    from pipeline.stored_voices import Voices
    from pipeline.voices import read_voice

    if not file.is_file():
        raise VoiceNotFound(f"there is no file {file}.")
    prompt = read_voice(file, spec=_spec(model), voices=None)
    kept = name or file.stem
    Voices(LocalStore(data)).add(kept, prompt, {"source": f"file {file.name}"})
    print(kept)


@app.command("from-generation")
def from_generation(
    generation_id: Annotated[str, typer.Argument(metavar="ID", help="As `say` prints it.")],
    name: Name,
    model: options.Model = "nano",
    data: options.DataFolder = options.DEFAULT_DATA,
) -> None:
    """Make a preset of something that was said before.

    Example: bark-serve voices from-generation 4f1c… narrator
    """
    from pipeline.generations import Generations
    from pipeline.store.local import LocalStore
    from pipeline.stored_voices import Voices
    from pipeline.voices import read_voice

    store = LocalStore(data)
    tokens = Generations(store).load_tokens(generation_id)
    if tokens is None:
        raise BarkError(f"the store at {data} holds no generation {generation_id}.")
    prompt = read_voice(tokens, spec=_spec(model), voices=None)
    Voices(store).add(name, prompt, {"source": f"generation {generation_id}"})
    print(name)


@app.command("rm")
def remove(name: Name, data: options.DataFolder = options.DEFAULT_DATA) -> None:
    """Remove a preset from the store.

    Example: bark-serve voices rm narrator
    """
    from pipeline.store.local import LocalStore
    from pipeline.stored_voices import Voices

    if not Voices(LocalStore(data)).remove(name):
        raise VoiceNotFound(f"the store at {data} holds no voice {name!r}.")


def _spec(model: str) -> BarkSpec:
    return _open(model).spec


def _library(model: str, data: Path) -> VoiceLibrary:
    from pipeline.bark import voice_library

    return voice_library(model, _open(model), [data / "voices"])


def _open(model: str) -> Checkpoint:
    from pipeline.models.checkpoint import open_checkpoint
    from pipeline.models.locate import locate

    return open_checkpoint(locate(model))
