"""HTTP bodies, as OpenAI names them, with ours beside them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pipeline.request import (
    SEED_STOP,
    CoarseSettings,
    FineSettings,
    SemanticSettings,
)

ResponseFormat = Literal["mp3", "opus", "aac", "flac", "wav", "pcm"]


class VoiceReference(BaseModel):
    """A voice by its id, as newer clients of OpenAI send it."""

    model_config = ConfigDict(extra="forbid")

    id: str


class _Spoken(BaseModel):
    """What is to be said, and how. From `seed` on the fields are ours."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"model": "nano", "input": "Hello, I am a small Bark.", "voice": "heart"}]
        },
    )

    model: str = Field(description="a name that `/v1/models` lists, or an alias of one")
    input: Annotated[
        str, Field(min_length=1, description="what to say, of any language and length")
    ]
    voice: str | VoiceReference = Field("default", description="a preset; `default` is none")
    response_format: ResponseFormat = "mp3"
    speed: Annotated[float, Field(ge=0.25, le=4.0)] = 1.0
    seed: Annotated[int, Field(ge=0, lt=SEED_STOP)] | None = None
    semantic: SemanticSettings = SemanticSettings()
    coarse: CoarseSettings = CoarseSettings()
    fine: FineSettings = FineSettings()
    silence_s: Annotated[float, Field(ge=0, le=10)] = 0.25
    long_form: Literal["parallel", "chained"] = "parallel"
    language: str | None = None
    timeout_s: Annotated[float, Field(gt=0, le=86_400)] | None = None

    @property
    def voice_name(self) -> str:
        return self.voice if isinstance(self.voice, str) else self.voice.id

    def fields(self) -> dict[str, Any]:
        """Return what `SynthesisRequest` calls these."""
        ours = ("seed", "semantic", "coarse", "fine", "silence_s", "long_form", "language")
        fields = self.model_dump(include={*ours, "timeout_s"})
        return {"text": self.input, "voice": self.voice_name, **fields}


class SpeechRequest(_Spoken):
    """The body of `POST /v1/audio/speech`."""

    stream_format: Literal["audio", "sse"] = "audio"
    store: bool = Field(False, description="keep sound, tokens and manifest under `X-Bark-Id`")


class GenerationRequest(_Spoken):
    """The body of `POST /v1/generations`."""

    webhook: Annotated[str, Field(max_length=2000)] | None = Field(
        None, description="an https address that is told when the generation has ended"
    )


class AudioFile(BaseModel):
    """The sound of a generation. `link` is good for a while, and needs no key."""

    url: str
    link: str | None = None
    sha256: str
    bytes: int
    media_type: str


class GenerationError(BaseModel):
    """Why there is no sound."""

    code: str
    message: str


class GenerationCard(BaseModel):
    """A job: how far it is, and what came of it.

    progress: `segments` of the text, and how many of them each stage has done.
    """

    id: str
    object: Literal["generation"] = "generation"
    status: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    created_at: float | None = None
    ended_at: float | None = None
    progress: dict[str, int] = {}
    attempts: int = 0
    generation_id: str | None = Field(None, description="identity of the sound, as in `X-Bark-Id`")
    seed: int | None = None
    finish_reason: str | None = None
    duration_s: float | None = None
    unknown_words: list[str] = []
    timings: dict[str, float] = {}
    audio: AudioFile | None = None
    error: GenerationError | None = None


class ErrorDetail(BaseModel):
    """What went wrong: `code` for programs, `message` for people."""

    message: str
    type: str
    code: str
    param: str | None = None
    request_id: str | None = None


class ErrorBody(BaseModel):
    """OpenAI's envelope."""

    error: ErrorDetail


class ModelCard(BaseModel):
    """A model, as OpenAI lists them."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "bark-serve"
    digest: str


class ModelList(BaseModel):
    """The loaded model under each of its names."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class VoiceCard(BaseModel):
    """A voice preset. digest: sha256 of its arrays. source: `model`, or how it came to the store.

    consent: for one that was uploaded, who agreed to it.
    """

    name: str
    digest: str | None = None
    language: str | None = None
    source: str
    consent: str | None = None
    seconds: float | None = None


class VoiceList(BaseModel):
    """Every preset that may be named."""

    data: list[VoiceCard]


class Health(BaseModel):
    """`ok`, or what is missing."""

    status: str
