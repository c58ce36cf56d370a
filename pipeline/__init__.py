"""Bark on one machine: text in, sound out, through four stages in one process."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.bark import Bark
    from pipeline.clip import Clip

__all__ = ["Bark", "Clip"]


def __getattr__(name: str) -> Any:
    # late, so that a process that needs only requests, errors or payloads never imports torch
    if name == "Bark":
        from pipeline.bark import Bark

        return Bark
    if name == "Clip":
        from pipeline.clip import Clip

        return Clip
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
