"""One request, one sha256: whatever its slot, its neighbours, their coming, going or cancelling.

Really concurrent: the neighbours run on the same engines while the request does, so that every
run meets another interleaving; the result must not notice.
"""

import asyncio
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ways import NEEDS_KERNELS, WAYS

from pipeline import Bark

TEXT, SEED = "Hello [laughs] world", 7
SHORT = {"max_duration_s": 0.5, "allow_early_stop": False}


def digest(clip) -> str:
    sha = hashlib.sha256(clip.samples.tobytes())
    for array in clip.tokens.as_mapping().values():
        sha.update(array.tobytes())
    return sha.hexdigest()


@pytest.fixture(scope="module", params=WAYS)
def way(request):
    return request.param


@pytest.fixture(scope="module")
def bark(tiny, way):
    with Bark.load(tiny, slots=4, **way) as bark:
        yield bark


@pytest.fixture(scope="module")
def alone(bark):
    return digest(bark.generate(TEXT, seed=SEED, semantic=SHORT))


neighbours = st.lists(
    st.tuples(
        st.integers(0, 1000),  # seed
        st.floats(0, 0.25),  # seconds until it comes
        st.none() | st.floats(0.001, 0.25),  # seconds until it is cancelled
        st.sampled_from([0.1, 0.5, 0.9]),  # length
    ),
    max_size=6,
)


@settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(company=neighbours, delay_s=st.floats(0, 0.1))
def test_bytes_do_not_depend_on_company(bark, alone, company, delay_s):
    async def neighbour(seed, comes_s, goes_s, length_s):
        await asyncio.sleep(comes_s)
        work = bark.generate_async(
            f"neighbour number {seed}",
            seed=seed,
            semantic={"max_duration_s": length_s, "allow_early_stop": False},
        )
        try:
            await asyncio.wait_for(work, goes_s)
        except TimeoutError:
            return

    async def main():
        others = [asyncio.create_task(neighbour(*one)) for one in company]
        await asyncio.sleep(delay_s)
        clip = await bark.generate_async(TEXT, seed=SEED, semantic=SHORT)
        await asyncio.gather(*others)
        return clip

    assert digest(asyncio.run(main())) == alone


def test_full_batch_gives_each_request_what_it_has_alone(bark, alone):
    requests = [{"text": f"number {n}", "seed": n, "semantic": SHORT} for n in range(5)]
    requests.insert(3, {"text": TEXT, "seed": SEED, "semantic": SHORT})
    clips = bark.generate_many(requests)
    assert digest(clips[3]) == alone
    assert max(report.mean_batch for clip in clips for report in clip.reports) > 1
    assert len({digest(clip) for clip in clips}) == len(clips)


def test_another_seed_gives_other_bytes(bark, alone):
    assert digest(bark.generate(TEXT, seed=SEED + 1, semantic=SHORT)) != alone


def test_stages_by_hand_give_the_generations_tokens(bark):
    clip = bark.generate(TEXT, seed=SEED, semantic=SHORT)
    semantic = bark.text_to_semantic(TEXT, seed=SEED, **SHORT)
    coarse = bark.semantic_to_coarse(semantic, seed=SEED)
    fine = bark.coarse_to_fine(coarse, seed=SEED)
    assert (bark.decode(fine) == clip.samples).all()


CHILD = """
import json, sys
from pipeline import Bark
from test_reproducibility import SEED, SHORT, TEXT, digest
path, way, slots = sys.argv[1:]
with Bark.load(path, slots=int(slots), **json.loads(way)) as bark:
    clip = bark.generate(TEXT, seed=SEED, semantic=SHORT)
    print(json.dumps([clip.id, digest(clip)]))
"""


def in_a_fresh_process(tiny, way, *, slots, **environment):
    folder = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(tiny), json.dumps(way), str(slots)],
        env={**os.environ, "PYTHONPATH": folder, "PYTHONHASHSEED": "random", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_bytes_and_id_are_equal_in_a_fresh_process(tiny, way, bark, alone):
    there = in_a_fresh_process(tiny, way, slots=4)
    here = bark.generate(TEXT, seed=SEED, semantic=SHORT)
    assert there == [here.id, alone]


@NEEDS_KERNELS
def test_native_bytes_do_not_depend_on_slots_or_threads(tiny, way, alone):
    if way["backend"] != "native":
        return  # slots and threads are part of the torch backend's device class
    for threads in ("1", "3"):
        assert in_a_fresh_process(tiny, way, slots=9, OMP_NUM_THREADS=threads)[1] == alone
