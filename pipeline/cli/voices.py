"""`bark-serve voices …`: the presets that this model and the store know."""

from __future__ import annotations

import fnmatch
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from pipeline.cli import options
from pipeline.errors import BarkError, InvalidRequest, VoiceNotFound

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
    data: options.Data = options.DEFAULT_DATA,
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
    data: options.Data = options.DEFAULT_DATA,
    as_json: options.AsJson = False,
) -> None:
    """Show a preset's arrays, length, digest and record.

    Example: bark-serve voices show v2/en_speaker_6 --model suno/bark
    """
    from pipeline.store import open_store
    from pipeline.stored_voices import Voices
    from pipeline.voice_files import voice_digest
    from pipeline.voices import read_voice

    spec, library = _spec(model), _library(model, data)
    prompt = read_voice(name, spec=spec, voices=library)
    facts: dict[str, Any] = {
        "name": name,
        "digest": voice_digest(prompt),
        "semantic_tokens": len(prompt.semantic),
        "frames": int(prompt.fine.shape[1]),
        "duration_s": round(prompt.fine.shape[1] / spec.codec.frame_rate_hz, 3),
        "record": Voices(open_store(data)).show(name),
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
    consent: Annotated[
        str | None,
        typer.Option(help="Whose voice it is, and that they agree; asked for unless it is Suno's."),
    ] = None,
    language: Annotated[str | None, typer.Option(help="Two letters, such as en.")] = None,
    model: options.Model = "nano",
    data: options.Data = options.DEFAULT_DATA,
) -> None:
    """Check a preset and keep it in the store.

    Example: bark-serve voices add me.npz --name narrator --consent "my own voice"
    """
    from pipeline.store import open_store
    from pipeline.stored_voices import Voices
    from pipeline.voice_records import voice_record
    from pipeline.voices import read_voice

    if not file.is_file():
        raise VoiceNotFound(f"there is no file {file}.")
    prompt = read_voice(file, spec=_spec(model), voices=None)
    kept = name or file.stem
    record = voice_record(prompt, kept, consent=consent, language=language)
    Voices(open_store(data)).add(kept, prompt, record)
    print(kept)


@app.command("import")
def import_presets(
    source: Annotated[
        str, typer.Argument(help="A folder of presets, or a hub repository (suno/bark).")
    ],
    model: Annotated[
        str, typer.Option("--model", "-m", help="Check that this model can use them.")
    ] = "suno/bark",
    consent: Annotated[
        str | None, typer.Option(help="For presets that are not Suno's: who agreed to them.")
    ] = None,
    only: Annotated[str, typer.Option(help="Names that match, as v2/de_*.")] = "*",
    data: options.Data = options.DEFAULT_DATA,
) -> None:
    """Keep all presets of a folder or a hub repository in the store; again is no error.

    Example: bark-serve voices import suno/bark --data s3://bucket/bark
    """
    from pipeline.store import open_store
    from pipeline.stored_voices import Voices
    from pipeline.voice_records import voice_record
    from pipeline.voices import read_voice

    library, spec = _presets_of(source), _spec(model)
    names = [name for name in library.names() if fnmatch.fnmatchcase(name, only)]
    if not names:
        raise VoiceNotFound(f"{source} holds no preset whose name matches {only}.")
    voices, console, failed = Voices(open_store(data)), Console(stderr=True), 0
    for name in track(names, "importing", console=console, disable=not console.is_terminal):
        try:
            prompt = read_voice(name, spec=spec, voices=library)
            voices.add(name, prompt, voice_record(prompt, name, consent=consent))
        except (InvalidRequest, VoiceNotFound) as error:
            console.print(f"{name}: {error.message}", style="red", markup=False, soft_wrap=True)
            failed += 1
    print(f"{len(names) - failed} voices in {data}")
    if failed:
        raise typer.Exit(1)


@app.command("from-generation")
def from_generation(
    generation_id: Annotated[str, typer.Argument(metavar="ID", help="As `say` prints it.")],
    name: Name,
    consent: Annotated[
        str | None, typer.Option(help="Asked for where it spoke with a voice of unknown origin.")
    ] = None,
    model: options.Model = "nano",
    data: options.Data = options.DEFAULT_DATA,
) -> None:
    """Make a preset of something that was said before.

    Example: bark-serve voices from-generation 4f1c… narrator
    """
    from pipeline.generations import Generations
    from pipeline.store import open_store
    from pipeline.stored_voices import Voices
    from pipeline.voice_records import is_own, parents_of, voice_record
    from pipeline.voices import read_voice

    store = open_store(data)
    tokens = Generations(store).load_tokens(generation_id)
    if tokens is None:
        raise BarkError(f"the store at {data} holds no generation {generation_id}.")
    prompt = read_voice(tokens, spec=_spec(model), voices=None)
    voices, library = Voices(store), _library(model, data)
    facts = Generations(store).load_manifest(generation_id)
    parents = parents_of(facts, voices, lambda own: is_own(own, library, voices))
    record = voice_record(
        prompt, name, generation_id=generation_id, parents=parents, consent=consent
    )
    voices.add(name, prompt, record)
    print(name)


@app.command("rm")
def remove(name: Name, data: options.Data = options.DEFAULT_DATA) -> None:
    """Remove a preset from the store.

    Example: bark-serve voices rm narrator
    """
    from pipeline.store import open_store
    from pipeline.stored_voices import Voices

    if not Voices(open_store(data)).remove(name):
        raise VoiceNotFound(f"the store at {data} holds no voice {name!r}.")


def _spec(model: str) -> BarkSpec:
    from pipeline.spec import BarkSpec

    # Suno's models take the same presets, whatever their size: no need to fetch gigabytes.
    return BarkSpec() if model in ("suno/bark", "suno/bark-small") else _open(model).spec


def _library(model: str, data: str) -> VoiceLibrary:
    from pipeline.store import open_store
    from pipeline.voice_sources import voice_library

    return voice_library(model, _open(model), store=open_store(data))


def _presets_of(source: str) -> VoiceLibrary:
    """Return the presets of a folder (of .npz files, or transformers' own), or of a hub model."""
    from pipeline.models.hub_model import fetch_presets
    from pipeline.voices import VoiceLibrary

    return VoiceLibrary([Path(source) if Path(source).is_dir() else fetch_presets(source)])


def _open(model: str) -> Checkpoint:
    from pipeline.models.checkpoint import open_checkpoint
    from pipeline.models.locate import locate

    return open_checkpoint(locate(model))
