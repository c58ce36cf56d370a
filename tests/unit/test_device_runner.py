"""Decode steps that draw on the device, on a CPU: the same functions, replayed as CUDA would.

A tiny model of random weights. The reference is the engine over the same weights with logits on
the host. No row of it ever sees another, so equal tokens are proof of slots, masks and late reads.
"""

import zlib
from dataclasses import fields
from functools import partial

import numpy as np
import pytest
import torch
from devices import DEVICES
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded_graph import RecordedGraph
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from pipeline.engine.device_runner import DeviceRunner
from pipeline.engine.engine import Engine
from pipeline.engine.graphs import capture
from pipeline.engine.runner import CausalRunner, Device
from pipeline.engine.sequence import Prompt, SamplingParams, Sequence
from pipeline.engine.uniforms import DrawKey
from pipeline.errors import EngineFailed
from pipeline.models.decode_attention import SPLIT
from pipeline.spec import PRECISIONS, GPTShape
from pipeline.workers import Placement

VOCAB, WIDTH, POSITIONS, SLOTS = 60, 16, SPLIT + 32, 3
HEAD = (10, 51)
STOP = 50
POISON = 59  # a token whose embedding is no number
SHAPE = GPTShape(
    num_layers=2,
    num_heads=2,
    width=WIDTH,
    block_size=POSITIONS,
    input_vocab=VOCAB,
    output_vocab=VOCAB,
)


def read(name: str) -> torch.Tensor:
    draw = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    d, rows = WIDTH, {"attention_in": 3 * WIDTH, "mlp_in": 4 * WIDTH}
    part = name.split(".")[-2]
    if "norm" in name:
        return 1 + 0.1 * torch.randn(d, generator=draw)
    if part in ("token_embedding", "head", "position_embedding"):
        size = POSITIONS if part == "position_embedding" else VOCAB
        table = torch.randn(size, d, generator=draw)
        if part == "token_embedding":
            table[POISON] = torch.nan
        return table
    return torch.randn(rows.get(part, d), 4 * d if part == "mlp_out" else d, generator=draw) / 3


def runner_on(where, kind=DeviceRunner, *, precision="fp32", slots=SLOTS, **more):
    return kind(
        read,
        SHAPE,
        device=Device(where, "graph" if kind is DeviceRunner else "torch"),
        precision=precision,
        num_slots=slots,
        max_positions=POSITIONS,
        head_range=HEAD,
        **more,
    )


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # matrices of a few numbers: a second one would only be waited for
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=DEVICES)
def runner(request):
    return partial(runner_on, request.param)


@pytest.fixture(scope="module")
def device_runner(runner):
    """One for all tests: what a sequence leaves behind must not matter to the next."""
    return runner(capture=WAYS[-1].values[0])


# On CUDA the graph is a real one. The function itself, without a graph, is there a proof of it.
WAYS = [
    pytest.param(lambda function, device: function, id="called"),
    pytest.param(capture if torch.cuda.is_available() else RecordedGraph(), id="replayed"),
]


def plain(seed: int, **fields) -> Sequence:
    """Like the semantic stage's: summed prompt, a stop; rules that differ by the seed."""
    settings = {
        "temperature": [0.8, 0, 1.2][seed % 3],
        "top_k": [None, 9][seed % 2],
        "top_p": [None, None, 0.9, None, None][seed % 5],
        "min_stop_p": [0.2, None][seed % 2],
        "max_tokens": 14,
    } | fields
    rng = np.random.default_rng(seed)
    prompt = Prompt(rng.integers(0, 50, 6 + seed % 4), rng.integers(0, 50, 4))
    params = SamplingParams(allowed=((10, 50),), stop_id=STOP, **settings)
    return Sequence(prompt, params, DrawKey(seed, 0, 0).uniforms(params.max_tokens))


def windowed(seed: int, *, tokens: int = 14, window: int = 4) -> Sequence:
    """Like the coarse stage's: ranges in turn, windows whose prompt moves or stands."""
    head = np.random.default_rng(seed).integers(0, 50, 5)

    def next_prompt(made):
        shift = len(made) // 8 if seed % 2 else 0
        return Prompt(np.concatenate([(head + shift) % 50, np.array(made, np.int64)[-40:]]))

    params = SamplingParams(0.9, ((10, 30), (30, 50)), tokens)
    uniforms = DrawKey(seed, 0, 1).uniforms(tokens)
    return Sequence(Prompt(head), params, uniforms, window=window, next_prompt=next_prompt)


