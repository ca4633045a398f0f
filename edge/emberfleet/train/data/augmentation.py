"""Random changes of training images that keep what they show: crops, flips, warps, erased patches.

Works on a whole batch at once and draws every random number before it looks at a pixel, so the
same generator gives the same batch on every backend.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from emberfleet.core.arrays import Float32, Int64
from emberfleet.core.errors import ConfigError, ShapeError

LARGEST_ASPECT = 10 / 3
"""An erased rectangle is at most this much longer than wide, or wider than long."""


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How far images may change; everything is off by default.

    Attributes:
        crop_padding: Pixels added on every side before a random crop of the original size.
        flip: Mirror half of the images left to right.
        shift: Largest translation along each axis, in pixels; not rounded to whole pixels.
        rotation_degrees: Largest turn to either side.
        scale: Sizes lie between ``1 / (1 + scale)`` and ``1 + scale``.
        shear: Largest slant: pixels moved sideways for each pixel of height.
        erase: Share of the images that lose a random rectangle.
        erase_area: Smallest and largest share of the image that such a rectangle covers.
    """

    crop_padding: int = 0
    flip: bool = False
    shift: float = 0.0
    rotation_degrees: float = 0.0
    scale: float = 0.0
    shear: float = 0.0
    erase: float = 0.0
    erase_area: tuple[float, float] = (0.02, 0.2)

    def __post_init__(self) -> None:
        low, high = self.erase_area
        limits = {
            "crop_padding": (self.crop_padding, 256),
            "shift": (self.shift, 256),
            "rotation_degrees": (self.rotation_degrees, 180),
            "scale": (self.scale, 4),
            "shear": (self.shear, 4),
            "erase": (self.erase, 1),
        }
        for name, (value, limit) in limits.items():
            if not 0 <= value <= limit:
                raise ConfigError(f"augmentation: {name} is {value}, expected 0 to {limit}")
        if not 0 < low <= high <= 1:
            raise ConfigError(f"augmentation: erase_area is {self.erase_area}, expected 0 < low <= high <= 1")

    @property
    def warps(self) -> bool:
        """Whether images are resampled between pixels."""
        return any((self.shift, self.rotation_degrees, self.scale, self.shear))


def augment(
    x: Float32, augmentation: Augmentation, generator: np.random.Generator, fill: Float32 | None = None
) -> Float32:
    """Change every image of a batch at random: crop, flip, warp, erase, in this order.

    Args:
        x: ``(N, H, W, C)`` float32; not changed.
        augmentation: How far.
        generator: Where the random numbers come from.
        fill: ``(C,)`` the value of a pixel from outside the image or erased; zero when None.

    Returns:
        ``(N, H, W, C)`` float32: `x` itself when everything is off.

    Raises:
        ShapeError: `x` is not a batch of float32 images, or `fill` not one value per channel.
    """
    if x.dtype != np.float32 or x.ndim != 4:
        raise ShapeError(f"a batch is {x.dtype} {x.shape}, expected float32 (N, H, W, C)")
    outside = np.zeros(x.shape[3], np.float32) if fill is None else np.asarray(fill, np.float32)
    if outside.shape != (x.shape[3],):
        raise ShapeError(f"fill is {outside.shape}, expected one value for each of {x.shape[3]} channels")
    if augmentation.crop_padding:
        x = _crop(x, augmentation.crop_padding, generator, outside)
    if augmentation.flip:
        mirrored = generator.random(len(x)) < 0.5
        x = np.where(mirrored[:, None, None, None], x[:, :, ::-1], x)
    if augmentation.warps:
        x = warp(x, *_draw_warps(len(x), augmentation, generator), outside)
    if augmentation.erase:
        x = _erase(x, augmentation, generator, outside)
    return x


