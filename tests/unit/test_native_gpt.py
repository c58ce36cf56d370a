"""The CPU kernels against plain float64, and against themselves: same prefix, same bits."""

import json
import math
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from pipeline.engine.native.loader import default_num_threads
from pipeline.engine.native_gpt import (
    Floats,
    LinearName,
    NativeGPT,
    NormName,
    Precision,
    is_supported,
)

SUPPORTED, REASON = is_supported()
pytestmark = pytest.mark.skipif(not SUPPORTED, reason=f"native kernels: {REASON}")

PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "int8")
LINEARS: tuple[LinearName, ...] = ("attention_in", "attention_out", "mlp_in", "mlp_out")
NORMS: tuple[NormName, ...] = ("norm_1", "norm_2")
# (width, heads): head sizes 8, 64, 64 and 20; the last divides by nothing that the kernels like.
SHAPES = [(32, 4), (64, 1), (192, 3), (40, 2)]
# Relative rms error against float64 that rounding explains; measured 0.6 % and 2.2 % at most.
RMS_BOUND = {"bf16": 0.01, "int8": 0.03}
VOCABULARY = 83


@dataclass
class Weights:
    """Random weights of one network, and the plain way to run it."""

    width: int
    num_heads: int
    num_layers: int = 2
    with_biases: bool = True
    num_outputs: int = 1
    seed: int = 0
    linears: list[dict[str, torch.Tensor]] = field(default_factory=list)
    heads: list[torch.Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(self.seed)

        def draw(*shape: int, scale: float) -> torch.Tensor:
            return torch.randn(*shape, generator=generator) * scale

        d = self.width
        sizes = {
            "attention_in": (3 * d, d),
            "attention_out": (d, d),
            "mlp_in": (4 * d, d),
            "mlp_out": (d, 4 * d),
        }
        for _ in range(self.num_layers + 1):  # the last holds only the final norm
            layer = {}
            for name, (out, depth) in sizes.items():
                layer[name] = draw(out, depth, scale=1.2 / math.sqrt(depth))
                layer[name + ".bias"] = draw(out, scale=0.2)
            for name in NORMS:
                layer[name] = 1 + draw(d, scale=0.1)
                layer[name + ".bias"] = draw(d, scale=0.1)
            self.linears.append(layer)
        self.heads = [
            draw(VOCABULARY + i, d, scale=1 / math.sqrt(d)) for i in range(self.num_outputs)
        ]

    def get(self, layer: int, name: str) -> tuple[torch.Tensor, torch.Tensor | None]:
        bias = self.linears[layer][name + ".bias"] if self.with_biases else None
        return self.linears[layer][name], bias

    def network(
        self, precision: Precision, *, causal: bool = True, num_slots: int = 4
    ) -> NativeGPT:
        gpt = NativeGPT(
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            width=self.width,
            precision=precision,
            num_slots=num_slots,
            max_positions=200,
            causal=causal,
            num_heads_out=self.num_outputs,
        )

        def arrays(layer: int, name: str) -> tuple[Floats, Floats | None]:
            weight, bias = self.get(layer, name)
            return weight.numpy(), None if bias is None else bias.numpy()

        for i in range(self.num_layers):
            for linear in LINEARS:
                gpt.load_linear(i, linear, *arrays(i, linear))
            for name in NORMS:
                gpt.load_norm(i, name, *arrays(i, name))
        gpt.load_final_norm(*arrays(self.num_layers, "norm_1"))
        for i, head in enumerate(self.heads):
            gpt.load_head(i, head.numpy())
        return gpt

    def reference(
        self, hidden: Floats, *, causal: bool = True, head: int = 0, quantised: bool = False
    ) -> Floats:
        """Logits of every position in float64; `quantised`: by the int8 law, else exact."""

        def linear(x: torch.Tensor, layer: int, name: str) -> torch.Tensor:
            weight, bias = self.get(layer, name)
            y = product(x, weight)
            return y if bias is None else y + bias.double()

        def product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            if not quantised:
                return x @ weight.double().T
            (qx, sx), (qw, sw) = quantise(x), quantise(weight.double())
            return (qx @ qw.T) * sx * sw.T

        def norm(x: torch.Tensor, layer: int, name: str) -> torch.Tensor:
            weight, bias = self.get(layer, name)
            return torch.nn.functional.layer_norm(
                x, (self.width,), weight.double(), None if bias is None else bias.double()
            )

        x = torch.from_numpy(hidden).double()
        for i in range(self.num_layers):
            q, k, v = (
                part.reshape(len(x), self.num_heads, -1).transpose(0, 1)
                for part in linear(norm(x, i, "norm_1"), i, "attention_in").chunk(3, dim=-1)
            )
            y = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
            x = x + linear(y.transpose(0, 1).flatten(1), i, "attention_out")
            y = torch.nn.functional.gelu(linear(norm(x, i, "norm_2"), i, "mlp_in"))
            x = x + linear(y, i, "mlp_out")
        return product(norm(x, self.num_layers, "norm_1"), self.heads[head]).numpy()


def quantise(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scale = x.abs().amax(-1, keepdim=True).clamp_min(1e-30) / 127
    return torch.round(x / scale), scale


def hidden_vectors(rows: int, width: int, seed: int = 1) -> Floats:
    return np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)


def decode_all(gpt: NativeGPT, hidden: Floats, slot: int = 0, start: int = 0) -> Floats:
    slots = np.array([slot], np.int32)
    positions = np.arange(start, start + len(hidden), dtype=np.int32)
    return np.concatenate(
        [gpt.decode(slots, positions[i : i + 1], hidden[i : i + 1]) for i in range(len(hidden))]
    )


def rms_error(ours: Floats, exact: Floats) -> float:
    return float(np.sqrt(np.mean((ours - exact) ** 2) / np.mean(exact**2)))


# ---- against the plain way


@pytest.mark.parametrize("with_biases", [True, False], ids=["biases", "no-biases"])
@pytest.mark.parametrize(("width", "heads"), SHAPES)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_decode_matches_float64(
    precision: Precision, width: int, heads: int, with_biases: bool
) -> None:
    weights = Weights(width, heads, with_biases=with_biases)
    hidden = hidden_vectors(70, width)
    exact = weights.reference(hidden)
    ours = decode_all(weights.network(precision), hidden)
    assert_close(ours, exact, precision)


@pytest.mark.parametrize(("width", "heads"), SHAPES)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_encode_matches_float64(precision: Precision, width: int, heads: int) -> None:
    weights = Weights(width, heads, num_outputs=3)
    gpt = weights.network(precision, causal=False)
    hidden = hidden_vectors(150, width)
    for head in range(3):
        exact = weights.reference(hidden, causal=False, head=head)
        assert_close(gpt.encode(hidden, head, 0, 150), exact, precision)


def assert_close(ours: Floats, exact: Floats, precision: Precision) -> None:
    if precision == "fp32":
        assert np.abs(ours - exact).max() <= 1e-5 * np.abs(exact).max()
    else:
        assert rms_error(ours, exact) <= RMS_BOUND[precision]


def test_int8_follows_the_quantisation_law() -> None:
    weights = Weights(192, 3)
    for layer in weights.linears:
        layer["attention_out"].zero_()  # keeps out the cache, which is no part of the law
    hidden = hidden_vectors(60, 192)
    ours = decode_all(weights.network("int8"), hidden)
    by_law = weights.reference(hidden, quantised=True)
    # What is left is float rounding; measured 9e-8, since no value crosses a rounding border here.
    assert rms_error(ours, by_law) <= 1e-5
    assert rms_error(ours, weights.reference(hidden)) > 5e-3


@pytest.mark.parametrize("precision", PRECISIONS)
def test_zero_rows_and_large_values_stay_finite(precision: Precision) -> None:
    weights = Weights(64, 1, with_biases=False)
    gpt = weights.network(precision)
    hidden = np.zeros((3, 64), np.float32)
    hidden[1] = 1e4
    hidden[2, 5] = -1e6
    assert np.isfinite(decode_all(gpt, hidden)).all()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_nan_is_not_hidden_by_quantisation(precision: Precision) -> None:
    gpt = Weights(64, 1).network(precision)
    hidden = hidden_vectors(2, 64)
    hidden[0, 3] = np.nan
    assert np.isnan(gpt.extend(0, 0, hidden)).all()


# ---- the same prefix gives the same bits


@pytest.mark.parametrize(("width", "heads"), SHAPES)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_extend_equals_decode(precision: Precision, width: int, heads: int) -> None:
    gpt = Weights(width, heads).network(precision)
    hidden = hidden_vectors(130, width)
    stepwise = decode_all(gpt, hidden, slot=0)
    for length in (1, 2, 13, 33, 48, 49, 97, 129):
        np.testing.assert_array_equal(gpt.extend(1, 0, hidden[:length]), stepwise[length - 1])
        # The cache as well: the next position reads all of it.
        after = decode_all(gpt, hidden[length : length + 1], slot=1, start=length)
        np.testing.assert_array_equal(after[0], stepwise[length])


@pytest.mark.parametrize("cuts", [[1, 129], [64, 66], [49, 2, 79], [33] * 3 + [31], [5, 120, 5]])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_extend_in_pieces_equals_extend_at_once(precision: Precision, cuts: list[int]) -> None:
    gpt = Weights(192, 3).network(precision)
    hidden = hidden_vectors(130, 192)
    whole = gpt.extend(0, 0, hidden)
    start = 0
    for cut in cuts:
        logits = gpt.extend(2, start, hidden[start : start + cut])
        start += cut
    np.testing.assert_array_equal(logits, whole)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_row_is_independent_of_batch_slot_and_neighbours(precision: Precision) -> None:
    num_slots = 27
    gpt = Weights(192, 3).network(precision, num_slots=num_slots)
    prompts = [hidden_vectors(20 + 3 * s, 192, seed=s) for s in range(num_slots)]
    news = hidden_vectors(num_slots, 192, seed=99)
    alone = []
    for s, prompt in enumerate(prompts):
        gpt.extend(0, 0, prompt)
        alone.append(decode_all(gpt, news[s : s + 1], slot=0, start=len(prompt))[0])
    order = np.random.default_rng(5).permutation(num_slots).astype(np.int32)
    for s, prompt in enumerate(prompts):
        gpt.extend(int(order[s]), 0, prompt)
    positions = np.array([len(prompt) for prompt in prompts], np.int32)
    for batch in (2, 3, 7, 12, 13, 25, num_slots):
        logits = gpt.decode(order[:batch], positions[:batch], news[:batch])
        np.testing.assert_array_equal(logits, np.stack(alone[:batch]))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_a_slot_held_before_does_not_matter(precision: Precision) -> None:
    gpt = Weights(64, 1).network(precision)
    hidden = hidden_vectors(61, 64)
    fresh = gpt.extend(0, 0, hidden)
    broken = hidden_vectors(150, 64, seed=7)
    broken[:] = np.nan
    gpt.extend(1, 0, broken)
    np.testing.assert_array_equal(gpt.extend(1, 0, hidden), fresh)
    gpt.extend(2, 0, broken)
    np.testing.assert_array_equal(decode_all(gpt, hidden, slot=2)[-1], fresh)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_encode_ranges_are_rows_of_the_whole(precision: Precision) -> None:
    gpt = Weights(192, 3, num_outputs=2).network(precision, causal=False)
    hidden = hidden_vectors(150, 192)
    whole = gpt.encode(hidden, 1, 0, 150)
    for first, last in ((0, 1), (149, 150), (37, 101), (75, 150)):
        np.testing.assert_array_equal(gpt.encode(hidden, 1, first, last), whole[first:last])


THREADS_SCRIPT = """
import hashlib, json, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
import test_native_gpt as t
from pipeline.engine.native_gpt import NativeGPT
digests = []
for precision in t.PRECISIONS:
    weights = t.Weights(192, 3, num_outputs=1)
    hidden = t.hidden_vectors(130, 192)
    causal, fine = weights.network(precision), weights.network(precision, causal=False)
    results = [causal.extend(0, 0, hidden), causal.extend(1, 0, hidden[:30]),
               t.decode_all(causal, hidden[:9], slot=2), fine.encode(hidden, 0, 5, 130)]
    digests.append(hashlib.sha256(b"".join(r.tobytes() for r in results)).hexdigest())
print(json.dumps(digests))
"""


def test_result_is_independent_of_the_number_of_threads() -> None:
    digests = set()
    for num_threads in ("1", "2", "3", "5"):
        done = subprocess.run(
            [sys.executable, "-c", THREADS_SCRIPT, os.path.dirname(__file__)],
            env={**os.environ, "OMP_NUM_THREADS": num_threads},
            capture_output=True,
            text=True,
            check=True,
        )
        digests.add(done.stdout.strip().splitlines()[-1])
    assert len(digests) == 1
    assert len(set(json.loads(digests.pop()))) == len(PRECISIONS)


def test_calls_from_many_threads_give_the_same_as_alone() -> None:
    weights = Weights(64, 1)
    networks = [weights.network(precision) for precision in PRECISIONS]
    hidden = hidden_vectors(90, 64)
    expected = [gpt.extend(0, 0, hidden) for gpt in networks]
    wrong: list[int] = []

    def repeat(index: int) -> None:
        results = [networks[index].extend(1, 0, hidden) for _ in range(20)]
        wrong.extend(index for r in results if not np.array_equal(r, expected[index]))

    threads = [threading.Thread(target=repeat, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_runs_with_threads_of_its_own() -> None:
    gpt = Weights(64, 1).network("int8")
    hidden = hidden_vectors(90, 64)
    expected = gpt.extend(0, 0, hidden)
    child = os.fork()
    if child == 0:
        same = np.array_equal(gpt.extend(1, 0, hidden), expected)
        os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    np.testing.assert_array_equal(gpt.extend(1, 0, hidden), expected)


# ---- memory and arguments


def test_memory_is_known() -> None:
    weights = Weights(192, 3)
    sizes = {precision: weights.network(precision, num_slots=2) for precision in PRECISIONS}
    num_weights = 2 * 12 * 192 * 192 + VOCABULARY * 192
    for precision, item in zip(PRECISIONS, (4, 2, 1), strict=True):
        assert num_weights * item <= sizes[precision].weight_bytes <= num_weights * item * 1.2
    # 200 positions are kept as 224.
    assert sizes["fp32"].cache_bytes == 2 * 2 * 2 * 224 * 192 * 4
    assert sizes["bf16"].cache_bytes == 2 * 2 * 2 * 224 * 192 * 2
    # a key of 64 numbers has a scale and an offset beside it
    assert sizes["int8"].cache_bytes == 2 * 2 * 224 * (192 * (1 + 2) + 3 * 8)


def test_threads_default_to_omp_num_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert default_num_threads() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert 1 <= default_num_threads() <= len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    "change",
    [
        {"num_layers": 0},
        {"num_heads": 3},
        {"precision": "fp16"},
        {"num_slots": 0},
        {"max_positions": 0},
        {"num_heads_out": 2},
        {"num_threads": 0},
    ],
    ids=str,
)
def test_wrong_shapes_are_refused(change: dict[str, int]) -> None:
    good = {
        "num_layers": 1,
        "num_heads": 4,
        "width": 32,
        "precision": "fp32",
        "num_slots": 1,
        "max_positions": 8,
        "causal": True,
        "num_heads_out": 1,
    }
    with pytest.raises(ValueError):  # noqa: PT011
        NativeGPT(**{**good, **change})  # type: ignore[arg-type]


def test_wrong_arguments_are_refused() -> None:
    weights = Weights(32, 4)
    gpt, fine = weights.network("fp32"), weights.network("fp32", causal=False)
    hidden = hidden_vectors(8, 32)
    ints = np.array([0, 1], np.int32)
    wrong_calls: list[Callable[[], object]] = [
        lambda: gpt.extend(4, 0, hidden),
        lambda: gpt.extend(-1, 0, hidden),
        lambda: gpt.extend(0, 193, hidden),
        lambda: gpt.extend(0, -1, hidden),
        lambda: gpt.extend(0, 0, hidden[:0]),
        lambda: gpt.extend(0, 0, hidden[0]),
        lambda: gpt.extend(0, 0, hidden[:, :16]),
        lambda: gpt.extend(0, 0, np.asfortranarray(hidden)),
        lambda: gpt.extend(0, 0, hidden.astype(np.float64)),
        lambda: gpt.decode(ints, ints, hidden),
        lambda: gpt.decode(ints.astype(np.int64), ints, hidden[:2]),
        lambda: gpt.decode(ints, ints + 199, hidden[:2]),
        lambda: gpt.decode(ints + 3, ints, hidden[:2]),
        lambda: gpt.decode(ints * 0, ints, hidden[:2]),
        lambda: gpt.encode(hidden, 0, 0, 8),
        lambda: fine.extend(0, 0, hidden),
        lambda: fine.encode(hidden, 1, 0, 8),
        lambda: fine.encode(hidden, 0, 0, 9),
        lambda: fine.encode(hidden, 0, 3, 3),
        lambda: fine.encode(hidden_vectors(201, 32), 0, 0, 8),
        lambda: gpt.load_head(1, hidden),
        lambda: gpt.load_head(0, np.full((8, 32), np.nan, np.float32)),
        lambda: gpt.load_norm(2, "norm_1", hidden[0], None),
        lambda: gpt.load_norm(0, "norm_1", hidden[:, 0], None),
        lambda: gpt.load_linear(0, "mlp_in", hidden, None),
        lambda: gpt.load_linear(0, "mlp", hidden, None),  # type: ignore[arg-type]
    ]
    for call in wrong_calls:
        with pytest.raises(ValueError):  # noqa: PT011
            call()


def test_incomplete_or_closed_network_is_refused() -> None:
    gpt = NativeGPT(
        num_layers=1,
        num_heads=4,
        width=32,
        precision="int8",
        num_slots=1,
        max_positions=8,
        causal=True,
        num_heads_out=1,
    )
    with pytest.raises(ValueError, match="not loaded"):
        gpt.extend(0, 0, hidden_vectors(1, 32))
    gpt.close()
    gpt.close()
    with pytest.raises(ValueError, match="closed"):
        gpt.extend(0, 0, hidden_vectors(1, 32))


def test_discarded_cache_gives_memory_back_and_is_as_new() -> None:
    def resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    hidden = hidden_vectors(150, 192)
    gpt = Weights(192, 3).network("fp32", num_slots=60)
    first = [gpt.extend(slot, 0, hidden) for slot in range(60)]
    full = resident()
    gpt.discard_cache()
    assert full - resident() > gpt.cache_bytes // 4
    np.testing.assert_array_equal(gpt.extend(3, 0, hidden), first[3])
