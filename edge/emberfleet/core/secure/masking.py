"""Masks a device's vector, sums masked vectors, and takes the masks out again.

Every device adds a mask of its own and, for each neighbour, one that the neighbour subtracts (or the
other way round). Masks are uniform over the ring's words, so one masked vector says nothing. In the sum the
pairwise masks of those present cancel; what the server takes out are the own masks of those present, and the
pairwise masks between those present and those that vanished, whose seeds the neighbours' shares give back.

All of it goes block by block through the processor's cache: a device needs memory for its change and what it
sends, a server for one sum and one masked vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from emberfleet.core.arrays import Array, Float32, Float64, UInt8
from emberfleet.core.errors import RoundError, ShapeError
from emberfleet.core.secure.keystream import SEED_BYTES, STEP_BYTES, Keystream
from emberfleet.core.secure.layout import SumLayout
from emberfleet.core.secure.packing import BLOCK, Packer, block_words, packed_words, read_words
from emberfleet.core.secure.rounding import Rounder

TILE_BYTES: Final = 1 << 19
"""So much of the sum stays in the cache while the masks of all seeds are added to it."""


@dataclass(frozen=True, slots=True)
class Mask:
    """A mask that is added (sign +1) or subtracted (-1)."""

    seed: bytes = field(repr=False)
    sign: int

    def __post_init__(self) -> None:
        if len(self.seed) != SEED_BYTES or self.sign not in (1, -1):
            raise ShapeError(
                f"mask: a seed of {len(self.seed)} bytes, sign {self.sign}; expected {SEED_BYTES}, 1 or -1"
            )

    def inverse(self) -> Mask:
        """The mask that takes this one out."""
        return Mask(self.seed, -self.sign)


def mask_update(
    change: Float32, samples: int, layout: SumLayout, masks: Sequence[Mask], rounding_seed: bytes
) -> bytes:
    """What a device sends: its change and its weight as integers, masked and packed.

    The same arguments give the same bytes: what is sent again after a restart tells nothing more.

    Args:
        change: ``(layout.plan.size,)`` float32, new minus old, flat in the plan's order.
        samples: What the device was trained on, at least 1.
        layout: What stands where.
        masks: Its own and one per neighbour. None at all sends the integers in the clear.
        rounding_seed: The device's secret, of this round alone.

    Raises:
        ShapeError: Another length than the plan's.
        NotFiniteError: The training diverged.
    """
    weight = layout.weigh(samples)
    digits = np.array(layout.write_weight(weight), layout.ring.word)
    rounder = Rounder(change, weight, layout, rounding_seed)
    streams = [(mask, Keystream(mask.seed)) for mask in masks]
    made, packer = np.empty(STEP_BYTES, np.uint8), Packer(layout.ring)
    words = np.zeros(packed_words(layout.size, layout.ring), layout.ring.word)
    block = np.empty(BLOCK, layout.ring.word)
    for begin in range(0, layout.size, BLOCK):
        part = block[: min(BLOCK, layout.size - begin)]
        values = max(0, min(layout.values - begin, part.size))
        rounder.fill(part[:values], begin)
        part[values:] = digits[begin + values - layout.values : begin + part.size - layout.values]
        pieces = _pieces(part)
        for mask, stream in streams:
            _add_mask(pieces, mask, stream, made)
        packer.pack(part, block_words(words, begin, part.size, layout.ring))
    return words.tobytes()


def empty_sum(layout: SumLayout) -> Array:
    """A sum of nothing: ``(layout.size,)`` words."""
    return np.zeros(layout.size, layout.ring.word)


def add_masked(total: Array, data: bytes | memoryview, layout: SumLayout) -> None:
    """Add what one device sent to the sum, in place.

    Raises:
        ShapeError: Not exactly the length of this layout.
        FormatError: Not filled up with zeros. In both cases the sum is as it was.
    """
    words, packer = read_words(data, layout.size, layout.ring), Packer(layout.ring)
    last = (layout.size - 1) // BLOCK * BLOCK
    for begin in (last, *range(0, last, BLOCK)):
        part = total[begin : begin + BLOCK]
        unpacked = packer.unpack(block_words(words, begin, part.size, layout.ring), part.size)
        np.add(part, unpacked, out=part)


def check_masked(data: bytes | memoryview, layout: SumLayout) -> None:
    """Raise as `add_masked` would: what passes can be added later, whatever else it holds."""
    words = read_words(data, layout.size, layout.ring)
    last = (layout.size - 1) // BLOCK * BLOCK
    count = layout.size - last
    Packer(layout.ring).unpack(block_words(words, last, count, layout.ring), count)


def add_masks(total: Array, masks: Sequence[Mask], executor: Executor | None = None, parts: int = 1) -> None:
    """Add masks (or, with their inverses, take them out) to words of the ring, in place.

    With an executor, `parts` stretches of the vector are worked on at the same time. It may be one of
    threads where the cipher lets them run at once (docs/decisions/secure-sums.md), else one of processes.
    """
    if executor is None or parts < 2:
        _add_part(total, masks, 0)
        return
    aligned = STEP_BYTES // total.itemsize
    stretch = max(1, -(-total.size // (parts * aligned))) * aligned
    begins = range(0, total.size, stretch)
    jobs = [
        executor.submit(sum_masks, masks, total.dtype, begin, min(stretch, total.size - begin))
        for begin in begins
    ]
    for begin, job in zip(begins, jobs, strict=True):
        part = total[begin : begin + stretch]
        np.add(part, job.result(), out=part)


def sum_masks(masks: Sequence[Mask], word: np.dtype[Any], begin: int, count: int) -> Array:
    """The sum of some masks, from the value `begin` (a multiple of 64) on."""
    total = np.zeros(count, word)
    _add_part(total, masks, begin)
    return total


@dataclass(frozen=True)
class UpdateSum:
    """What a round's devices sent together.

    Attributes:
        weight: The sum of their weights.
        mean: ``(plan.size,)`` float64, the weighted mean change in steps, as `unflatten_update` takes it;
            zero where no coordinate was chosen.
    """

    weight: int
    mean: Float64


def read_sum(total: Array, layout: SumLayout, contributors: int) -> UpdateSum:
    """The weighted mean, from a sum whose masks were all taken out.

    Raises:
        RoundError: Numbers that so many devices cannot have sent: a mask is still in it, or a device cheated.
    """
    if total.shape != (layout.size,) or not 1 <= contributors <= layout.devices:
        raise RoundError(
            f"secure sum: {total.shape} values of {contributors} devices, expected ({layout.size},) "
            f"of 1 to {layout.devices}"
        )
    sums = layout.ring.signed(total)
    values, digits = sums[: layout.values], sums[layout.values :].tolist()
    weight = layout.read_weight(digits)
    # Each sends at most the limit, and at most its share of the limit rounded up.
    limit = layout.ring.limit
    most = min(contributors * limit, weight / layout.heaviest * limit + contributors)
    if (
        int(values.max(initial=0)) > most
        or int(values.min(initial=0)) < -most
        or not 0 <= min(digits) <= max(digits) <= contributors * limit
        or not contributors <= weight <= contributors * layout.heaviest
    ):
        raise RoundError(
            f"secure sum: not what {contributors} devices can have sent: a secret was put together wrongly, "
            "or a device did not keep to the protocol. Nothing of this round can be used"
        )
    mean: Float64 = values.astype(np.float64) * (layout.heaviest / weight)
    if layout.chosen is not None:
        whole = np.zeros(layout.plan.size, np.float64)
        whole[layout.chosen] = mean
        mean = whole
    return UpdateSum(weight, mean)


def _add_part(total: Array, masks: Sequence[Mask], begin: int) -> None:
    tile = TILE_BYTES // total.itemsize
    made = np.empty(STEP_BYTES, np.uint8)
    for start in range(0, total.size, tile):
        pieces = _pieces(total[start : start + tile])
        for mask in masks:
            _add_mask(pieces, mask, Keystream(mask.seed, (begin + start) * total.itemsize), made)


def _pieces(part: Array) -> list[Array]:
    step = STEP_BYTES // part.itemsize
    return [part[start : start + step] for start in range(0, part.size, step)]


def _add_mask(pieces: Sequence[Array], mask: Mask, stream: Keystream, made: UInt8) -> None:
    operate = np.add if mask.sign > 0 else np.subtract
    for piece in pieces:
        drawn = made[: piece.nbytes]
        stream.fill(drawn)
        operate(piece, drawn.view(piece.dtype), out=piece)
