import math

import pytest

from pipeline.errors import InvalidRequest
from pipeline.request import SynthesisRequest

BAD = [
    pytest.param({}, "either text or turns", id="nothing to say"),
    pytest.param({"text": "a", "turns": [{"text": "b"}]}, "either text or turns", id="both"),
    pytest.param({"turns": []}, "turns is empty", id="no turns"),
    pytest.param({"text": "a", "seed": -1}, "seed", id="seed below"),
    pytest.param({"text": "a", "seed": 2**63}, "seed", id="seed above"),
    pytest.param({"text": "a", "seed": 1.5}, "seed", id="seed broken"),
    pytest.param({"text": "a", "semantic": {"temperature": math.nan}}, "semantic.temp", id="nan"),
    pytest.param({"text": "a", "semantic": {"temperature": -0.1}}, "semantic.temp", id="negative"),
    pytest.param({"text": "a", "coarse": {"temperature": math.inf}}, "coarse.temp", id="inf"),
    pytest.param({"text": "a", "semantic": {"top_k": 0}}, "semantic.top_k", id="top_k 0"),
    pytest.param({"text": "a", "coarse": {"top_p": 0}}, "coarse.top_p", id="top_p 0"),
    pytest.param({"text": "a", "coarse": {"top_p": 1.1}}, "coarse.top_p", id="top_p above 1"),
    pytest.param({"text": "a", "fine": {"top_k": 3}}, "fine.top_k", id="a field fine lacks"),
    pytest.param({"text": "a", "speeed": 1}, "speeed", id="typing error"),
    pytest.param({"text": "a", "silence_s": -1}, "silence_s", id="negative silence"),
    pytest.param({"text": "a", "timeout_s": 0}, "timeout_s", id="no time"),
    pytest.param({"text": "a", "long_form": "x"}, "long_form", id="unknown mode"),
    pytest.param({"text": 7}, "text", id="no string"),
]


@pytest.mark.parametrize(("fields", "names"), BAD)
def test_bad_request_is_refused_by_name(fields, names):
    with pytest.raises(InvalidRequest, match=names.replace(".", r"\.")):
        SynthesisRequest.parse(fields)


def test_defaults_are_the_originals():
    request = SynthesisRequest.parse({"text": "a"})
    assert (request.semantic.temperature, request.coarse.temperature) == (0.7, 0.7)
    assert (request.fine.temperature, request.semantic.min_eos_p) == (0.5, 0.2)
    assert request.semantic.top_k is None


def test_none_as_fine_temperature_is_greedy():
    assert SynthesisRequest.parse({"text": "a", "fine": {"temperature": None}}).fine == (
        SynthesisRequest.parse({"text": "a", "fine": {"temperature": 0}}).fine
    )


def test_canonical_form_ignores_what_does_not_sound():
    def canonical(voice="v", digest="d", **fields):
        request = SynthesisRequest.parse({"text": "a", "voice": voice, **fields})
        return request.canonical({voice: digest})

    same = canonical()
    assert canonical(seed=5, timeout_s=3) == same
    assert canonical(voice="other name") == same
    assert canonical(digest="e") != same
    assert canonical(silence_s=0.5) != same
    as_turn = SynthesisRequest.parse({"turns": [{"text": "a", "voice": "v"}]})
    assert as_turn.canonical({"v": "d"}) == same


def test_turns_without_a_voice_take_the_requests():
    request = SynthesisRequest.parse(
        {"turns": [{"text": "a"}, {"text": "b", "voice": "w"}], "voice": "v"}
    )
    assert [turn.voice for turn in request.all_turns] == ["v", "w"]
