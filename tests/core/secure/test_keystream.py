"""The keystream: the standard's numbers, a cipher written out plainly, and any place in it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emberfleet.core.errors import ShapeError
from emberfleet.core.secure.keystream import MAX_BYTES, STEP_BYTES, Keystream, draw
from tests.core.secure import twins

SEEDS = st.binary(min_size=32, max_size=32)
# RFC 8439, appendix A.1: seed, block, keystream. Vector 5 has another nonce than ours, which is zero.
VECTORS = [
    (
        bytes(32), 0,
        "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
        "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586",
    ),
    (
        bytes(32), 1,
        "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed"
        "29b721769ce64e43d57133b074d839d531ed1f28510afb45ace10a1f4b794d6f",
    ),
    (
        bytes(31) + b"\x01", 1,
        "3aeb5224ecf849929b9d828db1ced4dd832025e8018b8160b82284f3c949aa5a"
        "8eca00bbb4a73bdad192b5c42f73f2fd4e273644c8b36125a64addeb006c13a0",
    ),
    (
        b"\x00\xff" + bytes(30), 2,
        "72d54dfbf12ec44b362692df94137f328fea8da73990265ec1bbbea1ae9af0ca"
        "13b25aa26cb4a648cb9b9d1be65b2c0924a66c54d545ec1b7374f4872e99f096",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("seed", "block", "expected"), VECTORS)
def test_the_standards_keystream_is_ours_and_the_plain_ciphers(
    seed: bytes, block: int, expected: str
) -> None:
    found = np.empty(64, np.uint8)
    Keystream(seed, 64 * block).fill(found)
    assert found.tobytes().hex() == expected
    assert twins.chacha20_block(seed, block).hex() == expected


@given(SEEDS, st.integers(0, 400), st.integers(0, 5))
def test_any_length_from_any_block_is_the_plain_ciphers(seed: bytes, size: int, block: int) -> None:
    found = np.empty(size, np.uint8)
    Keystream(seed, 64 * block).fill(found)
    assert found.tobytes() == twins.keystream(seed, 64 * block + size)[64 * block :]


@given(SEEDS, st.lists(st.integers(0, 200), max_size=6))
def test_pieces_follow_each_other_without_a_gap(seed: bytes, sizes: list[int]) -> None:
    stream, whole = Keystream(seed), b""
    for size in sizes:
        piece = np.empty(size, np.uint8)
        stream.fill(piece)
        whole += piece.tobytes()
    assert whole == twins.keystream(seed, sum(sizes))


@settings(max_examples=5)
@given(SEEDS)
def test_numbers_beyond_one_step_are_those_of_the_same_stream(seed: bytes) -> None:
    count = STEP_BYTES // 4 + 100
    found = draw(seed, count, np.dtype(np.uint32))
    later = np.empty(400, np.uint8)
    Keystream(seed, STEP_BYTES).fill(later)
    assert found[:50].tolist() == twins.numbers(seed, 50, 4)
    assert found[-100:].tobytes() == later.tobytes()


@pytest.mark.parametrize("seed", [b"", bytes(31), bytes(33)])
def test_a_seed_of_another_length_is_refused(seed: bytes) -> None:
    with pytest.raises(ShapeError, match=f"a seed of {len(seed)} bytes, expected 32"):
        Keystream(seed)


@pytest.mark.parametrize("offset", [1, 63, -64, MAX_BYTES])
def test_a_place_where_no_block_begins_is_refused(offset: int) -> None:
    with pytest.raises(ShapeError, match="expected a multiple of 64"):
        Keystream(bytes(32), offset)
