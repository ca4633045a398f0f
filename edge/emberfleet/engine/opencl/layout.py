"""Where tensors lie in the arena: NHWC, channels padded to whole vectors, a halo of zeros around."""

from __future__ import annotations

from dataclasses import dataclass, field

from emberfleet.core.nodes import Padding, Shape

NO_HALO: Padding = (0, 0, 0, 0)


def round_up(count: int, multiple: int) -> int:
    """The next multiple."""
    return -(-count // multiple) * multiple


def image_shape(shape: Shape) -> tuple[int, int, int]:
    """``(H, W, C)``; a vector ``(K,)`` or matrix ``(P, K)`` is one pixel holding all its values."""
    if len(shape) == 3:
        return shape[0], shape[1], shape[2]
    count = 1
    for extent in shape:
        count *= extent
    return 1, 1, count


@dataclass(eq=False)
class Storage:
    """A stretch of the arena, in floats (bytes in an int8 program); placed when the arena is planned."""

    name: str
    floats: int
    offset: int = -1
    has_gaps: bool = False
    """Some of it (halo, spread pixels, padded channels) is written by nobody and must read as zero."""

    @property
    def label(self) -> str:
        """The name that it was asked for by: a tensor computed twice has two storages of one label."""
        return self.name.rpartition("#")[0]


@dataclass(frozen=True, slots=True)
class Place:
    """What a kernel is told of a tensor: a position in a storage and three strides, in floats."""

    storage: Storage
    start: int
    image: int
    row: int
    pixel: int


@dataclass(eq=False)
class Images(Storage):
    """Storage of ``(N, H, W, C)`` with a halo, its pixels possibly spread apart.

    `spread` is the distance between neighbouring pixels: the gradient of a strided convolution's
    output is kept spread by the stride, so that the convolution back to the input has stride 1.
    """

    batch: int = 1
    height: int = 1
    width: int = 1
    channels: int = 1
    """Padded."""
    used_channels: int = 1
    halo: Padding = NO_HALO
    spread: tuple[int, int] = (1, 1)
    halo_is_the_only_gap: bool = field(init=False)
    padded_row: int = field(init=False)
    padded_image: int = field(init=False)

    def __post_init__(self) -> None:
        top, left, bottom, right = self.halo
        rows = top + (self.height - 1) * self.spread[0] + 1 + bottom
        columns = left + (self.width - 1) * self.spread[1] + 1 + right
        self.padded_row = columns * self.channels
        self.padded_image = rows * self.padded_row
        self.floats = self.batch * self.padded_image
        self.halo_is_the_only_gap = not self.has_gaps and self.spread == (1, 1)
        self.has_gaps = self.has_gaps or self.halo != NO_HALO or self.spread != (1, 1)

    def leave_gaps(self) -> None:
        """Note that a kernel writes this storage without its padded channels."""
        self.has_gaps = True
        self.halo_is_the_only_gap = False


@dataclass(frozen=True, slots=True)
class View:
    """A tensor inside a storage: some of its channels."""

    images: Images
    first_channel: int
    channels: int
    """Unpadded."""
    vector: int
    """Floats per vector; 1 for the network's input, which is read value by value."""

    @property
    def batch(self) -> int:
        """Images."""
        return self.images.batch

    @property
    def height(self) -> int:
        """Rows of an image."""
        return self.images.height

    @property
    def width(self) -> int:
        """Pixels of a row."""
        return self.images.width

    @property
    def size(self) -> int:
        """Values of the tensor, padding left out."""
        return self.batch * self.height * self.width * self.channels

    @property
    def padded_channels(self) -> int:
        """Channels up to the end of the last vector."""
        return round_up(self.channels, self.vector)

    @property
    def contiguous(self) -> bool:
        """Whether all pixels of all images follow one another at one distance."""
        return self.images.halo == NO_HALO and self.images.spread == (1, 1)

    def place(self) -> Place:
        """Position of the first pixel, steps from image to image, row to row, pixel to pixel."""
        images = self.images
        top, left = images.halo[:2]
        start = top * images.padded_row + left * images.channels + self.first_channel
        row, pixel = images.spread[0] * images.padded_row, images.spread[1] * images.channels
        return Place(images, start, images.padded_image, row, pixel)

    def window(self, up: int, left: int, stride: tuple[int, int]) -> Place:
        """Position of the first tap of a window that starts `up` and `left` of the first pixel.

        Counted in stored pixels, the zeros between spread ones included.
        """
        images, first = self.images, self.place()
        start = first.start - up * images.padded_row - left * images.channels
        return Place(images, start, first.image, stride[0] * images.padded_row, stride[1] * images.channels)

    def slice(self, first: int, channels: int) -> View:
        """Some of this tensor's channels."""
        return View(self.images, self.first_channel + first, channels, self.vector)
