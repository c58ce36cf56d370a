"""The public face: voices, dialogue, deadlines, bad input that leaves the engine serving."""

import asyncio
import threading
import time

import numpy as np
import pytest

from pipeline import Bark
from pipeline.errors import (
    BarkError,
    DeadlineExceeded,
    EngineFailed,
    InvalidCheckpoint,
    InvalidRequest,
    InvalidVoice,
    VoiceNotFound,
)

SHORT = {"max_duration_s": 0.5, "allow_early_stop": False}


@pytest.fixture(scope="module")
def bark(tiny):
    with Bark.load(tiny, device="cpu", slots=2) as bark:
        yield bark


@pytest.fixture(scope="module")
def clip(bark):
    return bark.generate("Hello world", seed=1, semantic=SHORT)


def test_clip_holds_what_the_contract_says(clip):
    assert clip.samples.dtype == np.float32
    assert clip.samples.shape == (clip.tokens.fine.shape[1] * 320,)
    assert (clip.sample_rate, clip.seed, clip.finish_reason) == (24_000, 1, "length")
    assert clip.tokens.semantic.dtype == np.int64
    assert clip.tokens.coarse.dtype == clip.tokens.fine.dtype == np.int32
    assert (clip.tokens.fine[:2] == clip.tokens.coarse).all()
    assert {"semantic", "coarse", "fine", "codec", "total"} <= set(clip.timings)


def test_chosen_seed_is_reported_and_makes_the_clip_again(bark):
    first = bark.generate("Hello", semantic=SHORT)
    again = bark.generate("Hello", semantic=SHORT, seed=first.seed)
    assert (again.samples == first.samples).all()
    assert again.id == first.id


def test_generation_is_a_voice_by_mapping_path_and_name(bark, clip, tmp_path):
    np.savez(tmp_path / "me.npz", **clip.tokens.as_mapping())
    plain = bark.generate("Hello", seed=2, semantic=SHORT)
    by_mapping = bark.generate("Hello", seed=2, semantic=SHORT, voice=clip.tokens.as_mapping())
    by_path = bark.generate("Hello", seed=2, semantic=SHORT, voice=str(tmp_path / "me.npz"))
    assert (by_mapping.samples == by_path.samples).all()
    assert by_mapping.id == by_path.id != plain.id
    assert (by_mapping.samples != plain.samples).any()


def test_dialogue_of_two_voices_is_joined_with_silence(bark, clip):
    turns = [{"text": "Hello."}, {"text": "Good day."}]
    both = bark.generate(turns=turns, seed=3, silence_s=0.5, semantic=SHORT)
    first, second = (result.sound.samples for result in both.segments)
    gap = both.samples[len(first) : len(first) + 12_000]
    assert (gap == 0).all()
    assert len(both.samples) == len(first) + 12_000 + len(second)


def test_long_text_is_split_and_chained(bark):
    text = "One sentence that is here to be long enough to be split off. " * 6
    parallel = bark.generate(text, seed=4, semantic=SHORT)
    chained = bark.generate(text, seed=4, semantic=SHORT, long_form="chained")
    assert len(parallel.segments) == len(chained.segments) > 1
    first = parallel.segments[0].sound.samples
    assert (chained.segments[0].sound.samples == first).all()
    assert (chained.segments[1].sound.samples != parallel.segments[1].sound.samples).any()


@pytest.mark.parametrize("given", range(1, 8))
def test_fine_accepts_one_to_seven_codebooks(bark, clip, given):
    fine = bark.coarse_to_fine(clip.tokens.fine[:given], seed=5)
    assert fine.shape == clip.tokens.fine.shape
    assert (fine[:given] == clip.tokens.fine[:given]).all()


def test_fine_temperature_one_samples(bark, clip):
    """transformers takes 1.0 for greedy; the original draws."""
    coarse = clip.tokens.coarse
    greedy = bark.coarse_to_fine(coarse, temperature=0, seed=6)
    assert (bark.coarse_to_fine(coarse, temperature=None, seed=6) == greedy).all()
    assert (bark.coarse_to_fine(coarse, temperature=1.0, seed=6) != greedy).any()


def good_voice():
    return {
        "semantic_prompt": np.zeros(100, np.uint16),
        "coarse_prompt": np.zeros((2, 150), np.int16),
        "fine_prompt": np.zeros((8, 150), np.float32),
    }


def broken(**arrays):
    return good_voice() | arrays


BAD = [
    pytest.param({"text": ""}, InvalidRequest, id="empty"),
    pytest.param({"text": "a\x00b"}, InvalidRequest, id="control character"),
    pytest.param({"text": "x" * 100_000}, InvalidRequest, id="too long"),
    pytest.param({"text": "\udc80"}, InvalidRequest, id="lone surrogate"),
    pytest.param({"semantic": {"temperature": float("nan")}}, InvalidRequest, id="nan"),
    pytest.param({"coarse": {"temperature": -1}}, InvalidRequest, id="negative temperature"),
    pytest.param({"semantic": {"top_k": 0}}, InvalidRequest, id="top_k 0"),
    pytest.param({"seed": 2**63}, InvalidRequest, id="seed out of range"),
    pytest.param({"voice": "nobody"}, VoiceNotFound, id="unknown voice"),
    pytest.param({"voice": "/no/such.npz"}, VoiceNotFound, id="absent file"),
    pytest.param({"voice": {}}, InvalidVoice, id="no arrays"),
    pytest.param(
        {"voice": broken(coarse_prompt=np.zeros((3, 150), int))}, InvalidVoice, id="three rows"
    ),
    pytest.param(
        {"voice": broken(semantic_prompt=np.full(100, 10_000))}, InvalidVoice, id="out of range"
    ),
    pytest.param(
        {"voice": broken(coarse_prompt=np.zeros((2, 100), int))}, InvalidVoice, id="ratio"
    ),
    pytest.param(
        {"voice": broken(fine_prompt=np.full((8, 150), 0.5))}, InvalidVoice, id="fractions"
    ),
    pytest.param({"coarse": {"max_history": 10}}, InvalidRequest, id="tiny history"),
    pytest.param({"timeout_s": 0.001}, DeadlineExceeded, id="no time"),
]


