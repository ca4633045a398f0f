"""Random numbers from a 32-byte seed that every device and server computes alike: the ChaCha20 keystream.

The cipher is that of the `cryptography` library, keyed with the seed, with nonce and counter at zero: a seed
serves one purpose and is derived for it. Whether the library lets other threads run meanwhile depends on its
version (docs/decisions/secure-sums.md).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from emberfleet.core.arrays import Array, UInt8
from emberfleet.core.errors import ShapeError

SEED_BYTES: Final = 32
CIPHER_BLOCK_BYTES: Final = 64
STEP_BYTES: Final = 1 << 16
"""So much is made at a time: it stays in the cache until it is used."""
MAX_BYTES: Final = 1 << 38
"""The counter is 32 bits wide."""
_ZEROS: Final = bytes(STEP_BYTES)


class Keystream:
    """The keystream of one seed, from a place in it onwards."""

    __slots__ = ("_update",)

    def __init__(self, seed: bytes, offset_bytes: int = 0) -> None:
        """Start at `offset_bytes`, a multiple of 64.

        Raises:
            ShapeError: The seed is not 32 bytes, or no block of the cipher begins there.
        """
        if len(seed) != SEED_BYTES:
            raise ShapeError(f"keystream: a seed of {len(seed)} bytes, expected {SEED_BYTES}")
        counter, rest = divmod(offset_bytes, CIPHER_BLOCK_BYTES)
        if rest or not 0 <= offset_bytes < MAX_BYTES:
            raise ShapeError(f"keystream: begins at byte {offset_bytes}, expected a multiple of 64")
        nonce = counter.to_bytes(4, "little") + bytes(12)
        self._update = Cipher(algorithms.ChaCha20(seed, nonce), None).encryptor().update_into

    def fill(self, out: UInt8) -> None:
        """Write the next bytes into a contiguous array of at most `STEP_BYTES`."""
        zeros = _ZEROS if out.size == STEP_BYTES else memoryview(_ZEROS)[: out.size]
        self._update(zeros, out.data)


def draw(seed: bytes, count: int, dtype: np.dtype[np.unsignedinteger]) -> Array:
    """The first `count` numbers of a seed, little-endian as they stand in the keystream."""
    values = np.empty(count, dtype.newbyteorder("<"))
    stream, into = Keystream(seed), values.view(np.uint8)
    for begin in range(0, into.size, STEP_BYTES):
        stream.fill(into[begin : begin + STEP_BYTES])
    return values
