"""Shamir's secret sharing of 32 bytes over the integers modulo `PRIME`, the first prime above 2**256.

A polynomial of degree ``threshold - 1`` has the secret at 0 and a share at each other point. Its other
coefficients are uniform, so fewer shares than the threshold fit every secret equally well.

Work does not depend on the secret: the same additions, multiplications and reductions are made for every
one. What Python cannot promise is how long each takes: its integers drop leading zeros, and its division
guesses digits. A secret lives for one round and is shared once, on the device itself, so nobody can time
the same secret twice.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from emberfleet.core.errors import FormatError, RoundError, ShapeError

PRIME: Final = 2**256 + 297
SECRET_BYTES: Final = 32
SHARE_BYTES: Final = 33
MAX_POINT: Final = 1 << 16
"""A device's point is its position in the roster plus one."""


@dataclass(frozen=True, slots=True)
class Share:
    """The polynomial's value at one point."""

    point: int
    value: int = field(repr=False)

    def encode(self) -> bytes:
        """The value as 33 bytes, big-endian; the point is the holder's and is not written."""
        return self.value.to_bytes(SHARE_BYTES, "big")

    @classmethod
    def decode(cls, data: bytes, point: int) -> Share:
        """Read what the holder at `point` sent.

        Raises:
            FormatError: Not 33 bytes, or a number that is not below the prime.
        """
        if len(data) != SHARE_BYTES:
            raise FormatError(f"share: {len(data)} bytes, expected {SHARE_BYTES}")
        value = int.from_bytes(data, "big")
        if value >= PRIME:
            raise FormatError("share: a number beyond the field")
        return cls(point, value)


def split_secret(
    secret: bytes,
    threshold: int,
    points: Sequence[int],
    below: Callable[[int], int] = secrets.randbelow,
) -> tuple[Share, ...]:
    """One share for each point, any `threshold` of which give the secret back.

    Args:
        secret: 32 bytes.
        threshold: At least 1, at most the number of points.
        points: Distinct, 1 to 65536.
        below: A uniform number below its argument; tests bring their own.

    Raises:
        ShapeError: Other numbers than these.
    """
    if len(secret) != SECRET_BYTES:
        raise ShapeError(f"shares: a secret of {len(secret)} bytes, expected {SECRET_BYTES}")
    _check_points(points)
    if not 1 <= threshold <= len(points):
        raise ShapeError(f"shares: a threshold of {threshold} for {len(points)} shares")
    coefficients = [int.from_bytes(secret, "big"), *(below(PRIME) for _ in range(threshold - 1))]
    coefficients.reverse()
    return tuple(Share(point, _evaluate(coefficients, point)) for point in points)


def combine_shares(shares: Sequence[Share], threshold: int) -> bytes:
    """The secret; shares beyond the threshold must agree with the others.

    Raises:
        RoundError: Too few, or they do not lie on one polynomial with a 32-byte secret: some are wrong.
        ShapeError: Two at one point, or a point out of range.
    """
    _check_points([share.point for share in shares])
    if threshold < 1:
        raise ShapeError(f"shares: a threshold of {threshold}")
    if len(shares) < threshold:
        raise RoundError(f"shares: {len(shares)} of a secret, expected at least {threshold}")
    curve = _Interpolation(shares[:threshold])
    if any(curve.at(share.point) != share.value for share in shares[threshold:]):
        raise RoundError("shares: they do not lie on one polynomial; at least one is wrong")
    secret = curve.at(0)
    if secret >> (8 * SECRET_BYTES):
        raise RoundError("shares: they give no secret of 32 bytes; at least one is wrong")
    return secret.to_bytes(SECRET_BYTES, "big")


class _Interpolation:
    """The polynomial of lowest degree through some shares, in Lagrange's form.

    ``sum over j of y[j] * product over m != j of (x - x[m]) / (x[j] - x[m])``. Points are small, so the
    numerators are quotients of ordinary integers; only the denominators are inverted, all in one.
    """

    def __init__(self, shares: Sequence[Share]) -> None:
        self._points = [share.point for share in shares]
        scales = [
            math.prod(point - other for other in self._points if other != point) for point in self._points
        ]
        self._weights = [
            share.value * inverse % PRIME for share, inverse in zip(shares, _invert(scales), strict=True)
        ]

    def at(self, x: int) -> int:
        whole = math.prod(x - point for point in self._points)
        terms = zip(self._points, self._weights, strict=True)
        return sum(whole // (x - point) * weight for point, weight in terms) % PRIME


def _invert(values: Sequence[int]) -> list[int]:
    # Montgomery's trick: one inversion of the product, then three multiplications for each.
    products = [1]
    for value in values:
        products.append(products[-1] * value % PRIME)
    inverse = pow(products[-1], -1, PRIME)
    found = [0] * len(values)
    for index in range(len(values) - 1, -1, -1):
        found[index] = inverse * products[index] % PRIME
        inverse = inverse * values[index] % PRIME
    return found


def _evaluate(coefficients: Sequence[int], x: int) -> int:
    value = 0
    for coefficient in coefficients:
        value = (value * x + coefficient) % PRIME
    return value


def _check_points(points: Sequence[int]) -> None:
    if len(set(points)) != len(points):
        raise ShapeError("shares: two at one point")
    if any(not 1 <= point <= MAX_POINT for point in points):
        raise ShapeError(f"shares: a point that is not within 1 to {MAX_POINT}")
