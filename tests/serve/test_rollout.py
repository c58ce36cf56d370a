"""A rolling update under traffic: no request fails, and no sound is made of two models."""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from safetensors.torch import load_file, save_file

from pipeline.models.locate import locate

ONE = {"autoscaling_config": None, "num_replicas": 1, "health_check_period_s": 1}
TEXTS = ["Good morning.", "How are you today?", "One two three. Four five six."]


@pytest.fixture(scope="module")
def other_model(tmp_path_factory):
    """Return nano with another opinion in every stage: same shapes, another digest."""
    folder = tmp_path_factory.mktemp("models") / "other"
    shutil.copytree(locate("nano"), folder)
    weights = load_file(folder / "model.safetensors")
    for key in weights:
        if key.endswith(("lm_head.weight", "lm_heads.0.weight", "codebook.embed")):
            weights[key] = weights[key] * 1.25
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def speak(served, number: int) -> tuple[int, str, str]:
    body = {"input": TEXTS[number], "seed": number, "response_format": "pcm", "model": "tts-1"}
    answer = httpx.post(f"{served.url}/v1/audio/speech", json=body, timeout=500)
    sha = hashlib.sha256(answer.content).hexdigest()
    return answer.status_code, answer.headers.get("X-Bark-Id", answer.text), sha


class Traffic:
    """Four callers, one request after the other, until the block ends."""

    def __init__(self, served) -> None:
        self._served, self._stop = served, threading.Event()
        self.answers: list[tuple[int, tuple[int, str, str]]] = []

    def __enter__(self):
        self._pool = ThreadPoolExecutor(4)
        self._callers = [self._pool.submit(self._call, n) for n in range(4)]
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        for caller in self._callers:
            caller.result()
        self._pool.shutdown()

    def _call(self, number: int) -> None:
        while not self._stop.is_set():
            number = (number + 1) % len(TEXTS)
            self.answers.append((number, speak(self._served, number)))


@pytest.mark.slow
def test_no_request_fails_while_settings_and_model_change(served, other_model):
    served.deploy(every=ONE, Ingress=ONE)
    old = [speak(served, number) for number in range(len(TEXTS))]
    with Traffic(served) as settings:
        served.deploy(args={"admission": {"timeout_s": 500}}, every=ONE, Ingress=ONE)
    assert {answer for _, answer in settings.answers} <= set(old)

    with Traffic(served) as model:
        served.deploy(args={"model": {"name": str(other_model)}}, every=ONE, Ingress=ONE)
    new = [speak(served, number) for number in range(len(TEXTS))]
    assert not {sha for *_, sha in old} & {sha for *_, sha in new}
    assert len(model.answers) > 8
    assert Counter(status for _, (status, *_) in model.answers).keys() == {200}
    for number, answer in model.answers:
        assert answer in (old[number], new[number]), "a sound of two models, or under a wrong id"
