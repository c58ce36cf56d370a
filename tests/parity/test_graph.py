"""Whole generations with the tokens drawn on the device: the backend of CUDA, here on the CPU.

The two backends' attention adds in another order, and products of another shape round otherwise,
so their logits and their sound differ by roundings, and their ids by name; a token would only
differ where its number falls within such a rounding.
"""

import numpy as np
import pytest
from test_reproducibility import SEED, SHORT, TEXT, digest

from pipeline import Bark


def test_tokens_are_those_that_the_host_draws(tiny):
    """In fp32. In the other precisions `torch` rounds what attention gives to bf16, `graph` not."""
    clips = []
    for backend in ("torch", "graph"):
        with Bark.load(tiny, slots=3, device="cpu", backend=backend, precision="fp32") as bark:
            clips.append(bark.generate(TEXT, seed=SEED, semantic=SHORT))
    theirs, ours = (clip.tokens.as_mapping() for clip in clips)
    for name, codes in theirs.items():
        assert np.array_equal(codes, ours[name]), name
    assert np.abs(clips[0].samples - clips[1].samples).max() < 1e-5
    assert clips[0].id != clips[1].id


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_full_batch_gives_each_request_what_it_has_alone(tiny, precision):
    filters = {"top_k": 50, "top_p": 0.9}
    others = [
        {"text": f"number {n}", "seed": n, "semantic": SHORT | filters, "coarse": filters}
        for n in range(4)
    ]
    one = {"text": TEXT, "seed": SEED, "semantic": SHORT}
    with Bark.load(tiny, slots=3, device="cpu", backend="graph", precision=precision) as bark:
        alone = bark.generate(**one)
        clips = bark.generate_many([*others, one])
    assert digest(clips[-1]) == digest(alone)
    assert max(report.mean_batch for clip in clips for report in clip.reports) > 1
