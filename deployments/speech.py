"""`/v1/audio/speech`: a generation becomes a file, a stream of audio, or a stream of events.

One segment is answered whole, with exact lengths and every header. Several are sent as they are
made: the first while later ones are still in their stages, so what is only known at the end
(duration, finish reason, timings) can not stand in the headers; the events' last one has it.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from typing import Any

import numpy as np
from starlette.responses import Response, StreamingResponse

from deployments.generation import Generation
from deployments.http_errors import error_body
from deployments.provenance import Provenance
from deployments.schemas import SpeechRequest
from pipeline.audio import MEDIA_TYPES, StreamEncoder, SyntheticLabel, change_speed
from pipeline.clip import Clip
from pipeline.errors import BarkError
from pipeline.payloads import Float32
from pipeline.synthesis import SegmentResult


async def speak(
    generation: Generation, body: SpeechRequest, request_id: str, held: AsyncExitStack
) -> Response:
    """Answer a speech request; whatever fails before the first byte raises.

    Args:
        held: what is released when the answer has been sent, or its client has gone.
    """
    segments = generation.segments()
    held.push_async_callback(segments.aclose)
    first = await anext(segments)
    voice = None if generation.request.voice is None else body.voice_name
    name = generation.service.config.model.name
    label = SyntheticLabel(name, generation.id, generation.seed, voice)
    headers = {"X-Bark-Id": generation.id, "X-Bark-Seed": str(generation.seed)}
    headers["Cache-Control"] = "no-store"
    if generation.num_segments > 1 or body.stream_format == "sse":
        pieces = _pieces(first, segments, body, generation, label)
        media_type = MEDIA_TYPES[body.response_format]
        if body.stream_format == "sse":
            pieces, media_type = _events(pieces, generation, request_id), "text/event-stream"
        return StreamingResponse(_held(pieces, held), headers=headers, media_type=media_type)
    async for _ in segments:
        raise AssertionError("more segments than were planned")
    clip = await generation.clip()
    data = await asyncio.to_thread(_file, clip, body, label, generation.service.provenance)
    return Response(
        data, headers={**headers, **facts(clip)}, media_type=MEDIA_TYPES[body.response_format]
    )


def facts(clip: Clip) -> dict[str, str]:
    """Return the headers that are known once all is made."""
    spent = [f"total;dur={clip.timings['total'] * 1000:.1f}"]
    for report in clip.reports:
        place = f";desc=segment-{clip.reports.index(report) // 4}" if len(clip.segments) > 1 else ""
        spent.append(f"{report.stage};dur={report.device_s * 1000:.1f}{place}")
        spent.append(f"{report.stage}-queue;dur={max(0.0, report.queue_s) * 1000:.1f}{place}")
    return {
        "X-Bark-Finish-Reason": clip.finish_reason,
        "X-Bark-Audio-Seconds": f"{clip.duration_s:.3f}",
        "Server-Timing": ", ".join(spent),
    }


def _file(clip: Clip, body: SpeechRequest, label: SyntheticLabel, provenance: Provenance) -> bytes:
    samples = change_speed(clip.samples, clip.sample_rate, body.speed)
    return provenance.file(samples, clip.sample_rate, body.response_format, label)


async def _pieces(
    first: SegmentResult,
    rest: AsyncIterator[SegmentResult],
    body: SpeechRequest,
    generation: Generation,
    label: SyntheticLabel,
) -> AsyncIterator[bytes]:
    """Yield the encoded stream, segment by segment, with the request's silence in between."""
    rate = first.sound.sample_rate
    encoder = StreamEncoder(body.response_format, rate, label)
    silence = np.zeros(round(generation.request.silence_s * rate / body.speed), np.float32)

    def encoded(samples: Float32) -> bytes:
        return encoder.write(change_speed(samples, rate, body.speed))

    yield await asyncio.to_thread(encoded, first.sound.samples)
    async for segment in rest:
        if len(silence):
            yield await asyncio.to_thread(encoder.write, silence)
        yield await asyncio.to_thread(encoded, segment.sound.samples)
    yield await asyncio.to_thread(encoder.close)


async def _events(
    pieces: AsyncIterator[bytes], generation: Generation, request_id: str
) -> AsyncIterator[bytes]:
    """Yield OpenAI's server-sent events; an error becomes the last of them."""
    try:
        async for piece in pieces:
            if piece:
                audio = base64.b64encode(piece).decode()
                yield _event({"type": "speech.audio.delta", "audio": audio})
        clip = await generation.clip()
        pieces_in = generation.service.stages.count_tokens(_spoken_text(generation))
        frames = sum(report.tokens for report in clip.reports if report.stage == "codec")
        usage = {"input_tokens": pieces_in, "output_tokens": frames}
        usage["total_tokens"] = pieces_in + frames
        done = {"type": "speech.audio.done", "usage": usage, "id": clip.id, "seed": clip.seed}
        ours = {"finish_reason": clip.finish_reason, "audio_seconds": clip.duration_s}
        yield _event({**done, **ours, "timings": clip.timings})
    except BarkError as error:
        yield _event({"type": "error", **error_body(error, request_id)})


def _spoken_text(generation: Generation) -> str:
    return " ".join(turn.text for turn in generation.request.all_turns)


def _event(content: Mapping[str, Any]) -> bytes:
    return f"data: {json.dumps(content)}\n\n".encode()


async def _held(pieces: AsyncIterator[bytes], held: AsyncExitStack) -> AsyncIterator[bytes]:
    async with held:
        async for piece in pieces:
            yield piece
