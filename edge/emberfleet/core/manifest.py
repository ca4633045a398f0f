"""The manifest of a bundle: what the model is, what goes in and out, and what files belong to it.

It is the only thing that is signed; everything else in a bundle is named here with its size and
SHA-256. A `Manifest` is valid once made: whoever reads one from outside gets a `FormatError` or
values within the limits below. The fields are specified in docs/formats.md, section Manifest.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from emberfleet.core.codec import MAX_INTEGER, Fields, encode_json
from emberfleet.core.errors import FormatError
from emberfleet.core.preprocessing import Preprocessing

FORMAT_VERSION: Final = 1
MAX_MANIFEST_BYTES: Final = 4 * 1024 * 1024
MAX_LABELS: Final = 32768
MAX_LABEL_CHARACTERS: Final = 100
MAX_POSITIONS: Final = 1024
MAX_PLANS: Final = 64
MAX_PLAN_TENSORS: Final = 16384
MAX_METRICS: Final = 64
MAX_PARTS: Final = 1000
MAX_PART_NAME: Final = 200
DTYPES: Final = ("float32", "int8", "uint8")
ENVELOPE_NAME: Final = "manifest.dsse.json"
"""The file that holds the signed manifest; no part may have its name."""

_MODEL_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_PLAN_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PART_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")
_CREATED: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?(Z|[+-][0-9]{2}:[0-9]{2})"
)
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class TensorContract:
    """What one end of the network takes or gives: its type, and its shape without the batch."""

    dtype: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise FormatError(f"manifest: dtype is {self.dtype!r}, expected one of {', '.join(DTYPES)}")
        if not 1 <= len(self.shape) <= 4 or not all(_is_count(axis) for axis in self.shape):
            raise FormatError(f"manifest: shape is {self.shape}, expected 1 to 4 axes of 1 or more")


@dataclass(frozen=True, slots=True)
class PartInfo:
    """Size and SHA-256 (64 hexadecimal digits) of one file of the bundle."""

    size_bytes: int
    sha256: str

    def __post_init__(self) -> None:
        if type(self.size_bytes) is not int or not 0 <= self.size_bytes <= MAX_INTEGER:
            raise FormatError(f"manifest: a part of {self.size_bytes!r} bytes")
        if not _DIGEST.fullmatch(self.sha256):
            raise FormatError("manifest: sha256 must be 64 lower-case hexadecimal digits")


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a bundle says of itself, checked when it is made; `FormatError` when it cannot be.

    Attributes:
        model_name: What the model is called in its fleet.
        model_version: 1 or more, counted up by whoever publishes. Opening a bundle does not compare
            it with anything: refusing an older one is the caller's decision.
        created: When, as RFC 3339 text with a zone; given by the caller, no clock is read.
        labels: The K classes, in the order of the output's last axis.
        positions: How many classes one image holds: 1, or the length of a code.
        preprocessing: From pixels to the input.
        input: ``(H, W, C)``.
        output: ``(K,)`` where positions is 1, or ``(P, K)``.
        plans: For each way of retraining, the names of the tensors that learn, in an update's order.
        metrics: Free measurements such as ``accuracy``.
        parent: Digest of the bundle this model was trained from.
        parts: Every other file of the bundle, filled in by `core.bundle`.
    """

    model_name: str
    model_version: int
    created: str
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    input: TensorContract
    output: TensorContract
    positions: int = 1
    plans: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    parent: str | None = None
    parts: Mapping[str, PartInfo] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _expect(_MODEL_NAME.fullmatch(self.model_name), "model_name must be up to 80 letters, digits, . _ -")
        _expect(_is_count(self.model_version), f"model_version is {self.model_version!r}, expected 1 or more")
        _expect(_is_instant(self.created), f"created is {self.created[:40]!r}, expected 2026-01-31T12:00:00Z")
        _expect(
            1 <= len(self.labels) <= MAX_LABELS and len(set(self.labels)) == len(self.labels),
            f"{len(self.labels)} labels, expected 1 to {MAX_LABELS}, each once",
        )
        for label in self.labels:
            _check_text(label, MAX_LABEL_CHARACTERS, "a label")
        _expect(
            _is_count(self.positions) and self.positions <= MAX_POSITIONS,
            f"positions is {self.positions!r}, expected 1 to {MAX_POSITIONS}",
        )
        _expect(
            self.input.shape == self.preprocessing.shape,
            f"input is {self.input.shape}, but preprocessing gives {self.preprocessing.shape}",
        )
        k = len(self.labels)
        allowed = [(self.positions, k), (k,)] if self.positions == 1 else [(self.positions, k)]
        _expect(self.output.shape in allowed, f"output is {self.output.shape}, expected {allowed[-1]}")
        self._check_plans()
        _expect(
            len(self.metrics) <= MAX_METRICS, f"{len(self.metrics)} metrics, expected {MAX_METRICS} at most"
        )
        for name, value in self.metrics.items():
            _check_text(name, 64, "the name of a metric")
            _expect(
                isinstance(value, float) and math.isfinite(value), f"metric {name!r} must be a finite float"
            )
        _expect(self.parent is None or _DIGEST.fullmatch(self.parent), "parent must be 64 hexadecimal digits")
        check_part_names(self.parts)

    def _check_plans(self) -> None:
        _expect(len(self.plans) <= MAX_PLANS, f"{len(self.plans)} plans, expected at most {MAX_PLANS}")
        for name, tensors in self.plans.items():
            _expect(_PLAN_NAME.fullmatch(name), f"{name[:80]!r} cannot name a plan")
            _expect(
                1 <= len(tensors) <= MAX_PLAN_TENSORS and len(set(tensors)) == len(tensors),
                f"plan '{name}' has {len(tensors)} tensors, expected 1 to {MAX_PLAN_TENSORS}, each once",
            )
            for tensor in tensors:
                _check_text(tensor, 200, f"a tensor of plan '{name}'")

    def encode(self) -> bytes:
        """Canonical JSON: the same manifest gives the same bytes."""
        data = encode_json(self.to_json())
        _expect(len(data) <= MAX_MANIFEST_BYTES, f"{len(data)} bytes, expected at most {MAX_MANIFEST_BYTES}")
        return data

    @classmethod
    def decode(cls, data: bytes) -> Manifest:
        """Read what `encode` wrote; raises `FormatError` and nothing else."""
        return cls.from_json(Fields.parse(data, "manifest", MAX_MANIFEST_BYTES).rest())

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "format": FORMAT_VERSION,
            "model_name": self.model_name,
            "model_version": self.model_version,
            "created": self.created,
            "labels": list(self.labels),
            "positions": self.positions,
            "preprocessing": self.preprocessing.to_json(),
            "input": {"dtype": self.input.dtype, "shape": list(self.input.shape)},
            "output": {"dtype": self.output.dtype, "shape": list(self.output.shape)},
            "plans": {name: list(tensors) for name, tensors in self.plans.items()},
            "metrics": dict(self.metrics),
            **({} if self.parent is None else {"parent": self.parent}),
            "parts": {
                name: {"size_bytes": part.size_bytes, "sha256": part.sha256}
                for name, part in self.parts.items()
            },
        }

    @classmethod
    def from_json(cls, document: object) -> Manifest:
        """Read a JSON object back: every field present, typed and within its limits, and no other."""
        fields = Fields.of(document, "manifest")
        found = fields.integer("format")
        if found != FORMAT_VERSION:
            raise FormatError(
                f"manifest: format {found}, expected {FORMAT_VERSION}; a newer emberfleet may read it"
            )
        has_parent = isinstance(document, dict) and "parent" in document
        manifest = cls(
            model_name=fields.text("model_name"),
            model_version=fields.integer("model_version", 1),
            created=fields.text("created", 40),
            labels=_texts(fields.items("labels", MAX_LABELS), "labels"),
            positions=fields.integer("positions", 1, MAX_POSITIONS),
            preprocessing=Preprocessing.from_json(fields.nested("preprocessing", "preprocessing").rest()),
            input=_contract(fields.nested("input", "manifest input")),
            output=_contract(fields.nested("output", "manifest output")),
            plans={
                name: _texts(tensors, f"plan {name[:80]!r}")
                for name, tensors in fields.nested("plans", "manifest plans").rest().items()
            },
            metrics=fields.numbers("metrics", MAX_METRICS),
            parent=fields.digest("parent") if has_parent else None,
            parts={
                name: _part(Fields.of(part, f"manifest part {name[:80]!r}"))
                for name, part in fields.nested("parts", "manifest parts").rest().items()
            },
        )
        fields.done()
        return manifest


