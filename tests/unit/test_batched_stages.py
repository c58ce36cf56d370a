"""Fine windows and codec pieces of several requests at once: each has what it has alone."""

import asyncio

import numpy as np
import pytest
from devices import DEVICES
from recorded_graph import RecordedGraph

from pipeline.engine.fine_runner import WINDOWS, FinePass, FineRunner
from pipeline.engine.graphs import capture
from pipeline.engine.runner import Device
from pipeline.models.checkpoint import open_checkpoint
from pipeline.models.seeded import build_seeded
from pipeline.payloads import FineCodes
from pipeline.stages.decoding import Call
from pipeline.workers import Placement, open_codec

LENGTHS = (1, 7, 128, 129, 300, 40, 256, 500, 90, 131)  # frames; pieces are of 128


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "tiny"
    build_seeded(path, size="tiny", seed=3)
    return open_checkpoint(path)


def fine_runner(checkpoint, device, backend, precision, graph=capture):
    spec = checkpoint.spec
    return FineRunner(
        lambda name: checkpoint.tensor("fine", name),
        spec.fine.gpt,
        device=Device(device, backend),
        precision=precision,
        num_codebooks=spec.fine.num_codebooks,
        num_given=spec.fine.num_given,
        codebook_size=spec.codebook_size,
        window=spec.fine.window,
        capture=graph,
    )


def passes(runner, count):
    rng = np.random.default_rng(3)
    for number in range(count):
        codes = rng.integers(0, 1000, (8, runner.window))
        codebook = 2 + number % 6
        known = sum(
            (runner.embed(k, codes[k]) for k in range(1, codebook)), runner.embed(0, codes[0])
        )
        yield FinePass(known, codes[codebook], codebook, first=100 * number)


@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-4), ("bf16", 0.05), ("int8", 0.05)])
@pytest.mark.parametrize("device", DEVICES)
def test_fine_pass_is_the_same_alone_and_beside_another(checkpoint, device, precision, bound):
    graph = RecordedGraph() if device == "cpu" else capture
    runner = fine_runner(checkpoint, device, "graph", precision, graph)
    plain = fine_runner(checkpoint, device, "torch", precision)
    assert (runner.batch_size, plain.batch_size) == (WINDOWS, 1)
    one, other = passes(runner, 2)
    alone = [runner.run([step])[0] for step in (one, other)]
    beside, turned = runner.run([one, other]), runner.run([other, one])[::-1]
    for first, again, swapped, step in zip(alone, beside, turned, (one, other), strict=True):
        assert first.shape == (runner.window - step.first, checkpoint.spec.codebook_size)
        assert first.tobytes() == again.tobytes() == swapped.tobytes()
        expected = plain.run([step])[0]
        assert np.abs(first - expected).max() < bound * np.abs(expected).std()
    if device == "cpu":
        assert graph.replays == 4


def decode(worker, codes):
    async def main():
        calls = (worker.stage(FineCodes(one), Call(seed=0)) for one in codes)
        return [sound.samples for sound, _ in await asyncio.gather(*calls)]

    return asyncio.run(main())


@pytest.mark.parametrize("device", DEVICES)
def test_sound_is_the_same_alone_and_beside_others(checkpoint, device):
    rng = np.random.default_rng(4)
    codes = [rng.integers(0, 1024, (8, length)).astype(np.int32) for length in LENGTHS]
    place = Placement(Device(device, "graph"))
    with open_codec(checkpoint, place) as worker:
        alone = [decode(worker, [one])[0] for one in codes]
        steps, rows = worker.engine.steps, worker.engine.counters.batched_rows
        together = decode(worker, codes)
        steps, rows = worker.engine.steps - steps, worker.engine.counters.batched_rows - rows
    assert rows > 1.5 * steps
    for length, one, beside in zip(LENGTHS, alone, together, strict=True):
        assert one.shape == (length * 320,)
        assert one.tobytes() == beside.tobytes()
    with open_codec(checkpoint, Placement(Device(device, "torch"))) as worker:
        for one, plain in zip(alone, decode(worker, codes), strict=True):
            assert np.abs(one - plain).max() < 1e-5
