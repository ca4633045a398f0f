from __future__ import annotations

import struct
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from emberfleet.core.bundle import Bundle
from emberfleet.core.errors import EmberError as PythonError
from emberfleet.core.errors import SignatureError
from emberfleet.core.signing import VerifyKey
from tests.runner.building import build
from tests.runner.bundles import KEY, OTHER_KEY, TRUSTED, with_first_label
from tests.runner.ember import Ember, EmberError, Status

NOWHERE = "libnowhere.so"
"""OpenCL is looked for only once a bundle has passed every check: NO_OPENCL says that it has."""


def _status(ember: Ember, data: bytes | Path, keys: tuple[bytes, ...] = TRUSTED) -> Status:
    with pytest.raises(EmberError) as caught:
        ember.open(data, keys, opencl_library=NOWHERE)
    return caught.value.status


def _tampered(data: bytes, name: bytes) -> bytes:
    """The last byte of a part changed, its checksum made to fit."""
    size = len(data)
    at = data.index(b"PK\x03\x04", 0)
    while data[at + 30 : at + 30 + len(name)] != name:
        at = data.index(b"PK\x03\x04", at + 4)
    (length,) = struct.unpack_from("<I", data, at + 18)
    start = at + 30 + len(name)
    contents = data[start : start + length - 1] + bytes([data[start + length - 1] ^ 1])
    old, new = data[at + 14 : at + 18], struct.pack("<I", zlib.crc32(contents))
    changed = data[:start] + contents + data[start + length :]
    changed = changed.replace(old + data[at + 18 : at + 26], new + data[at + 18 : at + 26])
    assert len(changed) == size
    return changed


