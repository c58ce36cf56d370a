"""Every error that this package raises on purpose.

```
BarkError
├─ InvalidRequest            the caller can mend the request
│  ├─ TextTooLong
│  ├─ UnsupportedFormat
│  ├─ IdempotencyKeyReused
│  └─ InvalidVoice
├─ VoiceNotFound
├─ GenerationNotFound
├─ InvalidCheckpoint         the model's files are missing, broken or foreign
├─ Overloaded                try again later
├─ DeadlineExceeded
├─ Cancelled
├─ ModelChanged              a segment's tokens belong to a model that is no longer here
├─ StoreUnavailable
├─ LeaseLost                 a job belongs to another worker by now
└─ EngineFailed              ours: the engine can not go on
```

An error carries a stable `code` for programs and a `message` that is safe to show to a caller.
The classes know no HTTP. All arguments are positional, so that every error survives pickling
between processes.
"""

from __future__ import annotations


class BarkError(Exception):
    """Something that bark-serve reports in its own words."""

    code = "bark_error"

    def __init__(self, message: str, *rest: object) -> None:
        super().__init__(message, *rest)
        self.message = message

    def __str__(self) -> str:
        return self.message


class InvalidRequest(BarkError):
    """The request can not be carried out as it stands; the message says what to change."""

    code = "invalid_request"


class TextTooLong(InvalidRequest):
    """The text is longer than this service accepts."""

    code = "text_too_long"


class UnsupportedFormat(InvalidRequest):
    """The audio format is not one that we write."""

    code = "unsupported_format"


class IdempotencyKeyReused(InvalidRequest):
    """The same Idempotency-Key came with another request."""

    code = "idempotency_key_reused"


class InvalidVoice(InvalidRequest):
    """A voice preset was found, but its arrays are not a valid history prompt."""

    code = "invalid_voice"


class VoiceNotFound(BarkError):
    """No voice preset has this name or path."""

    code = "voice_not_found"


class GenerationNotFound(BarkError):
    """No generation or job has this id, or it has been forgotten."""

    code = "generation_not_found"


class InvalidCheckpoint(BarkError):
    """The model's files are missing, truncated or not Bark's; the message names file or key."""

    code = "invalid_checkpoint"


class Overloaded(BarkError):
    """The queue is full; `retry_after_s` is a hint."""

    code = "overloaded"

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message, retry_after_s)
        self.retry_after_s = retry_after_s


class DeadlineExceeded(BarkError):
    """The request's time ran out before its sound was ready."""

    code = "deadline_exceeded"


class Cancelled(BarkError):
    """The caller withdrew the request."""

    code = "cancelled"


class ModelChanged(BarkError):
    """The model was exchanged between two stages of a segment, which starts over with the new."""

    code = "model_changed"


class StoreUnavailable(BarkError):
    """The store of voices and outputs does not answer, or can not be written."""

    code = "store_unavailable"


class LeaseLost(BarkError):
    """The job belongs to another worker by now, or was cancelled: stop working on it."""

    code = "lease_lost"


class EngineFailed(BarkError):
    """The engine can not go on (out of memory, a broken device); its replica is unhealthy."""

    code = "engine_failed"
