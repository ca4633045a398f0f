"""Strict JSON for messages: every field named, typed and bounded, and nothing else accepted.

Bytes from outside become a `Fields`, from which a message takes each field by name with its limits;
`done` refuses what is left over. Whatever the bytes, only `FormatError` is raised. The size is checked
before the text is parsed, so a message costs at most a small multiple of its limit.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from emberfleet.core.errors import FormatError

MAX_MESSAGE_BYTES: Final = 1 << 20
MAX_INTEGER: Final = (1 << 53) - 1
"""Largest integer that every JSON parser keeps exact."""

Scalar: TypeAlias = str | int | float | bool
JsonObject: TypeAlias = dict[str, Any]


def encode_json(value: Mapping[str, Any]) -> bytes:
    """Write canonical JSON: sorted names, no spaces, ASCII; the same value gives the same bytes."""
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")
    except ValueError as error:
        raise NotFiniteError("message: holds a number that is not finite") from error


def to_base64(data: bytes) -> str:
    """Standard base64 with padding, as `Fields.data` reads it."""
    return base64.b64encode(data).decode("ascii")


class NotFiniteError(FormatError):
    """A number from outside is NaN or an infinity."""


class Fields:
    """The fields of one JSON object from outside, taken out one by one."""

    def __init__(self, values: Mapping[str, Any], what: str) -> None:
        self._values = dict(values)
        self._what = what

    @classmethod
    def parse(cls, data: bytes, what: str, limit: int = MAX_MESSAGE_BYTES) -> Fields:
        """Read one JSON object of at most `limit` bytes; `what` names the message in errors."""
        if len(data) > limit:
            raise FormatError(f"{what}: {len(data)} bytes, expected at most {limit}")
        try:
            value = json.loads(
                data.decode("utf-8"),
                object_pairs_hook=_without_duplicates,
                parse_constant=_refuse_constant,
                parse_int=_parse_integer,
            )
        except (ValueError, RecursionError) as error:
            raise FormatError(f"{what}: not the JSON expected here") from error
        return cls.of(value, what)

    @classmethod
    def of(cls, value: object, what: str) -> Fields:
        """Take an already parsed value, which must be an object."""
        if not isinstance(value, dict):
            raise FormatError(f"{what}: expected a JSON object")
        return cls(value, what)

    def text(self, name: str, max_length: int = 200, default: str | None = None) -> str:
        """A text of 1 to `max_length` printable characters (or empty, when a default is given)."""
        value = self._take(name, default)
        if not isinstance(value, str) or len(value) > max_length or not (value or default is not None):
            raise self.wrong(name, f"text of at most {max_length} characters")
        if not value.isprintable():
            raise self.wrong(name, "printable text")
        return value

    def choice(self, name: str, allowed: tuple[str, ...]) -> str:
        """One of the words allowed."""
        value = self._take(name, None)
        if not isinstance(value, str) or value not in allowed:
            raise self.wrong(name, f"one of {', '.join(allowed)}")
        return value

    def integer(self, name: str, low: int = 0, high: int = MAX_INTEGER, default: int | None = None) -> int:
        """An integer in ``[low, high]``; a bool is not one."""
        value = self._take(name, default)
        if type(value) is not int or not low <= value <= high:
            raise self.wrong(name, f"an integer from {low} to {high}")
        return value

    def boolean(self, name: str) -> bool:
        """True or false; 0 and 1 are not."""
        value = self._take(name, None)
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return value

    def number(self, name: str, low: float, high: float, default: float | None = None) -> float:
        """A finite number in ``[low, high]``."""
        value = self._take(name, default)
        if type(value) not in (int, float) or not math.isfinite(value) or not low <= value <= high:
            raise self.wrong(name, f"a number from {low:g} to {high:g}")
        return float(value)

    def data(self, name: str, size: int | None = None, max_bytes: int = MAX_MESSAGE_BYTES) -> bytes:
        """Bytes in base64: exactly `size` of them, or at most `max_bytes`."""
        value = self._take(name, None)
        expected = f"base64 of {size} bytes" if size is not None else f"base64 of at most {max_bytes} bytes"
        if not isinstance(value, str):
            raise self.wrong(name, expected)
        try:
            found = base64.b64decode(value.encode("ascii"), validate=True)
        except (UnicodeEncodeError, binascii.Error) as error:
            raise self.wrong(name, expected) from error
        if len(found) != size if size is not None else len(found) > max_bytes:
            raise self.wrong(name, expected)
        return found

    def digest(self, name: str) -> str:
        """A SHA-256 digest as 64 lower-case hexadecimal digits."""
        value = self._take(name, None)
        if not isinstance(value, str) or len(value) != 64 or set(value) - set("0123456789abcdef"):
            raise self.wrong(name, "64 hexadecimal digits")
        return value

    def items(self, name: str, max_items: int) -> list[Any]:
        """A list of at most `max_items` values, each still to be checked."""
        value = self._take(name, None)
        if not isinstance(value, list) or len(value) > max_items:
            raise self.wrong(name, f"a list of at most {max_items}")
        return value

    def scalars(self, name: str, max_items: int = 64) -> dict[str, Scalar]:
        """A flat object of settings: short names to texts, finite numbers or booleans."""
        value = self._object(name, max_items)
        for item in value.values():
            if not isinstance(item, str | int | float | bool) or (isinstance(item, str) and len(item) > 200):
                raise self.wrong(name, "short texts, numbers and booleans")
            if isinstance(item, float) and not math.isfinite(item):
                raise self.wrong(name, "finite numbers")
        return value

    def numbers(self, name: str, max_items: int = 64) -> dict[str, float]:
        """A flat object of measurements: short names to finite numbers."""
        found = self._object(name, max_items)
        for item in found.values():
            if type(item) not in (int, float) or not math.isfinite(item):
                raise self.wrong(name, "finite numbers")
        return {key: float(item) for key, item in found.items()}

    def optional(self, name: str, what: str) -> Fields | None:
        """A nested object, or None where the field is null."""
        value = self._take(name, None, null=True)
        return None if value is None else Fields.of(value, what)

    def nested(self, name: str, what: str) -> Fields:
        """A nested object."""
        return Fields.of(self._take(name, None), what)

    def rest(self) -> JsonObject:
        """All fields that nobody took yet, taken."""
        taken, self._values = self._values, {}
        return taken

    def done(self) -> None:
        """Refuse fields that nobody took: a message says only what its version knows."""
        if self._values:
            name = min(self._values)
            raise FormatError(f"{self._what}: field {name[:40]!r} is not part of this message")

    def wrong(self, name: str, expected: str) -> FormatError:
        """The error for a field that is not what it should be."""
        return FormatError(f"{self._what}: {name} must be {expected}")

    def _object(self, name: str, max_items: int) -> JsonObject:
        value = self._take(name, None)
        if not isinstance(value, dict) or len(value) > max_items or any(len(key) > 64 for key in value):
            raise self.wrong(name, f"an object of at most {max_items} short names")
        return value

    def _take(self, name: str, default: object, null: bool = False) -> Any:
        if name not in self._values:
            if default is None:
                raise FormatError(f"{self._what}: {name} is missing")
            return default
        value = self._values.pop(name)
        if value is None and not null:
            raise FormatError(f"{self._what}: {name} is null")
        return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> JsonObject:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise FormatError("message: a name stands twice")
    return found


def _refuse_constant(text: str) -> Any:
    raise NotFiniteError(f"message: {text} is not a finite number")


def _parse_integer(text: str) -> int:
    if len(text) > 20:
        raise FormatError(f"message: an integer of {len(text)} digits")
    return int(text)
