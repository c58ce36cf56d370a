"""An id stays what it was, and a mark in the sound makes another."""

from pipeline.identity import generation_id
from pipeline.request import SynthesisRequest

REQUEST = SynthesisRequest.parse({"text": "Hello", "voice": "oak"})


def identify(**more: str) -> str:
    return generation_id(
        REQUEST,
        7,
        model_digest="0" * 64,
        voice_digests={"oak": "1" * 64},
        precision="fp32",
        device_class="cpu-native-torch-2.13.0-avx512",
        **more,
    )


def test_an_id_of_an_earlier_version_is_still_the_same() -> None:
    assert identify() == "d0af1382e3b914602d344fd7915cc552"


def test_a_mark_makes_another_id() -> None:
    marks = ("perth 1.0.1 torch-2.13.0-avx512", "perth 1.0.2 torch-2.13.0-avx512")
    assert len({identify(), *(identify(watermark=mark) for mark in marks)}) == 3
