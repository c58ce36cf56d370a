"""`bark-serve say`: one request in this process, no Ray."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from pipeline.cli import options
from pipeline.cli.output import check_writable, find_player, play
from pipeline.cli.progress import StageBars
from pipeline.errors import InvalidRequest, StoreUnavailable, VoiceNotFound
from pipeline.request import SynthesisRequest
from pipeline.stages.text import check_text
from pipeline.stored_voices import check_voice_name

if TYPE_CHECKING:
    from pipeline.audio.credentials import FileSigner
    from pipeline.payloads import Float32

OWN_OPTIONS = {
    "text": "TEXT",
    "turns": "--dialogue",
    "voice": "--voice",
    "seed": "--seed",
    "long_form": "--chained",
}
EXAMPLES = """Speak a text, or a dialogue.

Examples:

    bark-serve say "Hello [laughs] there" -o hello.wav

    bark-serve say "Guten Tag" --voice v2/de_speaker_3 --model suno/bark-small -p int8

    cat story.txt | bark-serve say - -o story.mp3 --set semantic.temperature=0.6
"""


def say(
    text: Annotated[str | None, typer.Argument(help="What to say; - reads standard input.")] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="wav, flac, mp3, opus, aac or pcm, by its suffix."),
    ] = None,
    voice: Annotated[
        str | None, typer.Option("--voice", "-v", help="A preset's name, or an .npz file.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same sound.")] = None,
    model: options.Model = "nano",
    precision: options.PrecisionName = "fp32",
    device: options.DeviceName = "auto",
    backend: options.Backend = "auto",
    revision: options.Revision = None,
    tokenizer: options.Tokenizer = None,
    dialogue: Annotated[
        Path | None, typer.Option(help='JSON file: [{"voice": …, "text": …}, …], instead of TEXT.')
    ] = None,
    chained: Annotated[
        bool, typer.Option("--chained", help="Each segment of a long text continues the last.")
    ] = False,
    speed: Annotated[float, typer.Option(min=0.25, max=4.0, help="Pitch is kept.")] = 1.0,
    sample_rate: Annotated[
        int | None, typer.Option(min=8000, max=192_000, help="Resample to this many Hz.")
    ] = None,
    audio_format: Annotated[
        str | None, typer.Option("--format", help="Instead of the output's suffix.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any field of a request: coarse.temperature=0.6 (repeatable)."),
    ] = None,
    save_voice: Annotated[
        str | None, typer.Option(help="Keep this generation as a voice preset of that name.")
    ] = None,
    consent: Annotated[
        str | None,
        typer.Option(help="For --save-voice with a voice of unknown origin: who agreed to it."),
    ] = None,
    data: options.Data = options.DEFAULT_DATA,
    store: Annotated[
        bool, typer.Option(help="Keep sound, tokens and manifest in the store.")
    ] = True,
    trace: Annotated[
        bool, typer.Option("--trace", help="Show where the time went, as a waterfall.")
    ] = False,
    watermark: Annotated[
        bool, typer.Option("--watermark", help="Mark the sound itself as synthetic.")
    ] = False,
    c2pa_certificate: Annotated[
        Path | None, typer.Option(help="Sign wav and mp3 with it: a PEM chain.")
    ] = None,
    c2pa_key: Annotated[
        Path | None, typer.Option(help="Its key: PEM, EC P-256, not encrypted.")
    ] = None,
    play_it: Annotated[bool, typer.Option("--play", help="Play it afterwards.")] = False,
    as_json: options.AsJson = False,
) -> None:
    from pipeline.audio import SyntheticLabel, change_speed, encode, find_format, resample
    from pipeline.bark import Bark
    from pipeline.generations import Generations, audio_key
    from pipeline.store import open_store
    from pipeline.store.local import LocalStore, replace_file
    from pipeline.stored_voices import Voices
    from pipeline.voice_records import is_own, parents_of, voice_record
    from pipeline.waterfall import Waterfall, text_rows

    fields = _fields(text, dialogue, chained, settings or [])
    fields["seed"] = seed
    # what is wrong with the request itself is said before a model is loaded
    for turn in SynthesisRequest.parse(fields).all_turns:
        check_text(turn.text)
    name = audio_format or (output.suffix.removeprefix(".") if output else "") or "wav"
    kind = find_format(name)
    if output is None and not store:
        raise InvalidRequest("nowhere to put the sound: give -o FILE, or leave out --no-store.")
    if output is None and (speed != 1 or sample_rate or audio_format):
        raise InvalidRequest("--speed, --sample-rate and --format need a file: give -o FILE.")
    if output is not None:
        check_writable(output)
    kept_in = open_store(data)
    if store and isinstance(kept_in, LocalStore) and not kept_in.is_writable:
        raise StoreUnavailable(f"can not write in {data}; give another --data, or --no-store.")
    if voice is not None and voice.endswith(".npz") and not Path(voice).is_file():
        raise VoiceNotFound(f"there is no file {voice}.")
    if save_voice is not None:
        check_voice_name(save_voice)
    if play_it:
        find_player()
    signer = _signer(c2pa_certificate, c2pa_key)
    console = Console(stderr=True)
    with console.status(escape(f"loading {model} ({precision})")):
        bark = Bark.load(
            model,
            device=device,
            precision=precision,
            backend=backend,
            revision=revision,
            tokenizer=tokenizer,
            store=kept_in,
            watermark=watermark,
        )
    if backend == "auto" and bark.device.is_slow_fallback:
        console.print(f"note: {bark.device.fallback_reason}", style="yellow", soft_wrap=True)
    try:
        with StageBars(console) as bars:
            clip = bark.generate(voice=voice, progress=bars, **fields)
        label = SyntheticLabel(model, clip.id, clip.seed, voice)

        def file(samples: Float32, rate: int, name: str) -> bytes:
            data = encode(samples, rate, name, label)
            return data if signer is None else signer.sign(data, name, label)

        if output is not None:
            samples = change_speed(clip.samples, clip.sample_rate, speed)
            rate = sample_rate or clip.sample_rate
            samples = resample(samples, clip.sample_rate, rate)
            replace_file(output, file(samples, rate, kind.name))
        facts = bark.manifest(clip)
        plain = b""
        if store:
            # the sound itself, whatever the file was made of it: equal ids keep equal samples
            plain = file(clip.samples, clip.sample_rate, "wav")
            Generations(kept_in).hold(clip.id, "said")
            Generations(kept_in).save(clip.id, plain, "wav", clip.tokens.as_mapping(), facts)
        if save_voice is not None:
            preset = clip.tokens.checked(bark.spec)
            voices = Voices(kept_in)
            parents = parents_of(facts, voices, lambda own: is_own(own, bark.voices, voices))
            record = voice_record(
                preset, save_voice, generation_id=clip.id, parents=parents, consent=consent
            )
            voices.add(save_voice, preset, record)
    finally:
        bark.close()
    path = output or f"{data.rstrip('/')}/{audio_key(clip.id, 'wav')}"
    if as_json:
        print(json.dumps({"file": str(path), **facts}, ensure_ascii=False))
    else:
        _report(console, path, facts)
    if trace:
        for line in text_rows(Waterfall.of(clip.segments, facts["timings"]["total"])):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    if play_it:
        play(output.read_bytes() if output else plain, output.suffix if output else ".wav")


say.__doc__ = EXAMPLES


def _signer(certificate: Path | None, key: Path | None) -> FileSigner | None:
    """Return what signs files, if that is asked for."""
    from pipeline.audio.credentials import FileSigner

    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise InvalidRequest("--c2pa-certificate and --c2pa-key go together.")
    return FileSigner(certificate, key)


def _fields(
    text: str | None, dialogue: Path | None, chained: bool, settings: list[str]
) -> dict[str, Any]:
    """Gather the request's fields from text, file and --set."""
    fields: dict[str, Any] = {}
    if (text is None) == (dialogue is None):
        raise InvalidRequest("give either TEXT (or - for standard input) or --dialogue FILE.")
    if dialogue is not None:
        try:
            fields["turns"] = json.loads(dialogue.read_text())
        except (OSError, ValueError, RecursionError) as error:
            raise InvalidRequest(f"can not read {dialogue}: {error}") from error
    else:
        fields["text"] = sys.stdin.read() if text == "-" else text
    if chained:
        fields["long_form"] = "chained"
    for setting in settings:
        path, equals, value = setting.partition("=")
        if not equals:
            raise InvalidRequest(f"--set wants NAME=VALUE, not {setting!r}.")
        if path in OWN_OPTIONS:
            raise InvalidRequest(f"--set {path}: that is what {OWN_OPTIONS[path]} is for.")
        *groups, last = path.split(".")
        place = fields
        for group in groups:
            place = place.setdefault(group, {})
            if not isinstance(place, dict):
                raise InvalidRequest(f"--set {path}: {group} is given twice, in two forms.")
        try:
            place[last] = json.loads(value)
        except (ValueError, RecursionError):
            place[last] = value
    return fields


def _report(console: Console, path: Path | str, facts: dict[str, Any]) -> None:
    """Say on the terminal what was made, and what to know about it."""
    timings = facts["timings"]
    console.print(f"{path}", style="bold", highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"  id {facts['id']}   seed {facts['seed']}   {facts['duration_s']:.2f} s of sound in "
        f"{timings['total']:.2f} s (real-time factor {facts['real_time_factor']:.2f})",
        highlight=False,
        soft_wrap=True,
    )
    spent = "   ".join(
        f"{stage} {timings[stage]:.2f} s"
        for stage in ("semantic", "coarse", "fine", "codec")
        if stage in timings
    )
    console.print(f"  {spent}", style="dim", highlight=False)
    if facts["num_dropped"]:
        console.print(f"  note: {facts['num_dropped']} word pieces did not fit", style="yellow")
    if facts["unknown_words"]:
        words = ", ".join(facts["unknown_words"])
        console.print(f"  note: words unknown to the model: {words}", style="yellow", markup=False)
    if facts["finish_reason"] == "length":
        console.print("  note: the model was cut off at its longest", style="yellow")
