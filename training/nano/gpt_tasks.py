"""What each transformer learns: prompts as the stages lay them out, and the tokens that follow.

The layouts come from `pipeline.stages` themselves, so training and inference can not disagree.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from pipeline.engine.sequence import Prompt
from pipeline.payloads import HistoryPrompt, TextTokens
from pipeline.request import CoarseSettings
from pipeline.spec import BarkSpec, SemanticSpec
from pipeline.stages.coarse import Windows
from pipeline.stages.semantic import semantic_prompt
from training.nano.dataset import Dataset
from training.nano.gpt import CausalGPT, FineGPT, PhasedGPT
from training.nano.phases import NUM_PHASES, phased
from training.nano.pieces import UNKNOWN_ID, pieces
from training.nano.texts import Spoken, Texts
from training.nano.trainer import Split, Task, autocast, device

_IGNORE = -100
# Shares of texts with a history prompt before them, and with an unknown word in them.
_HISTORIES, _UNKNOWNS = 0.4, 0.06
# Share of the coarse history replaced by near entries: the model must live with its own errors.
_NOISE, _NUM_NEAR = 0.1, 12
# How far from the true entry of a later book counts as near, in the book's mean square.
_NEARNESS = 0.5


class _GPTTask(Task):
    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Muon for the blocks' matrices, AdamW for tables and norms, as nanochat does."""
        named = dict(self.model.named_parameters())
        matrices = {n for n, p in named.items() if n.startswith("layers.") and p.ndim == 2}
        return [
            torch.optim.Muon(
                [named[n] for n in matrices_in_order(named, matrices)],
                lr=0.02,
                momentum=0.95,
                weight_decay=0.0,
                adjust_lr_fn="original",
            ),
            torch.optim.AdamW(
                [p for n, p in named.items() if n not in matrices],
                lr=3e-3,
                betas=(0.9, 0.98),
                weight_decay=0.0,
            ),
        ]


def matrices_in_order(named: dict[str, nn.Parameter], chosen: set[str]) -> list[str]:
    """Return the chosen names in the model's order; a set's own order is not fixed."""
    return [name for name in named if name in chosen]


class SemanticTask(_GPTTask):
    """Text, and sometimes a history prompt → semantic tokens and their end."""

    name = "semantic"

    def __init__(self, texts: Texts, spec: SemanticSpec, batch: int) -> None:
        self.texts, self.spec, self.batch = texts, spec, batch
        self.num_states = spec.vocab_size // NUM_PHASES
        self.model = PhasedGPT(spec.gpt, self.num_states, NUM_PHASES)
        offset, (_, rows) = spec.text_offset, pieces()
        # Copies are learnt as what they copy.
        self._trained = np.arange(spec.gpt.input_vocab)
        self._trained[offset : offset + len(rows)] = offset + np.array(rows)

    def loss(self, rng: np.random.Generator, split: Split) -> tuple[Tensor, dict[str, float], int]:
        spec = self.spec
        chosen = [self.texts[i] for i in self.texts.draw_alike(self.batch, rng, split)]
        longest = max(len(one.states) for one in chosen)
        start = spec.prompt_length + 1
        tokens = np.full((self.batch, start + longest), spec.pad_id)
        added = np.full((self.batch, spec.prompt_length), spec.pad_id)
        targets = np.full((self.batch, longest + 1), _IGNORE)
        for row, one in enumerate(chosen):
            history = None
            if rng.random() < _HISTORIES:
                history = self._tokens(self.texts[self.texts.draw(rng, split)])
            one = with_unknown(one, spec.prompt_length, rng)
            prompt = lay_out(one.pieces, history, spec)
            tokens[row, :start], added[row] = prompt.tokens, prompt.added
            said = len(one.states)
            tokens[row, start : start + said] = targets[row, :said] = self._tokens(one)
            targets[row, said] = spec.eos_id
        to = device()
        with autocast():
            logits = self.model(
                torch.from_numpy(self._trained[tokens]).to(to),
                torch.from_numpy(added).to(to),
                start - 1,
                0,
                spec.vocab_size + 1,
            )
        wanted = torch.from_numpy(targets).to(to)
        loss = functional.cross_entropy(
            logits.float().flatten(0, 1), wanted.flatten(), ignore_index=_IGNORE
        )
        asked = wanted != _IGNORE
        right = float((logits.argmax(-1) == wanted)[asked].float().mean())
        return loss, {"top-1": right}, int(asked.sum())

    def _tokens(self, one: Spoken) -> NDArray[np.int64]:
        return phased(one.states, one.places, self.num_states)


