"""From pixels to what the network reads: one rule, stored in every bundle."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from emberfleet.core.arrays import Float32, UInt8
from emberfleet.core.errors import FormatError, ShapeError

MAX_SIDE = 4096


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """``x = (pixel / 255 - mean) / std`` per channel, pixels in [0, 255].

    With mean 0 and std 1 one int8 step of the input is exactly one grey level, so quantizing
    the input loses nothing.
    """

    height: int
    width: int
    channels: int
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        c = self.channels
        object.__setattr__(self, "mean", tuple(self.mean) or (0.0,) * c)
        object.__setattr__(self, "std", tuple(self.std) or (1.0,) * c)
        if not all(0 < side <= MAX_SIDE for side in (self.height, self.width)) or c not in (1, 3):
            raise ShapeError(
                f"image {self.height} x {self.width} x {c}, expected sides of 1 to "
                f"{MAX_SIDE} pixels and 1 or 3 channels"
            )
        if len(self.mean) != c or len(self.std) != c or not all(s > 0 for s in self.std):
            raise ShapeError(f"mean {self.mean} and std {self.std}, expected {c} values each, std positive")
        if not np.isfinite([*self.mean, *self.std]).all():
            raise ShapeError(f"mean {self.mean} and std {self.std} must be finite")

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(H, W, C)`` of one image."""
        return (self.height, self.width, self.channels)

    @property
    def range(self) -> tuple[float, float]:
        """Smallest and largest value a pixel can take after `apply`: the input's quantization range."""
        low = [(0.0 - m) / s for m, s in zip(self.mean, self.std, strict=True)]
        high = [(1.0 - m) / s for m, s in zip(self.mean, self.std, strict=True)]
        return (min(low), max(high))

    @property
    def factors(self) -> tuple[Float32, Float32]:
        """Scale and shift of `apply`, per channel, as it computes them: ``x = pixel * scale + shift``."""
        scale = (1.0 / (255.0 * np.asarray(self.std))).astype(np.float32)
        return scale, (-np.asarray(self.mean) / np.asarray(self.std)).astype(np.float32)

    def apply(self, images: UInt8) -> Float32:
        """Turn ``(N, H, W, C)`` bytes into the float32 array the network reads.

        Raises:
            ShapeError: not bytes, or not of this height, width and channels.
        """
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != self.shape:
            raise ShapeError(
                f"images are {images.dtype} {images.shape}, expected uint8 (N, {self.height}, "
                f"{self.width}, {self.channels})"
            )
        scale, shift = self.factors
        x: Float32 = images.astype(np.float32)
        x *= scale
        x += shift
        return x

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}

    @staticmethod
    def from_json(document: object) -> Preprocessing:
        """Read a JSON object back; `FormatError` when it is not one of ours."""
        names = ("height", "width", "channels", "mean", "std")
        if not isinstance(document, dict) or set(document) != set(names):
            raise FormatError(f"preprocessing: expected an object with {', '.join(names)}")
        sides = [document[name] for name in names[:3]]
        moments = [document[name] for name in names[3:]]
        if not all(type(side) is int for side in sides) or not all(
            isinstance(m, list) and len(m) <= 3 and all(type(v) in (int, float) for v in m) for m in moments
        ):
            raise FormatError(f"preprocessing: wrong types in {document}")
        try:
            return Preprocessing(*sides, *(tuple(float(v) for v in m) for m in moments))
        except (ShapeError, OverflowError) as error:
            raise FormatError(f"preprocessing: {error}") from error
