"""An update: what one device learnt, new minus old, as fixed-point integers.

The tensors of the plan are flattened in its order. Every tensor has a clip in the plan, the same for
all devices: ``q = round(clamp(new - old, -clip, clip) / step)`` with ``step = clip / (2**(bits-1) - 1)``,
written as little-endian int8 or int16 with no header, so integers from different devices can be
summed as they are. With 32 bits the values are float32 (clipped, not rounded): the exact twin that the
integers are tested against. The format is specified in docs/protocol.md, section Updates.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np

from emberfleet.core.arrays import Array, Float32, Float64, Tensors
from emberfleet.core.codec import Fields, NotFiniteError
from emberfleet.core.errors import FormatError, ShapeError

MAX_TENSORS: Final = 4096
MAX_VALUES: Final = 1 << 26
MAX_CLIP: Final = 1e6
WIRE_TYPES: Final[Mapping[int, np.dtype[Any]]] = {
    8: np.dtype("<i1"),
    16: np.dtype("<i2"),
    32: np.dtype("<f4"),
}


class OutOfRangeError(FormatError):
    """An update holds a value beyond the plan's clip."""


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """One tensor of an update: its name, its shape, and the largest change that is sent."""

    name: str
    shape: tuple[int, ...]
    clip: float

    def __post_init__(self) -> None:
        if not 1 <= len(self.name) <= 200:
            raise ShapeError(f"update plan: a tensor name of {len(self.name)} characters, expected 1 to 200")
        if len(self.shape) > 8 or any(not 1 <= axis <= MAX_VALUES for axis in self.shape):
            raise ShapeError(f"update plan: '{self.name}' has the shape {self.shape}")
        if not 0 < self.clip <= MAX_CLIP:
            raise ShapeError(
                f"update plan: '{self.name}' has clip {self.clip}, expected above 0 to {MAX_CLIP:g}"
            )

    @property
    def size(self) -> int:
        """How many numbers the tensor holds."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class UpdatePlan:
    """Which tensors an update carries, in which order, and how exactly."""

    tensors: tuple[TensorPlan, ...]
    bits: int = 16

    def __post_init__(self) -> None:
        if self.bits not in WIRE_TYPES:
            raise ShapeError(f"update plan: {self.bits} bits, expected 8, 16 or 32")
        if not 1 <= len(self.tensors) <= MAX_TENSORS:
            raise ShapeError(f"update plan: {len(self.tensors)} tensors, expected 1 to {MAX_TENSORS}")
        if len({tensor.name for tensor in self.tensors}) != len(self.tensors):
            raise ShapeError("update plan: a tensor stands twice")
        if self.size > MAX_VALUES:
            raise ShapeError(f"update plan: {self.size} values, expected at most {MAX_VALUES}")

    @classmethod
    def for_model(
        cls, tensors: Tensors, names: Iterable[str], bits: int = 16, clip: float = 0.25, relative: float = 1.0
    ) -> UpdatePlan:
        """The plan for a model as it is now.

        A tensor's clip is ``clip + relative * max|t|``: room for weights that start at zero, and for
        statistics and ranges, whose size is not that of weights.
        """

        def planned(name: str) -> TensorPlan:
            if name not in tensors:
                raise ShapeError(f"update plan: the model has no tensor '{name}'")
            largest = float(np.max(np.abs(tensors[name]), initial=0.0))
            return TensorPlan(name, tuple(tensors[name].shape), min(clip + relative * largest, MAX_CLIP))

        return cls(tuple(planned(name) for name in names), bits)

    @cached_property
    def size(self) -> int:
        """How many numbers an update holds."""
        return sum(tensor.size for tensor in self.tensors)

    @property
    def wire_type(self) -> np.dtype[Any]:
        """The type of one number on the wire."""
        return WIRE_TYPES[self.bits]

    @property
    def size_bytes(self) -> int:
        """The exact length of every update of this plan."""
        return self.size * self.wire_type.itemsize

    def step(self, tensor: TensorPlan) -> float:
        """The real number that the integer 1 stands for; 1.0 where the wire carries float32."""
        return 1.0 if self.bits == 32 else tensor.clip / self.limit

    @property
    def limit(self) -> int:
        """The largest integer sent; its negative is the smallest, so the code is symmetric."""
        return int((1 << (self.bits - 1)) - 1)

    def spans(self) -> Iterator[tuple[TensorPlan, slice]]:
        """Each tensor with its place in the flattened update."""
        begin = 0
        for tensor in self.tensors:
            yield tensor, slice(begin, begin + tensor.size)
            begin += tensor.size

    def to_json(self) -> dict[str, Any]:
        """The plan as a JSON value."""
        listed = [[tensor.name, list(tensor.shape), float(tensor.clip)] for tensor in self.tensors]
        return {"bits": self.bits, "tensors": listed}

    @classmethod
    def from_fields(cls, fields: Fields) -> UpdatePlan:
        """Read what `to_json` gave; raises `FormatError` alone."""
        bits = fields.integer("bits", 8, 32)
        listed = fields.items("tensors", MAX_TENSORS)
        fields.done()
        try:
            return cls(tuple(_tensor_from_json(item) for item in listed), bits)
        except ShapeError as error:
            raise FormatError(str(error)) from error


def encode_update(
    old: Tensors, new: Tensors, plan: UpdatePlan, generator: np.random.Generator | None = None
) -> bytes:
    """Write ``new - old`` as the plan says.

    Without a generator the nearest integer is taken (ties to even), so the error is at most half a
    step and the same tensors give the same bytes. With one, rounding is stochastic: the error is
    below one step and zero on average.

    Raises:
        ShapeError: A tensor is missing or has another shape than the plan says.
        NotFiniteError: The training diverged: a value is NaN or infinite.
    """
    flat = np.empty(plan.size, plan.wire_type)
    for tensor, span in plan.spans():
        change = (_planned(new, tensor).astype(np.float64) - _planned(old, tensor)).reshape(-1)
        if not np.isfinite(change).all():
            raise NotFiniteError(f"update: '{tensor.name}' holds NaN or an infinity: the training diverged")
        clipped = np.clip(change, -tensor.clip, tensor.clip)
        if plan.bits == 32:
            flat[span] = clipped
            continue
        scaled = clipped / plan.step(tensor)
        if generator is not None:
            scaled = np.floor(scaled + generator.random(scaled.shape))
        flat[span] = np.clip(np.rint(scaled), -plan.limit, plan.limit)
    return flat.tobytes()


def read_update(data: bytes, plan: UpdatePlan) -> Array:
    """The flat numbers of an update as they stand on the wire, checked: a view, not a copy.

    Raises:
        ShapeError: Not the length that the plan gives.
        NotFiniteError: NaN or an infinity (32 bits only: integers cannot say them).
        OutOfRangeError: A value beyond its tensor's clip.
    """
    if len(data) != plan.size_bytes:
        raise ShapeError(f"update: {len(data)} bytes, expected {plan.size_bytes} for {plan.size} values")
    flat = np.frombuffer(data, plan.wire_type)
    if plan.bits != 32:
        if flat.size and int(flat.min()) < -plan.limit:
            raise OutOfRangeError(f"update: a value below {-plan.limit}, the smallest that the plan allows")
        return flat
    if not np.isfinite(flat).all():
        raise NotFiniteError("update: holds NaN or an infinity")
    for tensor, span in plan.spans():
        if float(np.max(np.abs(flat[span]), initial=0.0)) > np.float32(tensor.clip):
            raise OutOfRangeError(f"update: '{tensor.name}' changes by more than {tensor.clip:g}")
    return flat


def decode_update(data: bytes, plan: UpdatePlan) -> dict[str, Float32]:
    """The change of each tensor as float32; raises as `read_update` does."""
    return unflatten_update(read_update(data, plan).astype(np.float64), plan)


def unflatten_update(flat: Float64, plan: UpdatePlan) -> dict[str, Float32]:
    """Turn flat wire numbers (or their mean) into real changes by tensor name."""
    return {
        tensor.name: (flat[span] * plan.step(tensor)).astype(np.float32).reshape(tensor.shape)
        for tensor, span in plan.spans()
    }


def _planned(tensors: Tensors, tensor: TensorPlan) -> Float32:
    if tensor.name not in tensors:
        raise ShapeError(f"update: tensor '{tensor.name}' is missing")
    found = tensors[tensor.name]
    if tuple(found.shape) != tensor.shape:
        raise ShapeError(f"update: '{tensor.name}' is {tuple(found.shape)}, expected {tensor.shape}")
    return found


def _tensor_from_json(item: object) -> TensorPlan:
    if not isinstance(item, list) or len(item) != 3:
        raise FormatError("update plan: a tensor must be a name, a shape and a clip")
    name, shape, clip = item
    if not isinstance(name, str) or not isinstance(shape, list) or len(shape) > 8:
        raise FormatError("update plan: a tensor must be a name, a shape and a clip")
    if any(type(axis) is not int for axis in shape) or type(clip) not in (int, float):
        raise FormatError(f"update plan: '{name[:40]}' has a shape or clip that is not a number")
    return TensorPlan(name, tuple(shape), float(clip))
