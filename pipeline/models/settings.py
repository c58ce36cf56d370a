"""A JSON object read value by value: every number's kind and range checked, every error named."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import InvalidCheckpoint

# More layers or codebooks than this are a broken file: tensors are looked for one by one.
MAX_COUNT = 256


@dataclass(frozen=True, slots=True)
class Settings:
    """A (section of a) JSON file. A value of `null` counts as absent."""

    path: Path
    values: Mapping[str, Any]
    section: str = ""

    @classmethod
    def read(cls, path: Path) -> Settings:
        """Read a file that holds one JSON object.

        Raises:
            InvalidCheckpoint: the file is missing, no JSON or no object.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InvalidCheckpoint(
                f"{path} is missing: copy or download the model again"
            ) from None
        except (OSError, ValueError, RecursionError) as error:
            raise InvalidCheckpoint(f"{path} can not be read as JSON ({error})") from error
        if not isinstance(content, dict):
            raise InvalidCheckpoint(f"{path} holds a {type(content).__name__}, not a JSON object")
        return cls(path, content)

    def __contains__(self, key: str) -> bool:
        return self.values.get(key) is not None

    def part(self, key: str, *, required: bool = False) -> Settings:
        """Return a nested object; an absent one is empty unless `required`."""
        value = self.values.get(key)
        if value is None and required:
            raise InvalidCheckpoint(f"{self.name(key)} is missing: is this a Bark model?")
        if value is not None and not isinstance(value, Mapping):
            raise InvalidCheckpoint(f"{self.name(key)} must be a JSON object, not {value!r}")
        return Settings(self.path, value or {}, f"{self.section}{key}.")

    def name(self, key: str) -> str:
        return f"{self.path}: {self.section}{key}"

    def text(self, key: str, default: str) -> str:
        value = self._value(key, default)
        return value if isinstance(value, str) else self._refuse(key, value, "a string")

    def integer(self, key: str, default: int, *, minimum: int = 0, maximum: int = 2**31) -> int:
        value = self._value(key, default)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            self._refuse(key, value, "a whole number")
        if not minimum <= value <= maximum:
            self._refuse(key, value, f"a whole number from {minimum} to {maximum}")
        return int(value)

    def number(self, key: str, default: float) -> float:
        value = self._value(key, default)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < 1e9:
            self._refuse(key, value, "a number above 0")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self._value(key, default)
        return value if isinstance(value, bool) else self._refuse(key, value, "true or false")

    def integers(self, key: str, default: tuple[int, ...]) -> tuple[int, ...]:
        value = self._value(key, default)
        if not isinstance(value, (list, tuple)) or not value:
            self._refuse(key, value, "a list of whole numbers above 0")
        if not all(type(item) is int and item > 0 for item in value):
            self._refuse(key, value, "a list of whole numbers above 0")
        return tuple(value)

    def _value(self, key: str, default: Any) -> Any:
        value = self.values.get(key)
        return default if value is None else value

    def _refuse(self, key: str, value: object, wanted: str) -> Any:
        raise InvalidCheckpoint(f"{self.name(key)} is {value!r}, expected {wanted}")
