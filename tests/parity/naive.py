"""Bark the plain way: no cache, no batch, no engine; a whole forward pass for every token.

Written from the original's rules over transformers' networks, greedy, as the reference for our
own seeded cases. Slow on purpose: nothing is remembered between two tokens.
"""

import math

import numpy as np
import torch

RATIO = 75 / 49.9 * 2


def _last(network, ids):
    return network(torch.as_tensor(ids)[None]).logits[0, -1].numpy()


@torch.inference_mode()
def semantic(model, text_ids, history, limit):
    """text_ids: int64 [256], offset and padded; history: int64 [n] or None → int64 [m]."""
    past = np.full(256, 10_000)
    if history is not None:
        past[: len(history[-256:])] = history[-256:]
    table, ids = model.semantic.input_embeds_layer, torch.as_tensor
    prompt = table(ids(text_ids)) + table(ids(past))
    tokens = []
    while len(tokens) < limit:
        rest = table(ids(np.array([129_599, *tokens])))
        logits = model.semantic(inputs_embeds=torch.cat([prompt, rest])[None]).logits[0, -1]
        token = int(logits[:10_001].argmax())
        if token == 10_000:
            break
        tokens.append(token)
    return np.array(tokens)


@torch.inference_mode()
def coarse(model, tokens, history):
    """tokens: int64 [n]; history: (semantic [s], coarse [2, m]) or None → int32 [2, F]."""
    before, made = np.empty(0, int), []
    x = np.empty(0, int)
    if history is not None:
        flat = (history[1] + np.array([[10_000], [11_024]])).T.reshape(-1)
        count = len(history[0])
        kept = min(209, count - count % 2, math.floor(len(flat) / RATIO))
        before, x = history[0][-kept:], flat[-round(kept * RATIO) :][:-2]
    everything = np.concatenate([before, tokens])
    total = round(math.floor(len(tokens) * RATIO / 2) * 2)
    while len(made) < total:
        if len(made) % 60 == 0:
            now = len(before) + round(len(made) / RATIO)
            ahead = everything[max(0, now - 209) :][:256]
            padded = np.concatenate([ahead, np.full(256 - len(ahead), 12_048)])
            window = [*padded, 12_050, *np.concatenate([x, np.array(made, int)])[-630:]]
        start = 10_000 if len(made) % 2 == 0 else 11_024
        logits = _last(model.coarse_acoustics, np.array(window, dtype=np.int64))
        token = start + int(logits[start : start + 1024].argmax())
        made.append(token)
        window.append(token)
    return (np.array(made).reshape(-1, 2).T - [[10_000], [11_024]]).astype(np.int32)


@torch.inference_mode()
def fine(model, given, history):
    """given: int [K, F]; history: int [8, m] or None → int32 [8, F]."""
    past = np.empty((8, 0), int) if history is None else history[:, -512:]
    frames = given.shape[1]
    new = np.full((8, frames), 1024)
    new[: len(given)] = given
    codes = np.concatenate([past, new], axis=1)
    codes = np.pad(codes, ((0, 0), (0, max(0, 1024 - codes.shape[1]))), constant_values=1024)
    windows = max(0, math.ceil((frames - (1024 - past.shape[1])) / 512)) + 1
    for v in range(windows):
        start = min(512 * v, codes.shape[1] - 1024)
        fill = min(past.shape[1] + 512 * v, codes.shape[1] - 512)
        for codebook in range(len(given), 8):
            view = np.ascontiguousarray(codes[:, start : start + 1024].T)
            logits = model.fine_acoustics(codebook, torch.as_tensor(view)[None]).logits[0]
            codes[codebook, fill : start + 1024] = logits[fill - start :, :1024].argmax(-1).numpy()
    return codes[:, past.shape[1] : past.shape[1] + frames].astype(np.int32)
