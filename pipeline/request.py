"""SynthesisRequest: what a caller may ask for, checked once, with messages for people.

The same fields serve the command line, Python, and later HTTP, handles and bulk rows.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from pipeline.errors import InvalidRequest
from pipeline.spec import CoarseSpec

Temperature = Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)]
TopK = Annotated[int, Field(ge=1)]
Probability = Annotated[float, Field(gt=0, le=1)]
MAX_TURNS = 1000
MAX_SILENCE_S = 600
SEED_STOP = 2**63  # seeds fit a signed 64-bit integer everywhere


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class SemanticSettings(_Settings):
    """How text becomes semantic tokens. `temperature` 0 is greedy."""

    temperature: Temperature = 0.7
    top_k: TopK | None = None
    top_p: Probability | None = None
    min_eos_p: Probability | None = 0.2
    max_duration_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    allow_early_stop: bool = True


class CoarseSettings(_Settings):
    """How semantic tokens become coarse codes. None leaves a number to the model."""

    temperature: Temperature = 0.7
    top_k: TopK | None = None
    top_p: Probability | None = None
    max_history: Annotated[int, Field(ge=1)] | None = None
    window: Annotated[int, Field(ge=1)] | None = None

    def for_model(self, spec: CoarseSpec) -> tuple[int, int]:
        """Return `max_history` and `window` as they are in a model.

        Raises:
            InvalidRequest: it has no room for them.
        """
        max_history = self.max_history or spec.max_history
        window = self.window or spec.window
        if not spec.window <= max_history <= spec.max_history:
            raise InvalidRequest(
                f"coarse.max_history must be {spec.window}…{spec.max_history}, not {max_history}"
            )
        room = spec.gpt.block_size - spec.semantic_length
        if max_history + window > room:
            raise InvalidRequest(
                f"coarse.max_history + coarse.window must be at most {room}, "
                f"not {max_history} + {window}"
            )
        return max_history, window


class FineSettings(_Settings):
    """How coarse codes become all codes. `temperature` 0 is greedy (the original's None)."""

    temperature: Temperature = 0.5

    @field_validator("temperature", mode="before")
    @classmethod
    def _none_is_greedy(cls, value: Any) -> Any:
        return 0.0 if value is None else value


class Turn(_Settings):
    """One speaker's words in a dialogue."""

    text: str
    voice: str | None = None


class SynthesisRequest(_Settings):
    """One generation: a text or a dialogue, a voice, a seed, and settings by stage.

    seed: None lets the service choose; the result reports it.
    silence_s: between segments. long_form: `parallel` gives every segment the same voice preset,
    `chained` lets each continue from the last.
    """

    text: str | None = None
    turns: Annotated[tuple[Turn, ...], Field(max_length=MAX_TURNS)] | None = None
    voice: str | None = None
    seed: Annotated[int, Field(ge=0, lt=SEED_STOP)] | None = None
    semantic: SemanticSettings = SemanticSettings()
    coarse: CoarseSettings = CoarseSettings()
    fine: FineSettings = FineSettings()
    silence_s: Annotated[float, Field(ge=0, le=10)] = 0.25
    long_form: Literal["parallel", "chained"] = "parallel"
    language: str | None = None
    timeout_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None

    @field_validator("language", "voice")
    @classmethod
    def _is_text(cls, value: str | None) -> str | None:
        if value is not None and not value.isprintable():
            raise ValueError("holds characters that are no text")
        return value

    @model_validator(mode="after")
    def _says_one_thing(self) -> SynthesisRequest:
        if (self.text is None) == (self.turns is None):
            raise ValueError("give either text or turns")
        if self.turns is not None and not self.turns:
            raise ValueError("turns is empty")
        if self.silence_s * (len(self.turns or ()) - 1) > MAX_SILENCE_S:
            raise ValueError(f"silence_s between so many turns is more than {MAX_SILENCE_S} s")
        return self

    @property
    def all_turns(self) -> tuple[Turn, ...]:
        """The dialogue, or the text as its only turn."""
        if self.turns is not None:
            return tuple(
                turn if turn.voice is not None else Turn(text=turn.text, voice=self.voice)
                for turn in self.turns
            )
        return (Turn(text=self.text or "", voice=self.voice),)

    @classmethod
    def parse(cls, fields: Mapping[str, Any]) -> SynthesisRequest:
        """Check a caller's fields.

        Raises:
            InvalidRequest: names every field that is wrong, and how.
        """
        try:
            return cls.model_validate(dict(fields))
        except ValidationError as error:
            raise InvalidRequest(_explain(error)) from None

    def canonical(self, voice_digests: Mapping[str, str]) -> str:
        """Return the JSON that identifies the result: all that decides the sound, but the seed.

        voice_digests: voice name → digest of its arrays; names do not count.
        """
        fields = self.model_dump(exclude={"seed", "timeout_s", "text", "turns", "voice"})
        fields["turns"] = [
            [turn.text, None if turn.voice is None else voice_digests[turn.voice]]
            for turn in self.all_turns
        ]
        return json.dumps(fields, sort_keys=True, ensure_ascii=True, allow_nan=False)


def _explain(error: ValidationError) -> str:
    """Turn pydantic's list into one line: field: what is wrong (what was given)."""
    parts = []
    for item in error.errors(include_url=False):
        place = ".".join(str(step) for step in item["loc"])
        given = item.get("input")
        shown = ""
        if isinstance(given, (bool, int, float, str)):
            text = repr(given)
            shown = f" (got {text if len(text) < 60 else text[:57] + '...'})"
            if isinstance(given, float) and not math.isfinite(given):
                shown = f" (got {given})"
        message = item["msg"].removeprefix("Value error, ")
        parts.append(f"{place}: {message}{shown}" if place else f"{message}")
    return "; ".join(parts)