def tokens_of(engine, *batch):
    for one in batch:
        engine.submit(one)
    engine.run_until_done()
    return [one.result.result().tokens for one in batch]


SEEDS = range(8)


@pytest.fixture(scope="module")
def on_host(runner):
    engine = Engine(runner(CausalRunner))
    made = {
        (kind, seed): tokens_of(engine, kind(seed))[0]
        for kind in (plain, windowed)
        for seed in SEEDS
    }
    assert len({len(tokens) for tokens in made.values()}) > 3  # some stop early
    return made


@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_tokens_equal_those_drawn_on_the_host(device_runner, on_host, data):
    """Whatever the steps ahead, company, arrivals and cancellations."""
    device_runner.steps_ahead = data.draw(st.integers(0, 2), label="steps ahead")
    engine, submitted = Engine(device_runner), []
    kinds = st.tuples(st.sampled_from([plain, windowed]), st.sampled_from(SEEDS))
    for action in data.draw(st.lists(st.just("step") | st.just("cancel") | kinds, max_size=25)):
        if isinstance(action, tuple):
            submitted.append((action, action[0](action[1])))
            engine.submit(submitted[-1][1])
        elif action == "cancel" and submitted:
            submitted[len(submitted) // 2][1].cancel()
        else:
            engine.step()
    engine.run_until_done()
    for address, one in submitted:
        if not one.is_cancelled or one.finish_reason:
            assert one.tokens == on_host[address]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("ahead", [0, 1, 4])
def test_full_batch_and_more_equals_the_host(runner, on_host, way, ahead):
    engine = Engine(runner(steps_ahead=ahead, capture=way))
    batch = [kind(seed) for seed in SEEDS[:4] for kind in (plain, windowed)]
    found = tokens_of(engine, *batch)
    assert found == [on_host[kind, seed] for seed in SEEDS[:4] for kind in (plain, windowed)]
    assert engine.busy_s == pytest.approx(sum(one.stats.device_s for one in batch))
    assert max(one.stats.mean_batch for one in batch) > 1.5


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_smaller_precisions_do_not_depend_on_company_either(runner, precision):
    model = runner(precision=precision)
    alone = [tokens_of(Engine(model), plain(seed))[0] for seed in SEEDS[:5]]
    assert tokens_of(Engine(model), *(plain(seed) for seed in SEEDS[:5])) == alone


def test_steps_are_replays_and_joining_or_leaving_makes_no_new_graph():
    graph = RecordedGraph()
    model = runner_on("cpu", capture=graph, steps_ahead=1)
    engine = Engine(model)
    tokens_of(engine, *(plain(seed) for seed in SEEDS))
    assert graph.replays == engine.steps


@pytest.mark.parametrize("precision", PRECISIONS)
def test_steps_mix_no_devices_and_wait_for_none(precision):
    """On tensors of another device than the CPU, which have shapes alone: torch refuses to mix
    them with the CPU's, and to read a value, which would wait.
    """
    device = Device("cpu", "graph")
    device.torch = torch.device("meta")
    with FakeTensorMode(), torch.inference_mode():
        model = DeviceRunner(
            lambda name: torch.empty(read(name).shape),
            SHAPE,
            device=device,
            precision=precision,
            num_slots=SLOTS,
            max_positions=POSITIONS,
            head_range=HEAD,
        )
        model._admit(1, plain(1))
        model._take([0, 1])
        for start in (0, 9):  # a prompt, and the rest of one
            prompt = torch.zeros(9, WIDTH, device="meta")
            model._state.logits[1] = model._gpt.extend(1, start, prompt)
        for run in (*model._steps, *model._draws):
            run()
        assert model._state.drawn.is_meta
        with pytest.raises(DataDependentOutputException):
            model._state.drawn[0].item()
        with pytest.raises(RuntimeError, match="same device"):
            model._state.drawn + torch.zeros(SLOTS)


@pytest.mark.parametrize("piece", [1, 4, 7])
def test_prompt_in_pieces_gives_the_tokens_of_a_whole_one(runner, on_host, piece):
    model = runner(prefill_piece=piece)
    batch = [plain(seed) for seed in SEEDS[:4]]
    assert tokens_of(Engine(model), *batch) == [on_host[plain, seed] for seed in SEEDS[:4]]
    assert max(len(one.prompt.tokens) for one in batch) > 2 * 4


def test_filters_leave_with_the_sequence_that_wanted_them(runner):
    """They cost a sort: the graph without it is replayed again when nobody has any."""
    model = runner()
    tokens_of(Engine(model), plain(1))
    assert model._filtering == {0}
    tokens_of(Engine(model), plain(0))
    assert model._filtering == set()


def everything(model) -> list[torch.Tensor]:
    state, rows = model._state, model._rows
    tensors = [getattr(state, field.name) for field in fields(state) if field.name != "drawn"]
    return [tensor.clone() for tensor in [*tensors, *rows.tensors(), model._gpt._cache]]


def test_turn_in_which_nobody_takes_part_changes_nothing(runner):
    """So a graph may be warmed up, and made, at any time."""
    model = runner()
    tokens_of(Engine(model), *(plain(seed) for seed in range(3)))
    model._take([])
    before = everything(model)
    with torch.inference_mode():
        for run in (*model._steps, *model._draws):
            run()
    assert all(torch.equal(a, b) for a, b in zip(before, everything(model), strict=True))


def test_rows_that_take_no_part_keep_their_cache(runner):
    model = runner(steps_ahead=0)
    engine = Engine(model)
    batch = [plain(seed, temperature=0, max_tokens=14) for seed in range(3)]
    for one in batch:
        engine.submit(one)
    for _ in batch:
        engine.step()
    before = model._gpt._cache.clone()
    model.step([batch[1]]).wait()
    changed = (model._gpt._cache != before).any(dim=-1).any(dim=3).any(dim=1).any(dim=0)  # [S, T]
    assert changed.any(dim=1).tolist() == [False, True, False]
    assert changed[1].nonzero().flatten().tolist() == [len(batch[1].prompt.tokens)]


def test_more_tokens_than_the_buffer_holds_uniforms_for(runner):
    """Windows go on past the cache's length: uniforms are uploaded again on the way."""
    total = 2 * POSITIONS + 9
    model = runner(steps_ahead=2)
    uploads = []
    give = model._give_uniforms
    model._give_uniforms = lambda slot, one: (uploads.append(one.num_asked), give(slot, one))
    ours = tokens_of(Engine(model), windowed(1, tokens=total, window=33))
    assert ours == tokens_of(Engine(runner(CausalRunner)), windowed(1, tokens=total, window=33))
    assert uploads == [0, POSITIONS, 2 * POSITIONS]


def test_sequence_whose_logits_are_no_numbers_ends_alone(runner, on_host):
    wrong = plain(1)
    wrong.prompt.tokens[0] = POISON
    fine, engine = plain(2), Engine(runner())
    engine.submit(wrong)
    assert tokens_of(engine, fine) == [on_host[plain, 2]]
    with pytest.raises(EngineFailed, match="no numbers"):
        wrong.result.result()
    # what it left in its slot reaches nobody
    assert tokens_of(engine, plain(3)) == [on_host[plain, 3]]


@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-5), ("bf16", 0.03), ("int8", 0.03)])
def test_step_of_all_slots_equals_the_step_of_some(runner, precision, bound):
    """To a rounding of their spread: in bf16 and int8 that of what attention gives, to bf16."""
    model = runner(precision=precision)
    for slot, length in ((0, 9), (2, 140)):
        model.extend(slot, 0, np.arange(length) % 50, None)
    slots, positions, tokens = [2, 0], [140, 9], [20, 30]
    theirs = torch.from_numpy(model.decode(slots, positions, tokens))
    hidden = torch.from_numpy(model._tokens(np.array([30, 0, 20])))
    hidden += torch.from_numpy(model._positions(np.array([9, 0, 140])))
    where = model._device.torch
    at, live = torch.tensor([9, 0, 140]), torch.tensor([True, False, True])
    ours = model._gpt.step(hidden.to(where), at.to(where), live.to(where))[slots].cpu()
    assert ((ours - theirs).abs().amax(-1) <= bound * theirs.std(-1)).all()


def test_runner_still_gives_logits(runner):
    tokens = np.arange(7)
    ours, host = (runner(kind).extend(0, 0, tokens, None) for kind in (DeviceRunner, CausalRunner))
    np.testing.assert_array_equal(ours, host)


def test_ids_tell_the_backends_apart():
    graph, torch_ = (
        Placement(Device("cpu", backend), num_slots=5) for backend in ("graph", "torch")
    )
    assert graph.device_class.startswith("cpu-graph-torch-")
    assert graph.device_class.endswith("-slots5")
    assert graph.device_class.replace("-graph", "") == torch_.device_class
    assert graph.causal_runner is DeviceRunner
    assert torch_.causal_runner is CausalRunner
