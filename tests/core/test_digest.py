"""SHA-256 in pieces and whole, beside hashlib."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from emberfleet.core.digest import Sha256, sha256_hex


def test_the_digest_of_the_standard() -> None:
    """FIPS 180-4, example of one block."""
    assert sha256_hex(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@given(st.lists(st.binary(max_size=200), max_size=5))
def test_pieces_have_the_digest_of_the_whole(pieces: list[bytes]) -> None:
    digest = Sha256()
    for piece in pieces:
        digest.update(memoryview(piece))
    assert digest.hexdigest() == hashlib.sha256(b"".join(pieces)).hexdigest()