@pytest.mark.parametrize(("fields", "kind"), BAD)
def test_bad_input_is_named_and_leaves_the_engine_serving_others(bark, clip, fields, kind):
    """A good request runs all the while, and gives the bytes that it always gives."""

    async def main():
        good = asyncio.create_task(bark.generate_async("Hello world", seed=1, semantic=SHORT))
        await asyncio.sleep(0.01)
        with pytest.raises(kind) as caught:
            await bark.generate_async(**{"text": "Hello", **fields})
        assert isinstance(caught.value, BarkError)
        assert len(caught.value.message) > 10
        return await good

    assert (asyncio.run(main()).samples == clip.samples).all()


def test_arrays_of_other_integer_types_are_cast(bark):
    assert bark.voice(good_voice()).semantic.dtype == np.int64


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda b: b.semantic_to_coarse(np.array([], int)), id="empty semantic"),
        pytest.param(lambda b: b.semantic_to_coarse(np.array([10_000])), id="semantic range"),
        pytest.param(lambda b: b.semantic_to_coarse(np.array([0.5])), id="semantic floats"),
        pytest.param(lambda b: b.coarse_to_fine(np.zeros((8, 4), int)), id="eight given"),
        pytest.param(lambda b: b.coarse_to_fine(np.zeros((2, 0), int)), id="no frames"),
        pytest.param(lambda b: b.coarse_to_fine(np.full((2, 4), 1024)), id="code range"),
        pytest.param(lambda b: b.decode(np.zeros((8, 0), int)), id="nothing to decode"),
        pytest.param(lambda b: b.decode(np.zeros(8, int)), id="one axis"),
        pytest.param(lambda b: b.text_to_semantic("hi", temperature=-1), id="temperature"),
        pytest.param(lambda b: b.coarse_to_fine(np.zeros((2, 4), int), seed=-1), id="seed"),
    ],
)
def test_stages_called_by_hand_refuse_what_they_can_not_use(bark, call):
    with pytest.raises(InvalidRequest):
        call(bark)


def test_generate_many_fails_as_a_whole_and_goes_on_afterwards(bark, clip):
    with pytest.raises(InvalidRequest):
        bark.generate_many(["Hello", {"text": "Hello", "seed": -1}])
    assert (bark.generate("Hello world", seed=1, semantic=SHORT).samples == clip.samples).all()


def test_many_threads_share_one_model(bark, clip):
    results = {}

    def work(n):
        results[n] = bark.generate("Hello world", seed=1, semantic=SHORT)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all((one.samples == clip.samples).all() for one in results.values())
    assert len(results) == 5


def test_generate_works_inside_a_running_event_loop(bark, clip):
    async def main():
        return bark.generate("Hello world", seed=1, semantic=SHORT)

    assert (asyncio.run(main()).samples == clip.samples).all()


def test_failing_progress_callback_harms_nobody(bark, clip):
    def progress(*report):
        raise RuntimeError("the caller's own mistake")

    noisy = bark.generate("Hello world", seed=1, semantic=SHORT, progress=progress)
    assert (noisy.samples == clip.samples).all()


@pytest.mark.parametrize("temperature", [1e-30, 1e-8, 10])
def test_extreme_temperatures_still_draw(bark, temperature):
    settings = {**SHORT, "temperature": temperature}
    assert bark.generate("Hello", seed=1, semantic=settings).duration_s > 0


@pytest.mark.parametrize("seed", [0, 2**63 - 1])
def test_extreme_seeds_are_seeds(bark, seed):
    assert bark.generate("Hello", seed=seed, semantic=SHORT).seed == seed


def test_close_ends_requests_in_flight_and_refuses_later_ones(tiny):
    bark = Bark.load(tiny, device="cpu", slots=2)
    errors = []

    def work():
        try:
            bark.generate("Hello world", semantic={"allow_early_stop": False})
        except EngineFailed as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    while not bark.stages.num_running:
        time.sleep(0.001)
    bark.close()
    for thread in threads:
        thread.join(timeout=20)
    assert len(errors) == 5
    with pytest.raises(EngineFailed):
        bark.generate("Hello")
    bark.close()


def test_weights_that_are_no_numbers_fail_by_name(tiny, tmp_path):
    import shutil

    import safetensors.torch

    shutil.copytree(tiny, tmp_path / "broken")
    path = tmp_path / "broken" / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    tensors["semantic.layernorm_final.weight"][3] = float("nan")
    safetensors.torch.save_file(tensors, path)
    for backend in ("torch", "auto"):
        with (
            pytest.raises(InvalidCheckpoint, match=r"norm_final\.weight holds"),
            Bark.load(tmp_path / "broken", device="cpu", backend=backend, slots=1) as bark,
        ):
            bark.generate("Hello", seed=1)


def test_vocabulary_from_elsewhere_changes_the_id(tiny, tmp_path):
    """Equal tokens even, but another file decided them."""
    other = tmp_path / "vocab.txt"
    other.write_text((tiny / "vocab.txt").read_text() + "zzz\n")
    ids = []
    for vocabulary in (None, tiny / "vocab.txt", other):
        with Bark.load(tiny, device="cpu", slots=1, tokenizer=vocabulary) as bark:
            ids.append(bark.generate("Hello", seed=1, semantic=SHORT).id)
    assert ids[0] == ids[1] != ids[2]
