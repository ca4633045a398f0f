"""Shares: committed vectors, the algebra of too few, and a proof that the modulus is prime."""

from __future__ import annotations

import json
import math
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emberfleet.core.errors import FormatError, RoundError, ShapeError
from emberfleet.core.secure import shamir
from emberfleet.core.secure.shamir import MAX_POINT, PRIME, Share, combine_shares, split_secret

VECTORS = json.loads((Path(__file__).parents[2] / "golden" / "shamir.json").read_text("utf-8"))
SECRETS = st.one_of(
    st.binary(min_size=32, max_size=32), st.sampled_from([bytes(32), b"\xff" * 32, bytes(31) + b"\x01"])
)
# Each line: a prime, a base, and factors of the prime less one whose product is beyond its square root.
POCKLINGTON: dict[int, tuple[int, tuple[int, ...]]] = {
    PRIME: (2, (474233203066845416735444346211990045207,)),
    474233203066845416735444346211990045207: (2, (2956539135407950972181,)),
    2956539135407950972181: (2, (3016876668783623441,)),
    3016876668783623441: (2, (325301, 2333, 1877)),
}


@st.composite
def polynomials(draw: st.DrawFn) -> tuple[bytes, int, tuple[int, ...], int]:
    """A secret, a threshold, points, and the seed of the other coefficients."""
    points = draw(st.lists(st.integers(1, MAX_POINT), min_size=1, max_size=12, unique=True))
    return draw(SECRETS), draw(st.integers(1, len(points))), tuple(points), draw(st.integers(0, 2**32))


def shares_of(polynomial: tuple[bytes, int, tuple[int, ...], int]) -> tuple[Share, ...]:
    secret, threshold, points, seed = polynomial
    return split_secret(secret, threshold, points, random.Random(seed).randrange)


def interpolate(points: list[tuple[int, int]]) -> list[int]:
    """The coefficients, constant first, of the polynomial of lowest degree through these points."""
    found = [0] * len(points)
    for x, y in points:
        basis, scale = [1], 1
        for other, _ in points:
            if other != x:
                basis = [
                    ((basis[i - 1] if i else 0) - other * (basis[i] if i < len(basis) else 0)) % PRIME
                    for i in range(len(basis) + 1)
                ]
                scale = scale * (x - other) % PRIME
        factor = y * pow(scale, PRIME - 2, PRIME)
        found = [(total + factor * term) % PRIME for total, term in zip(found, basis, strict=True)]
    return found