def test_a_signed_bundle_passes_every_check(ember: Ember, bundle: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.ember"
    path.write_bytes(bundle)
    assert _status(ember, bundle) == Status.NO_OPENCL
    assert _status(ember, path) == Status.NO_OPENCL
    assert _status(ember, bundle, (OTHER_KEY.verify_key.raw, KEY.verify_key.raw)) == Status.NO_OPENCL


@pytest.mark.parametrize("keys", [(), (OTHER_KEY.verify_key.raw,), (bytes(32),), (b"\xff" * 32,)])
def test_a_bundle_that_no_trusted_key_has_signed_is_refused(
    ember: Ember, bundle: bytes, keys: tuple[bytes, ...]
) -> None:
    assert _status(ember, bundle, keys) == Status.BAD_SIGNATURE


@pytest.mark.parametrize(
    "name",
    [
        b"opencl/plan.json",
        b"opencl/constants.bin",
        b"opencl/kernels/prelude.cl",
        b"graph.json",
        b"model.tflite",
    ],
)
def test_a_tampered_part_is_refused(ember: Ember, bundle: bytes, name: bytes) -> None:
    with pytest.raises(EmberError, match=f"part '{name.decode()}' is not the one that was signed"):
        ember.open(_tampered(bundle, name), TRUSTED, opencl_library=NOWHERE)


def test_a_caller_who_has_verified_still_gets_digests_checked(ember: Ember, bundle: bytes) -> None:
    with pytest.raises(EmberError) as passed:
        ember.open(bundle, verified=True, opencl_library=NOWHERE)
    assert passed.value.status == Status.NO_OPENCL
    with pytest.raises(EmberError, match="is not the one that was signed"):
        ember.open(_tampered(bundle, b"opencl/plan.json"), verified=True, opencl_library=NOWHERE)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda data: b"",
    "truncated": lambda data: data[:-1],
    "half": lambda data: data[: len(data) // 2],
    "a byte in front": lambda data: b"\0" + data,
    "a byte behind": lambda data: data + b"\0",
    "a comment": lambda data: data[:-2] + b"\1\0!",
    "another count": lambda data: data[:-14] + b"\1\0\1\0" + data[-10:],
    "compressed": lambda data: data[:8] + b"\x08" + data[9:],
    "a changed signature": lambda data: data.replace(b'"sig":"', b'"sig":"A', 1),
    "another first file": lambda data: data.replace(b"manifest.dsse.json", b"manifesto.dsse.jso"),
    "a name with a backslash": lambda data: data.replace(b"opencl/plan.json", b"opencl\\plan.json"),
    "a name that leaves its folder": lambda data: data.replace(b"opencl/plan.json", b"../../../pla.jso"),
    "a name in another order": lambda data: data.replace(b"graph.json", b"zraph.json"),
    "zip64": lambda data: data[:-6] + b"\xff\xff\xff\xff" + data[-2:],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_refused_here_and_in_python(ember: Ember, bundle: bytes, damage: str) -> None:
    data = DAMAGES[damage](bundle)
    assert data != bundle
    assert _status(ember, data) in (Status.BAD_FORMAT, Status.BAD_SIGNATURE)
    with pytest.raises(PythonError):
        Bundle.open(data, [KEY.verify_key])


def test_every_changed_byte_is_noticed(ember: Ember, bundle: bytes) -> None:
    for at in range(0, len(bundle), 997):
        data = bundle[:at] + bytes([bundle[at] ^ 0x10]) + bundle[at + 1 :]
        assert _status(ember, data) in (Status.BAD_FORMAT, Status.BAD_SIGNATURE), at


def test_a_bundle_beyond_the_limit_is_refused(ember: Ember, bundle: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.ember"
    path.write_bytes(bundle)
    for source in (bundle, path):
        with pytest.raises(EmberError, match=f"{len(bundle) - 1}") as caught:
            ember.open(source, TRUSTED, opencl_library=NOWHERE, max_bytes=len(bundle) - 1)
        assert caught.value.status == Status.BAD_FORMAT


def test_a_file_that_is_not_there_is_said_so(ember: Ember, tmp_path: Path) -> None:
    assert _status(ember, tmp_path / "none.ember") == Status.BAD_FILE


def test_the_verifier_of_the_caller_is_asked_instead(ember: Ember, bundle: bytes) -> None:
    def verify(key: bytes, signature: bytes, message: bytes) -> int:
        try:
            VerifyKey(key).verify(signature, message)
        except SignatureError:
            return 0
        return 1

    for keys, expected in ((TRUSTED, Status.NO_OPENCL), ((OTHER_KEY.verify_key.raw,), Status.BAD_SIGNATURE)):
        with pytest.raises(EmberError) as caught:
            ember.open(bundle, keys, verify=verify, opencl_library=NOWHERE)
        assert caught.value.status == expected


def test_a_verifier_that_cannot_tell_is_not_believed(ember: Ember, bundle: bytes) -> None:
    with pytest.raises(EmberError) as caught:
        ember.open(bundle, TRUSTED, verify=lambda key, signature, message: -1, opencl_library=NOWHERE)
    assert caught.value.status == Status.NO_VERIFIER


def test_without_libcrypto_only_what_the_caller_verified_opens(
    tmp_path_factory: pytest.TempPathFactory, bundle: bytes
) -> None:
    folder = tmp_path_factory.mktemp("no-libcrypto")
    extra = "-DEMBER_CRYPTO_LIBRARIES='\"libnowhere.so\"'"
    ember = Ember(build(folder, "gcc", "libember.so", extra=extra) / "libember.so")
    assert _status(ember, bundle) == Status.NO_VERIFIER
    with pytest.raises(EmberError) as caught:
        ember.open(bundle, verified=True, opencl_library=NOWHERE)
    assert caught.value.status == Status.NO_OPENCL


@pytest.fixture(scope="module")
def beside_fake(tmp_path_factory: pytest.TempPathFactory) -> Ember:
    """The library, whose libcrypto is fake_libcrypto.c."""
    folder = tmp_path_factory.mktemp("fake-libcrypto")
    crypto, source = folder / "crypto.so", Path(__file__).with_name("fake_libcrypto.c")
    flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    extra = f"-DEMBER_CRYPTO_LIBRARIES='\"{crypto}\"'"
    library = build(folder, "gcc", "libember.so", extra=extra) / "libember.so"
    subprocess.run(["gcc", *flags, "-o", str(crypto), str(source)], check=True, timeout=60)
    return Ember(library)


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("FAKE_VERDICT", "1", Status.NO_OPENCL),
        ("FAKE_VERDICT", "0", Status.BAD_SIGNATURE),
        ("FAKE_VERDICT", "-1", Status.BAD_SIGNATURE),
        ("FAKE_VERDICT", "2", Status.BAD_SIGNATURE),
        ("FAKE_NO_KEY", "", Status.NO_VERIFIER),
        ("FAKE_NO_START", "", Status.NO_VERIFIER),
    ],
)
def test_only_a_clear_yes_of_libcrypto_is_one(
    beside_fake: Ember,
    bundle: bytes,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    value: str,
    expected: Status,
) -> None:
    monkeypatch.setenv(variable, value)
    assert _status(beside_fake, bundle) == expected


@pytest.mark.parametrize("label", ["a\x1b[2J", "a\x7f", "a\x9b2J", "", "l" * 101])
def test_a_label_that_would_steer_a_terminal_is_refused(ember: Ember, bundle: bytes, label: str) -> None:
    with pytest.raises(EmberError, match="labels"):
        ember.open(with_first_label(bundle, label), TRUSTED, opencl_library=NOWHERE)
