"""nano's training: layouts are the stages' own, and an interrupted run ends as one that was not."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.payloads import HistoryPrompt
from pipeline.request import CoarseSettings
from pipeline.spec import BarkSpec, GPTShape
from pipeline.stages.coarse import Windows
from pipeline.stages.semantic import semantic_prompt
from pipeline.stages.text import TextStage
from training.nano import trainer
from training.nano.codec_task import CodecTask
from training.nano.dataset import Dataset
from training.nano.gpt import FineGPT, _causal_attention, phased_rows
from training.nano.gpt_tasks import (
    CoarseTask,
    FineTask,
    SemanticTask,
    lay_out,
    nearness,
    with_unknown,
)
from training.nano.phases import NUM_PHASES, phased, places_of_symbols
from training.nano.pieces import UNKNOWN_ID
from training.nano.shape import nano_spec
from training.nano.teacher import Timing
from training.nano.texts import Spoken, Texts, write_vocabulary
from training.nano.tokens import quantise, semantic_tokens

NUM_CLIPS, NUM_SYMBOLS = 260, 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make tokens of clips of 1 to 4 s, random but for their shapes."""
    path, rng = tmp_path_factory.mktemp("tokens"), np.random.default_rng(0)
    semantic = [int(n) for n in rng.integers(50, 200, NUM_CLIPS)]
    frames = [int(n * 75 / 49.9) for n in semantic]
    np.save(path / "semantic.npy", rng.integers(0, 3 * NUM_SYMBOLS, sum(semantic)).astype("i2"))
    np.save(path / "codes.npy", rng.integers(0, 8, (8, sum(frames))).astype("i2"))
    np.save(path / "books.npy", rng.standard_normal((8, 512, 64)).astype("f4"))
    np.save(path / "samples.npy", np.zeros(sum(frames) * 320, np.int16))
    index = {
        "symbols": list("abcd "),
        "texts": ["Hello world."] * NUM_CLIPS,
        "voices": ["heart", "oak"] * (NUM_CLIPS // 2),
        "num_semantic": semantic,
        "num_frames": frames,
    }
    (path / "index.json").write_text(json.dumps(index))
    (path / "texts").mkdir()
    np.savez(
        path / "texts" / "part-000.npz",
        pieces=rng.integers(0, 20, (NUM_CLIPS, 20)).astype("i2"),
        states=rng.integers(0, 3 * NUM_SYMBOLS, sum(semantic)).astype("i2"),
        places=rng.integers(0, 20, sum(semantic)).astype("i1"),
        lengths=np.array(semantic),
    )
    return path


def small(spec: BarkSpec) -> BarkSpec:
    def gpt(shape: GPTShape) -> GPTShape:
        return replace(shape, num_layers=1, num_heads=1, width=16)

    return replace(
        spec,
        semantic=replace(spec.semantic, gpt=gpt(spec.semantic.gpt)),
        coarse=replace(spec.coarse, gpt=gpt(spec.coarse.gpt)),
        fine=replace(spec.fine, gpt=gpt(spec.fine.gpt)),
    )


SPEC, STATES = small(nano_spec(NUM_SYMBOLS)), small(nano_spec(NUM_SYMBOLS, num_phases=1))


def make(name: str, folder: Path) -> trainer.Task:
    torch.manual_seed(0)
    if name == "semantic":
        return SemanticTask(Texts(folder / "texts"), SPEC.semantic, 3)
    return (CoarseTask if name == "coarse" else FineTask)(Dataset(folder), STATES, 3)


@pytest.mark.parametrize("name", ["semantic", "coarse", "fine"])
def test_a_few_steps_lower_the_loss(name: str, folder: Path, tmp_path: Path) -> None:
    task = make(name, folder)
    before = trainer._validate(task)["loss"]
    trainer.train(task, trainer.Recipe(steps=12, warmup=2), tmp_path)
    assert trainer._validate(task)["loss"] < before
    *_, last = trainer.read_log(tmp_path / f"{name}.log.jsonl")
    assert last["step"] == 12
    assert last["tokens_per_s"] > 0


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = trainer.Recipe(steps=8, warmup=2)
    trainer.train(make("coarse", folder), recipe, tmp_path / "whole")

    monkeypatch.setattr(trainer, "_SAVE_EVERY_S", 0.0)
    task, real = make("coarse", folder), CoarseTask.loss
    calls = 0

    def interrupted(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise KeyboardInterrupt
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(CoarseTask, "loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trainer.train(task, recipe, tmp_path / "broken")
    assert not (tmp_path / "broken" / "coarse.pt").exists()
    assert (tmp_path / "broken" / "coarse.state.pt").exists()
    monkeypatch.setattr(CoarseTask, "loss", real)
    trainer.train(make("coarse", folder), recipe, tmp_path / "broken")

    whole, mended = (
        torch.load(tmp_path / run / "coarse.pt", weights_only=True) for run in ("whole", "broken")
    )
    assert whole.keys() == mended.keys()
    for key, value in whole.items():
        torch.testing.assert_close(mended[key], value, rtol=0, atol=0)
    assert not (tmp_path / "broken" / "coarse.state.pt").exists()


def test_a_finished_network_is_not_trained_again(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = trainer.Recipe(steps=1)
    trainer.train(make("fine", folder), recipe, tmp_path)
    stamp = (tmp_path / "fine.pt").stat().st_mtime_ns
    trainer.train(make("fine", folder), recipe, tmp_path)
    assert (tmp_path / "fine.pt").stat().st_mtime_ns == stamp
    assert "already trained" in capsys.readouterr().out


def test_coarse_windows_are_those_of_inference(folder: Path) -> None:
    """A drawn window is one that the stage itself would lay out, and asks for what follows it."""
    task, dataset = make("coarse", folder), Dataset(folder)
    assert isinstance(task, CoarseTask)
    start = STATES.coarse.semantic_length + 1
    prompts = {
        Windows.plan(item.semantic, None, CoarseSettings(), STATES)
        .prompt([])
        .tokens[:start]
        .tobytes()
        for item in (dataset[i] for i in range(NUM_CLIPS))
    }
    begun = 0
    for step in range(60):
        sequence, wanted = task._window(np.random.default_rng(step), "train")
        assert sequence[start - 1] == STATES.coarse.infer_id
        assert len(sequence) <= STATES.coarse.gpt.block_size
        asked = wanted != -100
        assert asked.any()
        assert not asked[:start].any()
        assert (wanted[asked] == sequence[asked]).all()
        low, high = STATES.codebook_range(0)[0], STATES.codebook_range(1)[1]
        assert ((sequence[start:] >= low) & (sequence[start:] < high)).all()
        begun += sequence[:start].tobytes() in prompts and bool(asked[start])
    assert begun > 5  # clips from their very beginning are among them


def test_semantic_prompts_are_those_of_inference(tmp_path: Path) -> None:
    stage = TextStage(write_vocabulary(tmp_path), SPEC.semantic)
    text = stage("Hello, world.")
    history = np.arange(30, dtype=np.int64)
    empty = np.zeros((0, 0), np.int32)
    row = text.ids[: text.num_tokens] - SPEC.semantic.text_offset
    for past in (None, history):
        given = None if past is None else HistoryPrompt(past, empty, empty)
        ours, theirs = (
            lay_out(row, past, SPEC.semantic),
            semantic_prompt(text, given, SPEC.semantic),
        )
        assert np.array_equal(ours.tokens, theirs.tokens)
        assert np.array_equal(ours.added, theirs.added)


def test_an_unknown_piece_moves_what_follows_it() -> None:
    one = Spoken(np.array([50, 51, 52]), np.zeros(4, np.int64), np.array([0, 1, 1, 2]))
    moved = set()
    for seed in range(400):
        changed = with_unknown(one, 20, np.random.default_rng(seed))
        if changed is not one:
            place = changed.pieces.tolist().index(UNKNOWN_ID)
            assert (one.pieces[one.places] == changed.pieces[changed.places]).all()
            moved.add(place)
    assert moved == {0, 1, 2, 3}
    assert with_unknown(one, 3, np.random.default_rng(0)) is one  # no room for it


def test_semantic_tokens_follow_the_symbols_in_time() -> None:
    ids = semantic_tokens(Timing("", ("a", "b"), np.array([0.3, 0.9])), ["a", "b"])
    assert len(ids) == int(0.9 * 49.9)
    assert list(dict.fromkeys(ids.tolist())) == [0, 1, 2, 3, 4, 5]
    assert (np.diff(ids) >= 0).all()


@pytest.mark.parametrize(
    ("text", "symbols", "places"),
    [
        ("one, two.", "_wn, tu._", "000022222"),
        ("forty-four I'm", "_ff aI_", "0003333"),  # said in one breath: 0 - 2, 3 ' 5
        ("ab go", "_A B go_", "00112222"),  # "ab" is spelt
        ("one ♪ two", ["_", "w", "_", "♪0", "♪1", "♪2", "♪3", "_", "t", "_"], "0011111222"),
    ],
    ids=["comma", "joined", "spelt", "jingle"],
)
def test_places_tell_which_piece_is_said(
    tmp_path: Path, text: str, symbols: str, places: str
) -> None:
    tokens = TextStage(write_vocabulary(tmp_path), SPEC.semantic)(text)
    row = tokens.ids[: tokens.num_tokens] - SPEC.semantic.text_offset
    found = places_of_symbols(list(symbols), row)
    assert found is not None
    assert "".join(map(str, found)) == places
    assert places_of_symbols([*symbols, " ", "x"], row) is None  # a word too many


def test_phases_leave_the_state_as_it_was() -> None:
    states, places = np.array([0, 5, 3], np.int64), np.array([0, 1, NUM_PHASES + 2], np.int64)
    tokens = phased(states, places, 6)
    assert (tokens % 6 == states).all()
    assert (tokens // 6).tolist() == [0, 1, 2]


def test_phased_rows_are_sums_and_the_rest_stays() -> None:
    table, phases = torch.randn(2 * 3 + 2, 4), torch.randn(3, 4)
    rows = phased_rows(table, phases, num_states=2)
    assert rows.shape == table.shape
    torch.testing.assert_close(rows[2 * 2 + 1], table[1] + phases[2])
    torch.testing.assert_close(rows[6:], table[6:])


def test_causal_attention_in_blocks_is_attention() -> None:
    q, k, v = torch.randn(3, 2, 2, 250, 8, generator=torch.Generator().manual_seed(0))
    plain = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(_causal_attention(q, k, v), plain, rtol=1e-5, atol=1e-6)


def test_books_leave_less_and_less() -> None:
    points = torch.randn(4000, 8, generator=torch.Generator().manual_seed(1))
    books, codes = quantise(points, 1.0)
    assert codes.shape == (8, 4000)
    rest, left = points.clone(), [float((points**2).mean())]
    for book, row in zip(books, codes, strict=True):
        rest -= book[torch.from_numpy(row.astype(np.int64))]
        left.append(float((rest**2).mean()))
    assert all(after < before for before, after in pairwise(left))


def test_completed_codes_keep_the_first_books_and_follow_the_fine_model(folder: Path) -> None:
    torch.manual_seed(0)
    task = CodecTask(Dataset(folder), STATES, 2, FineGPT(STATES.fine))
    codes, _ = task._segments(np.random.default_rng(0), "train")
    completed = task._completed(codes)
    assert (completed[:, :2] == codes[:, :2]).all()
    assert completed.shape == codes.shape
    assert 0 <= int(completed.min()) <= int(completed.max()) < STATES.codebook_size
    other = codes.clone()
    other[:, 2:] = 0  # what the later books were plays no part
    assert (task._completed(other) == completed).all()
    loss, _, tokens = task.loss(np.random.default_rng(1), "train")
    loss.backward()  # type: ignore[no-untyped-call]
    assert tokens == 2 * 64
    assert all(p.grad is None for p in task._fine.parameters())


def test_what_is_near_counts_as_nearly_right() -> None:
    book = torch.tensor([[0.0, 0.0], [0.1, 0.0], [3.0, 0.0]])
    near = nearness(torch.stack([book, 10 * book]))
    torch.testing.assert_close(near.sum(-1), torch.ones(2, 3))
    assert (near.argmax(-1) == torch.arange(3)).all()
    assert near[0, 0, 1] > 0.4 > 0.1 > near[0, 0, 2]
    torch.testing.assert_close(near[0], near[1])  # a book's own scale counts