def lay_out(
    row: NDArray[np.int64], history: NDArray[np.int64] | None, spec: SemanticSpec
) -> Prompt:
    """Lay out a text's pieces and a history's semantic tokens as the stage does."""
    ids = np.full(spec.prompt_length, spec.text_pad_id, np.int64)
    ids[: len(row)] = row + spec.text_offset
    nothing = np.zeros((0, 0), np.int32)
    past = None if history is None else HistoryPrompt(history, nothing, nothing)
    return semantic_prompt(TextTokens(ids, len(row)), past, spec)


def with_unknown(one: Spoken, prompt_length: int, rng: np.random.Generator) -> Spoken:
    """Put an [UNK] somewhere, now and then: the model learns to pass over it."""
    if rng.random() > _UNKNOWNS or len(one.pieces) == prompt_length:
        return one
    place = int(rng.integers(0, len(one.pieces) + 1))
    row = np.insert(one.pieces, place, UNKNOWN_ID)
    return Spoken(row, one.states, one.places + (one.places >= place))


class CoarseTask(_GPTTask):
    """Semantic tokens, and sometimes a history prompt → the first two codebooks, alternating."""

    name = "coarse"

    def __init__(self, dataset: Dataset, spec: BarkSpec, batch: int) -> None:
        self.dataset, self.spec, self.batch = dataset, spec, batch
        self.model = CausalGPT(spec.coarse.gpt)
        books = torch.from_numpy(dataset.books[: spec.coarse.num_codebooks])
        near = torch.cdist(books, books).topk(_NUM_NEAR + 1, largest=False).indices
        self._near = near[:, :, 1:].numpy()  # without the entry itself

    def loss(self, rng: np.random.Generator, split: Split) -> tuple[Tensor, dict[str, float], int]:
        spec = self.spec
        drawn = [self._window(rng, split) for _ in range(self.batch)]
        length = max(len(tokens) for tokens, _ in drawn)
        tokens = np.full((self.batch, length), spec.coarse.semantic_pad_id)
        targets = np.full((self.batch, length), _IGNORE)
        for row, (sequence, asked_for) in enumerate(drawn):
            tokens[row, : len(sequence)] = sequence
            targets[row, : len(sequence)] = asked_for
        start = spec.coarse.semantic_length + 1
        if split == "train":
            tokens[:, start:] = self._noisy(tokens[:, start:], rng)
        low, high = spec.codebook_range(0)[0], spec.codebook_range(1)[1]
        to = device()
        with autocast():
            logits = self.model(torch.from_numpy(tokens[:, :-1]).to(to), None, start - 1, low, high)
        wanted = torch.from_numpy(targets[:, start:]).to(to)
        asked = wanted != _IGNORE
        wanted = torch.where(asked, wanted - low, wanted)
        each = functional.cross_entropy(
            logits.float().flatten(0, 1), wanted.flatten(), ignore_index=_IGNORE, reduction="none"
        ).view_as(wanted)
        first = asked & (wanted < spec.codebook_size)
        facts = {"book 0": float(each[first].mean().detach())}
        return each[asked].mean(), facts, int(asked.sum())

    def _window(
        self, rng: np.random.Generator, split: Split
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Draw a window's tokens, and which of them are to be predicted."""
        spec, settings = self.spec, CoarseSettings()
        i = self.dataset.draw(rng, split)
        item, kind = self.dataset[i], rng.random()
        history: HistoryPrompt | None = None
        if kind < 0.35:
            history = self.dataset[self.dataset.draw_like(i, rng, split)].history
        windows = Windows.plan(item.semantic, history, settings, spec)
        starts = [spec.codebook_range(k)[0] for k in range(spec.coarse.num_codebooks)]
        flat = (item.codes[:2].astype(np.int64) + np.array(starts)[:, None]).T.reshape(-1)
        step, reach = windows.window, windows.max_history + windows.window
        done = 0
        if kind < 0.35 or kind > 0.7:
            done = step * int(rng.integers(0, -(-len(flat) // step)))
        if history is None and done < windows.max_history:
            done = 0  # the first windows see the same slice: learnt in one go
        prompt = windows.prompt(list(flat[:done])).tokens
        begun = history is None and done == 0
        following = flat[done : done + (reach if begun else step)]
        sequence = np.concatenate([prompt, following])
        wanted = sequence.copy()
        # What was cut out of its middle has no fair beginning.
        wanted[: spec.coarse.semantic_length + 1 + (0 if begun else 40)] = _IGNORE
        return sequence, wanted

    def _noisy(self, tokens: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """Replace some codes by near ones, in place."""
        low, size = self.spec.codebook_range(0)[0], self.spec.codebook_size
        chosen = (tokens >= low) & (tokens < low + 2 * size) & (rng.random(tokens.shape) < _NOISE)
        book, code = np.divmod(tokens[chosen] - low, size)
        near = self._near[book, code, rng.integers(0, _NUM_NEAR, len(code))]
        tokens[chosen] = low + book * size + near
        return tokens


class FineTask(_GPTTask):
    """Codebooks 0…k - 1, and sometimes the start of k → the rest of k, for k in 2…7."""

    name = "fine"

    def __init__(self, dataset: Dataset, spec: BarkSpec, batch: int) -> None:
        self.dataset, self.spec, self.batch = dataset, spec, batch
        self.model = FineGPT(spec.fine)
        self._near = nearness(torch.from_numpy(dataset.books)).to(device())

    def loss(self, rng: np.random.Generator, split: Split) -> tuple[Tensor, dict[str, float], int]:
        spec = self.spec.fine
        pad, window = self.spec.fine_pad_id, spec.window
        codes = np.full((self.batch, window, spec.num_codebooks), pad, np.int64)
        for row in range(self.batch):
            i = self.dataset.draw(rng, split)
            frames = self.dataset[i].codes.T
            if rng.random() < 0.35:  # a history prompt, or an earlier window, before it
                before = self.dataset[self.dataset.draw_like(i, rng, split)].codes.T
                frames = np.concatenate([before[-spec.history :], frames])
            first = int(rng.integers(0, max(0, len(frames) - window) + 1))
            codes[row, : min(window, len(frames) - first)] = frames[first : first + window]
        k = int(rng.integers(self.spec.coarse.num_codebooks, spec.num_codebooks))
        known = int(rng.integers(1, spec.history + 1)) if rng.random() < 0.4 else 0
        to = device()
        wanted = torch.from_numpy(codes[..., k].copy()).to(to)
        seen = codes[..., : k + 1].copy()
        seen[:, known:, k] = pad
        wanted[:, :known] = pad
        with autocast():
            logits = self.model(torch.from_numpy(seen).to(to), k)
        asked = wanted != pad
        codes_only = logits[..., : self.spec.codebook_size].float()[asked]
        loss = functional.cross_entropy(codes_only, self._near[k][wanted[asked]])
        right = float((logits[asked].argmax(-1) == wanted[asked]).float().mean())
        return loss, {"top-1": right}, int(asked.sum())


def nearness(books: Tensor) -> Tensor:
    """Return how right each entry of a book is for each other: float32 [K, V, V], rows sum to 1.

    What the later books hold is hardly to be told from the first ones. Asked for the exact code,
    the model learns to gamble, and each gamble adds noise; asked for what is near, it learns to
    say the entry nearest to what is to be expected.
    """
    energy = (books**2).sum(-1).mean(-1)  # [K]
    distance = torch.cdist(books, books) ** 2
    return torch.softmax(-distance / (_NEARNESS * energy)[:, None, None], dim=-1)