def warp(x: Float32, matrices: Float32, shifts: Float32, fill: Float32) -> Float32:
    """Resample each image through its own affine map, by bilinear interpolation.

    ``y[n, p] = x[n, matrices[n] @ (p - centre) + centre + shifts[n]]``, p a row and a column.

    Args:
        x: ``(N, H, W, C)``.
        matrices: ``(N, 2, 2)`` float32, from output to input positions, rows first.
        shifts: ``(N, 2)`` float32, rows and columns, in pixels.
        fill: ``(C,)`` the value outside the image, which fades in over one pixel.
    """
    n, h, w, c = x.shape
    rows = np.arange(h, dtype=np.float32)[:, None] - np.float32((h - 1) / 2)
    columns = np.arange(w, dtype=np.float32)[None, :] - np.float32((w - 1) / 2)
    padded = _pad(x, 1, 2, fill)  # a position past the far edge is held on the first pixel outside
    whole, part = [], []
    for axis, side in ((0, h), (1, w)):
        to_rows, to_columns = matrices[:, axis, 0, None, None], matrices[:, axis, 1, None, None]
        start = shifts[:, axis, None, None] + np.float32((side - 1) / 2 + 1)
        position = to_rows * rows + (to_columns * columns + start)
        np.clip(position, 0, np.float32(side + 1), out=position)
        cell = position.astype(np.int32)
        whole.append(cell)
        part.append((position - cell.astype(np.float32))[..., None])
    images = np.arange(n, dtype=np.int64)[:, None, None] * ((h + 3) * (w + 3))
    corner: Int64 = images + whole[0] * np.int32(w + 3) + whole[1]
    pixels = padded.reshape(-1, c)
    right = part[1]

    def between(index: Int64) -> Float32:
        left_pixel = pixels[index]
        blend: Float32 = left_pixel + (pixels[index + 1] - left_pixel) * right
        return blend

    top = between(corner)
    warped: Float32 = top + (between(corner + (w + 3)) - top) * part[0]
    return warped


def _draw_warps(
    n: int, augmentation: Augmentation, generator: np.random.Generator
) -> tuple[Float32, Float32]:
    turn, size, slant, down, across = generator.uniform(-1, 1, (5, n))
    angle = np.deg2rad(augmentation.rotation_degrees) * turn
    zoom = (1 + augmentation.scale) ** -size
    cos, sin = np.cos(angle) * zoom, np.sin(angle) * zoom
    lean = augmentation.shear * slant
    matrices = np.stack([cos, -sin, sin + lean * cos, cos - lean * sin], axis=1).reshape(n, 2, 2)
    shifts = augmentation.shift * np.stack([down, across], axis=1)
    return matrices.astype(np.float32), shifts.astype(np.float32)


def _pad(x: Float32, before: int, after: int, fill: Float32) -> Float32:
    n, h, w, c = x.shape
    padded = np.empty((n, before + h + after, before + w + after, c), np.float32)
    padded[:] = fill
    padded[:, before : before + h, before : before + w] = x
    return padded


def _crop(x: Float32, padding: int, generator: np.random.Generator, fill: Float32) -> Float32:
    n, h, w, _ = x.shape
    top, left = generator.integers(0, 2 * padding + 1, (2, n))
    rows = top[:, None, None] + np.arange(h)[:, None]
    columns = left[:, None, None] + np.arange(w)
    cropped: Float32 = _pad(x, padding, padding, fill)[np.arange(n)[:, None, None], rows, columns]
    return cropped


def _erase(x: Float32, augmentation: Augmentation, generator: np.random.Generator, fill: Float32) -> Float32:
    n, h, w, _ = x.shape
    erased = np.asarray(generator.random(n) < augmentation.erase)
    area = generator.uniform(*augmentation.erase_area, n) * h * w
    aspect = LARGEST_ASPECT ** generator.uniform(-1, 1, n)
    heights = np.clip(np.rint(np.sqrt(area * aspect)), 1, h)
    widths = np.clip(np.rint(np.sqrt(area / aspect)), 1, w)
    tops = np.floor(generator.random(n) * (h - heights + 1))
    lefts = np.floor(generator.random(n) * (w - widths + 1))
    row, column = np.arange(h), np.arange(w)
    in_rows = (row >= tops[:, None]) & (row < (tops + heights)[:, None]) & erased[:, None]
    in_columns = (column >= lefts[:, None]) & (column < (lefts + widths)[:, None])
    return np.where(in_rows[:, :, None, None] & in_columns[:, None, :, None], fill, x)