def test_the_modulus_is_prime_by_pocklingtons_theorem() -> None:
    for prime, (base, factors) in POCKLINGTON.items():
        assert pow(base, prime - 1, prime) == 1
        known = 1
        for factor in factors:
            assert factor in POCKLINGTON or all(factor % d for d in range(2, math.isqrt(factor) + 1))
            assert (prime - 1) % factor == 0
            assert math.gcd(pow(base, (prime - 1) // factor, prime) - 1, prime) == 1
            known *= factor
        assert known * known > prime


def test_no_number_between_two_to_the_256_and_the_modulus_is_prime() -> None:
    assert PRIME > 2**256
    # To base 2 the Fermat number 2**256 + 1 would pass for a prime.
    assert all(pow(3, n - 1, n) != 1 for n in range(2**256 + 1, PRIME, 2))


@pytest.mark.parametrize(
    "vector", VECTORS, ids=lambda vector: f"{vector['threshold']}-{vector['secret'][:4]}"
)
def test_committed_vectors_are_made_and_read_alike(vector: dict[str, Any]) -> None:
    coefficients: Iterator[int] = iter([int(value, 16) for value in vector["coefficients"]])
    points = [int(point) for point in vector["shares"]]
    secret, threshold = bytes.fromhex(vector["secret"]), vector["threshold"]
    shares = split_secret(secret, threshold, points, lambda _: next(coefficients))
    assert {str(share.point): share.encode().hex() for share in shares} == vector["shares"]
    assert combine_shares(shares, threshold) == secret
    assert combine_shares(shares[-threshold:], threshold) == secret
    assert [Share.decode(share.encode(), share.point) for share in shares] == list(shares)


@given(polynomials(), st.randoms(use_true_random=False))
def test_any_shares_as_many_as_the_threshold_give_the_secret(
    polynomial: tuple[bytes, int, tuple[int, ...], int], chance: random.Random
) -> None:
    secret, threshold, points, _ = polynomial
    shares = shares_of(polynomial)
    some = chance.sample(shares, chance.randint(threshold, len(points)))
    assert combine_shares(some, threshold) == secret


@given(polynomials(), SECRETS, st.randoms(use_true_random=False))
def test_one_share_fewer_fits_every_other_secret_with_exactly_one_polynomial(
    polynomial: tuple[bytes, int, tuple[int, ...], int], other: bytes, chance: random.Random
) -> None:
    _, threshold, _, _ = polynomial
    few = chance.sample(shares_of(polynomial), threshold - 1)
    known = [(share.point, share.value) for share in few]
    coefficients = interpolate([(0, int.from_bytes(other, "big")), *known])
    assert len(coefficients) == threshold
    drawn = iter(coefficients[1:])
    again = split_secret(other, threshold, polynomial[2], lambda _: next(drawn))
    assert set(few) <= set(again)


@given(polynomials())
def test_too_few_shares_are_refused(polynomial: tuple[bytes, int, tuple[int, ...], int]) -> None:
    threshold = polynomial[1]
    with pytest.raises(RoundError, match=f"{threshold - 1} of a secret, expected at least {threshold}"):
        combine_shares(shares_of(polynomial)[: threshold - 1], threshold)


@given(polynomials(), st.integers(0, 11), st.integers(1, PRIME - 1))
def test_a_wrong_share_is_noticed_as_soon_as_there_is_one_more_than_needed(
    polynomial: tuple[bytes, int, tuple[int, ...], int], which: int, by: int
) -> None:
    _, threshold, points, _ = polynomial
    shares = list(shares_of(polynomial))
    if len(points) == threshold:
        return
    which %= len(shares)
    shares[which] = Share(shares[which].point, (shares[which].value + by) % PRIME)
    with pytest.raises(RoundError, match="at least one is wrong"):
        combine_shares(shares, threshold)


def test_a_secret_beyond_32_bytes_is_a_wrong_share() -> None:
    with pytest.raises(RoundError, match="no secret of 32 bytes"):
        combine_shares([Share(7, 2**256)], 1)


def test_coefficients_are_uniform_over_the_whole_field_by_default() -> None:
    asked: list[int] = []

    def below(limit: int) -> int:
        asked.append(limit)
        return limit - 1

    split_secret(bytes(32), 5, range(1, 8), below)
    assert asked == [PRIME] * 4
    first, second = (split_secret(bytes(32), 2, (1, 2)) for _ in range(2))
    assert first != second


def test_the_same_lines_run_equally_often_for_every_secret() -> None:
    counts = {
        lines_run(secret) for secret in (bytes(32), b"\xff" * 32, bytes(31) + b"\x01", bytes(range(32)))
    }
    assert len(counts) == 1
    assert counts.pop() > 20


def lines_run(secret: bytes) -> int:
    count = 0

    def follow(frame: FrameType, event: str, _: object) -> Any:
        nonlocal count
        count += event == "line" and frame.f_code.co_filename == shamir.__file__
        return follow

    before = sys.gettrace()
    sys.settrace(follow)
    try:
        split_secret(secret, 3, range(1, 6), lambda limit: limit // 3)
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("data", [b"", bytes(32), bytes(34), bytes(1 << 20)])
def test_a_share_of_another_length_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError, match=f"{len(data)} bytes, expected 33"):
        Share.decode(data, 1)


@given(st.binary(min_size=33, max_size=33))
def test_whatever_33_bytes_are_a_share_or_refused(data: bytes) -> None:
    if int.from_bytes(data, "big") < PRIME:
        assert Share.decode(data, 9).encode() == data
    else:
        with pytest.raises(FormatError, match="beyond the field"):
            Share.decode(data, 9)


def test_the_first_number_beyond_the_field_is_refused() -> None:
    assert Share.decode((PRIME - 1).to_bytes(33, "big"), 1).value == PRIME - 1
    with pytest.raises(FormatError, match="beyond the field"):
        Share.decode(PRIME.to_bytes(33, "big"), 1)


@pytest.mark.parametrize(
    ("threshold", "points", "text"),
    [
        (0, (1, 2), "a threshold of 0 for 2 shares"),
        (3, (1, 2), "a threshold of 3 for 2 shares"),
        (2, (1, 1), "two at one point"),
        (2, (0, 1), "not within 1 to 65536"),
        (2, (1, MAX_POINT + 1), "not within 1 to 65536"),
    ],
)
def test_what_makes_no_shares_is_refused(threshold: int, points: tuple[int, ...], text: str) -> None:
    with pytest.raises(ShapeError, match=text):
        split_secret(bytes(32), threshold, points)


def test_points_are_checked_when_shares_are_put_together_too() -> None:
    with pytest.raises(ShapeError, match="two at one point"):
        combine_shares([Share(1, 5), Share(1, 5)], 2)
    with pytest.raises(ShapeError, match="not within"):
        combine_shares([Share(0, 5)], 1)
    with pytest.raises(ShapeError, match="a threshold of 0"):
        combine_shares([], 0)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_secret_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(ShapeError, match=f"a secret of {size} bytes, expected 32"):
        split_secret(bytes(size), 1, (1,))


def test_a_share_does_not_show_its_value() -> None:
    assert repr(Share(3, 12345)) == "Share(point=3)"
