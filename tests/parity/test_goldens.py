"""Every case that the original code made, from both checkpoint layouts, on both backends.

Tokens must be equal; audio may differ by 2e-4 (the codec's convolutions sum in another order).
"""

import json

import numpy as np
import pytest
from originals import shared_folder
from ways import DEVICES

from pipeline import Bark

AUDIO_TOLERANCE = 2e-4
LOGIT_TOLERANCE = 1e-4  # logits reach 24


def _cases(*kinds: str) -> list:
    folder = shared_folder()
    if folder is None:
        return [pytest.param(None, id="absent")]
    manifest = json.loads((folder / "goldens" / "manifest.json").read_text())
    return [pytest.param(c, id=c["name"]) for c in manifest["cases"] if c["kind"] in kinds]


@pytest.fixture(scope="module", params=DEVICES)
def where(request):
    return request.param


@pytest.fixture(scope="module", params=["hf_ckpt", "suno_ckpt"])
def bark(goldens, request, where):
    vocabulary = goldens / "hf_ckpt" / "vocab.txt"
    with Bark.load(goldens / request.param, tokenizer=vocabulary, **where) as bark:
        yield bark


def _voice(goldens, case):
    name = case["history"]
    if name is None:
        return None
    own = goldens / "histories" / f"{name}.npz"
    return (
        own if own.exists() else goldens.parent / f"data/presets/{name.replace('v2_', 'v2/')}.npz"
    )


@pytest.mark.parametrize("case", _cases("pipeline_greedy"))
def test_pipeline_stage_by_stage(bark, goldens, case):
    golden, voice = np.load(goldens / case["file"]), _voice(goldens, case)
    semantic = bark.text_to_semantic(
        case["text"], voice=voice, temperature=0.7, top_k=1, min_eos_p=0.2
    )
    np.testing.assert_array_equal(semantic, golden["semantic"])
    coarse = bark.semantic_to_coarse(golden["semantic"], voice=voice, temperature=0.7, top_k=1)
    np.testing.assert_array_equal(coarse, golden["coarse"])
    fine = bark.coarse_to_fine(golden["coarse"], voice=voice, temperature=0)
    np.testing.assert_array_equal(fine, golden["fine"])
    if "audio" in golden:
        sound = bark.decode(golden["fine"])
        np.testing.assert_allclose(sound, golden["audio"], rtol=0, atol=AUDIO_TOLERANCE)


@pytest.mark.parametrize("case", _cases("coarse_top1"))
def test_coarse_alone(bark, goldens, case):
    golden = np.load(goldens / case["file"])
    settings = case["coarse"]
    coarse = bark.semantic_to_coarse(
        golden["semantic_in"],
        voice=_voice(goldens, case),
        temperature=settings["temp"],
        top_k=settings["top_k"],
        max_history=settings.get("max_coarse_history"),
    )
    np.testing.assert_array_equal(coarse, golden["coarse"])


@pytest.mark.parametrize("case", _cases("fine_argmax"))
def test_fine_alone(bark, goldens, case):
    golden = np.load(goldens / case["file"])
    fine = bark.coarse_to_fine(golden["coarse_in"], voice=_voice(goldens, case), temperature=0)
    np.testing.assert_array_equal(fine, golden["fine"])


@pytest.mark.parametrize("case", _cases("logits"))
def test_logits_of_single_passes(bark, goldens, case):
    """Against single forward passes of the original: prefill, and six fine passes."""
    golden = np.load(goldens / case["file"])
    spec, runners = bark.spec, bark.stages
    ids = golden["semantic_input_513"].reshape(-1)
    slots = spec.semantic.prompt_length
    tokens = np.append(ids[:slots], ids[-1]).astype(np.int64)
    logits = runners.semantic_runner.extend(0, 0, tokens, ids[slots : 2 * slots].astype(np.int64))
    want = golden["semantic_logits"].reshape(-1)[: len(logits)]
    np.testing.assert_allclose(logits, want, atol=LOGIT_TOLERANCE)

    logits = runners.coarse_runner.extend(0, 0, golden["coarse_input"].astype(np.int64), None)
    first, last = spec.codebook_range(0)[0], spec.codebook_range(1)[1]
    want = golden["coarse_logits"].reshape(-1)[first:last]
    np.testing.assert_allclose(logits, want, atol=LOGIT_TOLERANCE)

    codes = golden["fine_input"].astype(np.int64)  # [1024, 8]
    hidden = runners.fine_runner.embed(0, codes[:, 0])
    for codebook in range(1, spec.fine.num_codebooks):
        hidden = hidden + runners.fine_runner.embed(codebook, codes[:, codebook])
        logits = runners.fine_runner.logits(hidden, codebook, 0, spec.fine.window)[::64]
        want = golden["fine_logits_nn1to7_every64"][codebook - 1, :, : spec.codebook_size]
        np.testing.assert_allclose(logits, want, atol=LOGIT_TOLERANCE)
