from __future__ import annotations

import ctypes
import hashlib
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.runner.building import SOURCE, build

Digest = Callable[[bytes], str]

VECTORS = {
    b"": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    bytes.fromhex("d3"): "28969cdfa74a12c82f3bad960b0b000aca2ac329deea5c2328ebc6f2ba9802c1",
    bytes.fromhex("11af"): "5ca7133fa735326081558ac312c620eeca9970d1e70a4b95533d956f072d1f98",
    bytes.fromhex("b4190e"): "dff2e73091f6c05e528896c4c831b9448653dc2ff043528f6769437bc7b975c2",
    bytes.fromhex("74ba2521"): "b16aa56be3880d18cd41e68384cf1ec8c17680c45a02b1575dc1518923ae8b0e",
    b"abc": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq": (
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"
    ),
    b"abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrst"
    b"nopqrstu": "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1",
    b"a" * 1_000_000: "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0",
}
"""NIST: FIPS 180-2 appendix B, SHAVS short messages, and the examples of the cryptographic standards."""


@pytest.fixture(scope="module")
def sha256(tmp_path_factory: pytest.TempPathFactory) -> Digest:
    """The runner's own, which its library keeps to itself."""
    folder = build(tmp_path_factory.mktemp("sha256"), "gcc", "sha256.o", extra="-fvisibility=default")
    library = folder / "sha256.so"
    subprocess.run(["gcc", "-shared", "-o", str(library), str(folder / "sha256.o")], check=True, timeout=60)
    function = ctypes.CDLL(str(library)).sha256

    def digest(message: bytes) -> str:
        out = ctypes.create_string_buffer(32)
        function(message, ctypes.c_size_t(len(message)), out)
        return out.raw.hex()

    return digest


@pytest.mark.parametrize("message", VECTORS, ids=lambda message: f"{len(message)} bytes")
def test_it_gives_the_vectors_of_nist(sha256: Digest, message: bytes) -> None:
    assert sha256(message) == VECTORS[message]


def test_every_length_around_a_block_is_right(sha256: Digest) -> None:
    message = bytes(index * 7 % 256 for index in range(300))
    for length in range(len(message)):
        assert sha256(message[:length]) == hashlib.sha256(message[:length]).hexdigest(), length


def test_a_long_message_is_right(sha256: Digest) -> None:
    message = hashlib.shake_128(b"long").digest(6_400_000 + 13)
    assert sha256(message) == hashlib.sha256(message).hexdigest()


def test_no_source_of_others_is_copied_in() -> None:
    texts = [path.read_text().lower() for path in Path(SOURCE).rglob("*.[ch]")]
    assert texts
    assert not any("copyright" in text or "license" in text for text in texts)
