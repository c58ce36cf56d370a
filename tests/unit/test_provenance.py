"""What the service answers and keeps is marked and signed, as its settings say."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority

from deployments.config import AppConfig
from deployments.generation import Generation
from deployments.keeping import keep, keep_rendition
from deployments.provenance import Provenance
from deployments.schemas import SpeechRequest
from deployments.service import Service
from deployments.speech import speak
from deployments.store_access import StoreAccess
from pipeline.audio.credentials import read_credentials
from pipeline.audio.decode import decode
from pipeline.bark import Bark
from pipeline.errors import InvalidRequest
from pipeline.watermark import FOUND, Watermark

FIELDS = {"text": "Hello, I am a small Bark.", "voice": "oak", "seed": 7}


@pytest.fixture(scope="module")
def bark() -> Iterator[Bark]:
    with Bark.load() as bark:
        yield bark


@pytest.fixture
def pair(tmp_path: Path) -> dict[str, str]:
    certificate, key = Authority(tmp_path).issue("service")
    return {"c2pa_certificate": str(certificate), "c2pa_key": str(key)}


def service(bark: Bark, folder: Path, **provenance: Any) -> Service:
    config = AppConfig.model_validate({"store": {"url": str(folder)}, "provenance": provenance})
    access = StoreAccess(config)
    return Service(config, bark.stages, bark.voices, model_digest=bark.model_digest, store=access)


def is_marked(data: bytes) -> bool:
    samples, rate, _ = decode(data)
    return Watermark().confidence(samples, rate) >= FOUND


async def answered(generation: Generation, audio_format: str) -> bytes:
    body = SpeechRequest.model_validate(
        {"model": "nano", "input": "-", "response_format": audio_format}
    )
    async with AsyncExitStack() as held:
        return bytes((await speak(generation, body, "request", held)).body)


def test_everything_is_signed_and_marked_if_so_configured(
    bark: Bark, tmp_path: Path, pair: dict[str, str]
) -> None:
    served = service(bark, tmp_path / "data", watermark=True, **pair)

    async def main() -> None:
        generation = await served.start(FIELDS)
        answer = await answered(generation, "mp3")
        clip = await generation.clip()
        facts = await keep(generation)
        assert facts["watermark"] == "perth 1.0.1"
        file = await keep_rendition(generation, "mp3", 1.25)
        kept = [served.store.generations.audio(clip.id), served.store.store.get(file["key"])]
        for data in (answer, *kept):
            assert data is not None
            found = read_credentials(data)
            assert (found.state, found.signer) == ("valid", "service of Tests")
            assert found.generation_id == clip.id
            assert is_marked(data)
        assert read_credentials(await answered(await served.start(FIELDS), "flac")).state == "none"

    asyncio.run(main())


def test_nothing_is_by_default(bark: Bark, tmp_path: Path) -> None:
    plain, marked = service(bark, tmp_path), service(bark, tmp_path, watermark=True)

    async def main() -> None:
        generation = await plain.start(FIELDS)
        data = await answered(generation, "wav")
        assert read_credentials(data).state == "none"
        assert not is_marked(data)
        clip = await generation.clip()
        assert generation.manifest(clip)["watermark"] is None
        assert clip.id == bark.generate(**FIELDS).id
        # the same request for another sound is another generation, and another job
        assert (await marked.start(FIELDS)).id != clip.id
        assert marked.digest("request") != plain.digest("request")

    asyncio.run(main())


def test_a_wrong_certificate_is_found_at_the_start(
    bark: Bark, tmp_path: Path, pair: dict[str, str]
) -> None:
    with pytest.raises(InvalidRequest, match=r"can not read .*nowhere\.pem"):
        service(bark, tmp_path, **{**pair, "c2pa_certificate": str(tmp_path / "nowhere.pem")})
    _, other_key = Authority(tmp_path).issue("other")
    with pytest.raises(InvalidRequest, match=r"other\.key is not the key"):
        service(bark, tmp_path, **{**pair, "c2pa_key": str(other_key)})


def test_what_is_off_loads_nothing() -> None:
    off = Provenance(AppConfig().provenance)
    assert (off.finish, off.watermark, off.identity) == (None, None, None)