def check_part_names(names: Mapping[str, object]) -> None:
    """Refuse names that could leave a folder, differ by case only, or are more than the limit."""
    _expect(len(names) <= MAX_PARTS, f"{len(names)} parts, expected at most {MAX_PARTS}")
    seen: set[str] = set()
    for name in names:
        check_part_name(name)
        _expect(name.lower() not in seen, f"part {name!r} differs from another by case only")
        seen.add(name.lower())


def check_part_name(name: str) -> None:
    """Refuse a name that could leave the folder it is unpacked to, or that file systems read differently."""
    if "\\" in name:
        raise FormatError(f"manifest: part {name[:80]!r} has a backslash; folders are separated by '/'")
    if name.startswith("/"):
        raise FormatError(f"manifest: part {name[:80]!r} is an absolute path")
    if ".." in name.split("/"):
        raise FormatError(f"manifest: part {name[:80]!r} leaves its folder by '..'")
    if name == ENVELOPE_NAME:
        raise FormatError(f"manifest: no part may be called {ENVELOPE_NAME}")
    _expect(
        len(name) <= MAX_PART_NAME and _PART_NAME.fullmatch(name),
        f"part {name[:80]!r} must be up to {MAX_PART_NAME} letters, digits, . _ - and / between folders",
    )


def _expect(condition: object, text: str) -> None:
    if not condition:
        raise FormatError(f"manifest: {text}")


def _is_count(value: object) -> bool:
    return type(value) is int and 1 <= value <= MAX_INTEGER


def _is_instant(text: str) -> bool:
    if not _CREATED.fullmatch(text):
        return False
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _check_text(value: object, limit: int, what: str) -> None:
    _expect(
        isinstance(value, str) and 1 <= len(value) <= limit and value.isprintable(),
        f"{what} must be 1 to {limit} printable characters",
    )


def _texts(values: object, what: str) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise FormatError(f"manifest: {what} must be a list of texts")
    return tuple(values)


def _contract(fields: Fields) -> TensorContract:
    contract = TensorContract(fields.choice("dtype", DTYPES), tuple(fields.items("shape", 4)))
    fields.done()
    return contract


def _part(fields: Fields) -> PartInfo:
    part = PartInfo(fields.integer("size_bytes"), fields.digest("sha256"))
    fields.done()
    return part
