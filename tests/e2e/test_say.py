"""The command line as a person uses it: real processes, real files, a real Ctrl-C."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import soundfile
from certificates import Authority

from pipeline.audio import read_label

SHORT = ["--set", "semantic.max_duration_s=0.4", "--set", "semantic.allow_early_stop=false"]


def test_say_writes_a_labelled_wav_and_keeps_the_generation(run, tmp_path):
    done = run("say", "Hello", "-o", "hello.wav", "--seed", 7, "--json", *SHORT)
    facts = json.loads(done.stdout)
    samples, rate = soundfile.read(tmp_path / "hello.wav")
    assert rate == 24_000
    assert len(samples) == round(facts["duration_s"] * rate)
    assert np.abs(samples).max() > 0.001
    label = read_label(tmp_path / "hello.wav")
    assert label["model"] == "nano"
    assert label["generation_id"] == facts["id"]
    kept = tmp_path / "bark-data" / "generations" / facts["id"][:2] / facts["id"]
    assert json.loads((kept / "manifest.json").read_text())["seed"] == 7
    assert set(np.load(kept / "tokens.npz")) == {"semantic_prompt", "coarse_prompt", "fine_prompt"}


def test_same_seed_gives_the_same_file(run, tmp_path):
    for name in ("a.wav", "b.wav"):
        run("say", "Hello", "-o", name, "--seed", 7, "--no-store", *SHORT)
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()
    assert not (tmp_path / "bark-data").exists()


def test_generation_becomes_a_voice_that_changes_the_sound(run, tmp_path):
    first = json.loads(run("say", "Hello", "--seed", 1, "--json", *SHORT).stdout)
    run("voices", "from-generation", first["id"], "narrator")
    assert run("voices", "list").stdout.split() == ["heart", "narrator", "oak"]
    shown = json.loads(run("voices", "show", "narrator", "--json").stdout)
    assert shown["record"]["source"] == "generation"
    assert shown["record"]["generation_id"] == first["id"]
    with_voice = json.loads(
        run("say", "Hello", "--seed", 1, "-v", "narrator", "--json", *SHORT).stdout
    )
    assert with_voice["samples_sha256"] != first["samples_sha256"]
    assert with_voice["voice_digests"] == {"narrator": shown["digest"]}
    path = tmp_path / "bark-data" / "voices" / "narrator.npz"
    refused = run("voices", "add", path, "--name", "copy", ok=False)
    assert refused.returncode == 2
    assert "whose voice it is" in refused.stderr
    run("voices", "add", path, "--name", "copy", "--consent", "my own voice")
    shown = json.loads(run("voices", "show", "copy", "--json").stdout)
    assert (shown["record"]["source"], shown["record"]["consent"]) == ("upload", "my own voice")
    run("voices", "rm", "narrator")
    assert run("voices", "list").stdout.split() == ["copy", "heart", "oak"]


def test_costs_are_summed_up(run):
    for seed, voice in ((1, "heart"), (2, "heart"), (3, "oak"), (3, "oak")):  # one twice: made once
        run("say", "Hello", "--seed", seed, "-v", voice, *SHORT)
    told = json.loads(run("cost", "--json", "--price", 36).stdout)
    assert {name: row["generations"] for name, row in told["voice"].items()} == {
        "heart": 2,
        "oak": 1,
    }
    total = told["total"]
    assert total["generations"] == 3
    assert total["device_s"] == pytest.approx(
        sum(total[f"{stage}_s"] for stage in ("semantic", "coarse", "fine", "codec")), abs=0.003
    )
    assert total["price"] == pytest.approx(total["device_s"] / 100, rel=0.01)
    (day,) = json.loads(run("cost", "--by", "day", "--json").stdout)["day"]
    assert day == datetime.now(UTC).date().isoformat()
    assert "total" in run("cost", "--by", "model").stdout
    assert "--by is one of" in run("cost", "--by", "moon", ok=False).stderr


def test_where_the_time_went_is_shown(run):
    shown = run("say", "Hello", "--trace", *SHORT).stderr.splitlines()
    bars = [line for line in shown if "|" in line]
    assert [line.split("|")[0].strip() for line in bars] == ["semantic", "coarse", "fine", "codec"]
    assert all("█" in line.split("|")[1] and "tokens" in line for line in bars)


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "opus", "aac"])
def test_a_file_is_verified(run, tmp_path, suffix):
    name = f"a.{suffix}"
    run("say", "Hello", "-o", name, "--seed", 7, "-v", "oak", *SHORT)
    if suffix != "aac":
        assert soundfile.info(tmp_path / name).frames > 1000
    report = json.loads(run("verify", name, "--json").stdout)
    assert report["is_verified"]
    states = {finding["subject"]: finding["state"] for finding in report["findings"]}
    assert (states.pop("watermark"), states.pop("credentials")) == ("absent", "absent")
    assert set(states.values()) == {"same"}
    by_id = run("verify", report["generation_id"])
    assert by_id.stdout.splitlines()[-1] == "verified"


def test_what_is_not_as_it_was_is_told(run, tmp_path):
    words = ("say", "Hello", "-o", "a.wav", "--seed", 7, "--save-voice", "mine", "--json")
    first = json.loads(run(*words, *SHORT).stdout)["id"]
    run("say", "Hello", "-o", "b.wav", "--seed", 7, "-v", "mine", *SHORT)
    run("say", "Hello", "-o", "fast.wav", "--seed", 7, "--speed", 2, *SHORT)

    def lines(*words):
        done = run("verify", *words, ok=False)
        assert done.returncode == 1
        assert done.stdout.splitlines()[-1] == "NOT verified"
        return done.stdout

    wav = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "touched.wav").write_bytes(wav[:-5] + bytes([wav[-5] ^ 1]) + wav[-4:])
    assert "✗ file" in lines("touched.wav")
    assert "at another --speed" in lines("fast.wav")
    assert run("verify", "fast.wav", "--speed", 2).returncode == 0
    # another voice under the same name
    run("voices", "rm", "mine")
    run("say", "Other words", "--seed", 1, "--save-voice", "mine", *SHORT)
    told = lines("b.wav")
    assert "✗ voice digests" in told
    assert "✗ samples" in told
    run("voices", "rm", "mine")
    assert "no voice preset 'mine'" in lines("b.wav")
    # a manifest of another model
    path = tmp_path / "bark-data" / "generations" / first[:2] / first / "manifest.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps({**facts, "model_digest": "0" * 64}))
    assert "✗ model digest" in run("verify", facts["id"], ok=False).stdout
    # not in this store; not ours; no sound
    assert "– manifest" in lines("a.wav", "--data", "elsewhere")
    soundfile.write(tmp_path / "foreign.wav", np.zeros(1000), 24_000)
    assert "– label" in lines("foreign.wav")
    (tmp_path / "text.wav").write_text("no sound")
    refused = run("verify", "text.wav", ok=False)
    assert (refused.returncode, "no sound" in refused.stderr) == (2, True)
    assert "no generation" in run("verify", "0" * 32, ok=False).stderr


def test_a_marked_sound_is_verified(run):
    words = ("say", "Hello", "-o", "a.mp3", "--seed", 7, "--watermark", "--json")
    assert json.loads(run(*words, *SHORT).stdout)["watermark"] == "perth 1.0.1"
    assert "✓ watermark        perth 1.0.1 is found" in run("verify", "a.mp3").stdout


def test_a_signed_file_is_verified(run, tmp_path):
    authority = Authority(tmp_path)
    certificate, key = authority.issue("bark")
    pair = ("--c2pa-certificate", certificate, "--c2pa-key", key)
    run("say", "Hello", "-o", "a.mp3", "--seed", 7, "-v", "oak", *pair, *SHORT)
    told = run("verify", "a.mp3", "--c2pa-anchors", authority.anchors).stdout
    assert "✓ credentials      signed by bark of Tests, trusted; untouched since" in told
    # the sound is as it was, but the label names another voice
    signed = (tmp_path / "a.mp3").read_bytes()
    (tmp_path / "b.mp3").write_bytes(signed.replace(b"voice=oak", b"voice=elm"))
    refused = run("verify", "b.mp3", ok=False)
    assert refused.returncode == 1
    assert "✓ file" in refused.stdout
    assert "✗ credentials      changed since it was signed: assertion.data" in refused.stdout
    assert refused.stdout.splitlines()[-1] == "NOT verified"


def test_a_certificate_that_will_not_do_is_refused_before_the_work(run, tmp_path):
    certificate, _ = Authority(tmp_path).issue("bark")
    _, other = Authority(tmp_path).issue("other")
    for pair, says in (
        (("--c2pa-certificate", certificate), "go together"),
        (("--c2pa-certificate", certificate, "--c2pa-key", other), "other.key is not the key"),
    ):
        done = run("say", "Hello", "-o", "x.wav", *pair, ok=False)
        assert (done.returncode, says in done.stderr) == (2, True), done.stderr
    assert not (tmp_path / "x.wav").exists()


def test_dialogue_and_standard_input(run, tmp_path):
    (tmp_path / "talk.json").write_text('[{"text": "Hello."}, {"text": "Good day."}]')
    facts = json.loads(run("say", "--dialogue", "talk.json", "--json", *SHORT).stdout)
    assert facts["num_segments"] == 2
    assert run("say", "-", "-o", "x.wav", *SHORT, input="Hello from a pipe").returncode == 0


BAD = [
    pytest.param(["say", ""], 2, "empty", id="empty text"),
    pytest.param(["say", "a\x07b"], 2, "U+0007", id="control character"),
    pytest.param(["say", "a" * 100_000], 2, "limit", id="100,000 characters"),
    pytest.param(["say", b"caf\xe9\xff"], 2, "U+DC", id="bytes that are no text"),
    pytest.param(["say", "hi", "--set", "semantic.temperature=NaN"], 2, "temperature", id="nan"),
    pytest.param(["say", "hi", "--set", "coarse.temperature=-1"], 2, "temperature", id="negative"),
    pytest.param(["say", "hi", "--set", "semantic.top_k=0"], 2, "top_k", id="top_k 0"),
    pytest.param(["say", "hi", "--seed", "9223372036854775808"], 2, "seed", id="seed"),
    pytest.param(["say", "hi", "-v", "nobody"], 2, "nobody", id="unknown voice"),
    pytest.param(["say", "hi", "-o", "x.xyz"], 2, "xyz", id="unknown format"),
    pytest.param(["say", "hi", "-o", "no/such/x.wav"], 2, "no folder", id="no folder"),
    pytest.param(["say", "hi", "-m", "nosuchmodel"], 1, "nosuchmodel", id="unknown model"),
    pytest.param(["say", "hi", "-p", "fp8"], 2, "fp8", id="unknown precision"),
    pytest.param(["say", "hi", "--device", "tpu"], 2, "tpu", id="unknown device"),
    pytest.param(["say", "hi", "--device", "mps"], 2, "mps", id="another device"),
    pytest.param(["say", "hi", "--set", "seed=5"], 2, "--seed", id="set what has an option"),
    pytest.param(["say", "hi", "--set", "semantic=5"], 2, "semantic", id="set a group"),
    pytest.param(
        ["say", "hi", "--set", "fine=5", "--set", "fine.temperature=1"], 2, "twice", id="set twice"
    ),
    pytest.param(["say", "hi", "-m", "[/x]"], 1, "[/x]", id="model that looks like markup"),
    pytest.param(["say", "hi", "--save-voice", "../x"], 2, "../x", id="voice name"),
    pytest.param(["say", "hi", "-v", "no.npz"], 2, "no.npz", id="absent voice file"),
    pytest.param(["say", "hi", "--speed", "2"], 2, "-o FILE", id="speed without a file"),
    pytest.param(["say", "--nope"], 2, "nope", id="unknown option"),
    pytest.param(["say"], 2, "TEXT", id="no text"),
    pytest.param(["voices", "add", "absent.npz"], 2, "absent.npz", id="absent preset"),
    pytest.param(["voices", "rm", "nobody"], 2, "nobody", id="absent voice"),
]


@pytest.mark.parametrize(("words", "code", "says"), BAD)
def test_wrong_input_gets_one_clear_line(tmp_path, words, code, says):
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", *words],
        cwd=tmp_path,
        capture_output=True,
        env={**os.environ, "COLUMNS": "200", "TERM": "dumb"},
        check=False,
        timeout=120,
    )
    errors = done.stderr.decode()
    assert done.returncode == code, errors
    assert says in errors
    assert "Traceback" not in errors
    assert not list(tmp_path.glob("*.wav"))


def test_wrong_preset_is_explained(run, tmp_path):
    np.savez(
        tmp_path / "bad.npz",
        semantic_prompt=np.zeros(10, int),
        coarse_prompt=np.zeros((3, 15), int),
        fine_prompt=np.zeros((8, 15), int),
    )
    done = run("voices", "add", "bad.npz", ok=False)
    assert done.returncode == 2
    assert "coarse_prompt must be [2, m]" in done.stderr


def test_presets_are_imported_from_a_folder_into_a_bucket(run, tmp_path, s3):
    rng = np.random.default_rng(0)
    for name in ("my/de_voice", "my/fr_voice", "other"):
        path = tmp_path / "presets" / f"{name}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        fine = rng.integers(0, 1024, (8, 15))
        np.savez(
            path,
            semantic_prompt=rng.integers(0, 10_000, 10),
            coarse_prompt=fine[:2],
            fine_prompt=fine,
        )
    where = ("--data", s3.location("imported").url)
    asked = run("voices", "import", "presets", "--only", "my/*", *where, ok=False)
    assert asked.returncode == 1  # these are random: nobody knows whose voices they are
    assert asked.stderr.count("whose voice it is") == 2
    given = ("--only", "my/*", "--consent", "nobody's voices")
    done = run("voices", "import", "presets", *given, *where)
    assert done.stdout.split()[0] == "2"
    again = run("voices", "import", "presets", *given, *where)
    assert again.stdout == done.stdout
    listed = run("voices", "list", *where).stdout.split()
    assert listed == ["heart", "my/de_voice", "my/fr_voice", "oak"]
    run("voices", "rm", "my/de_voice", *where)
    assert "my/de_voice" not in run("voices", "list", *where).stdout


def test_a_bucket_keeps_generations_and_voices(run, tmp_path, s3):
    where = ("--data", s3.location("said").url)
    first = json.loads(run("say", "Hello", "--seed", 1, "--json", *SHORT, *where).stdout)
    assert first["file"] == f"{where[1]}/generations/{first['id'][:2]}/{first['id']}/audio.wav"
    run("voices", "from-generation", first["id"], "narrator", *where)
    told = run("say", "Hello", "--seed", 1, "-v", "narrator", "--json", *SHORT, *where).stdout
    assert list(json.loads(told)["voice_digests"]) == ["narrator"]
    assert not (tmp_path / "bark-data").exists()
    assert "decides races" in run("doctor", "--no-speak", *where).stdout
    broken = run("say", "hi", "--data", "s3://no-such-bucket/x", "-v", "nobody", ok=False)
    assert broken.returncode == 1
    assert "the bucket does not exist" in broken.stderr


def test_full_disk_is_reported_and_leaves_no_file(run, tmp_path):
    """A file size limit stands in for the full disk: the same failing write."""

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, 5_000))

    done = run("say", "Hello", "-o", "x.wav", "--no-store", *SHORT, ok=False, preexec_fn=limit)
    assert done.returncode == 1
    assert "x.wav" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_interrupt_in_the_middle_leaves_no_file(tmp_path):
    text = "This is a long story about a dog. " * 500
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "say", text, "-o", "x.wav", "--no-store"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
    )
    while "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text():
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(4)  # in the middle of it
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors.decode()
    assert b"Traceback" not in errors
    assert list(tmp_path.iterdir()) == []


def test_doctor_reports_every_part(run):
    findings = json.loads(run("doctor", "--json", "--no-speak").stdout)
    states = {finding["subject"]: finding["state"] for finding in findings}
    assert states["torch"] == states["audio"] == states["model"] == states["store"] == "ok"


def test_doctor_fails_on_a_broken_model(run, tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{}")
    done = run("doctor", "-m", "./broken", "--no-speak", ok=False)
    assert done.returncode == 1
    assert "✗" in done.stdout
