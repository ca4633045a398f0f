"""SHA-256, computed by the library that checks signatures.

`hashlib` would load a second OpenSSL: 3 MiB of memory in every process that opens a bundle.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from cryptography.hazmat.primitives.hashes import SHA256, Hash

Data: TypeAlias = bytes | memoryview


class Sha256:
    """The digest of bytes that come in pieces."""

    __slots__ = ("_hash",)

    def __init__(self) -> None:
        self._hash: Final = Hash(SHA256())

    def update(self, piece: Data) -> None:
        """Take the next piece."""
        self._hash.update(piece)

    def hexdigest(self) -> str:
        """64 lower-case hexadecimal digits; ends the computation."""
        return self._hash.finalize().hex()


def sha256_hex(data: Data) -> str:
    """The SHA-256 of bytes, as 64 lower-case hexadecimal digits."""
    digest = Sha256()
    digest.update(data)
    return digest.hexdigest()
