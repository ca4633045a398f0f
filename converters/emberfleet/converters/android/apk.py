"""A bundle as an app that can be installed and started: it shows what the model says about one picture."""

from __future__ import annotations

import datetime
import os
import struct
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from emberfleet.converters.android.aar import BUNDLE_ASSET, TFLITE_ASSET
from emberfleet.converters.android.classes import Pins
from emberfleet.converters.android.dex import MIN_SDK, build_dex
from emberfleet.converters.android.native import LIBRARY, build_libraries
from emberfleet.converters.android.packing import Entry, pack
from emberfleet.converters.android.sources import source_folder
from emberfleet.converters.android.tools import find_framework, find_tool, run_tool
from emberfleet.core.bundle import TFLITE_PART, Bundle
from emberfleet.core.errors import ConversionError
from emberfleet.core.manifest import Manifest
from emberfleet.core.preprocessing import Preprocessing
from emberfleet.core.signing import VerifyKey

PICTURE_ASSET: Final = "sample"
MAX_PICTURE_BYTES: Final = 64 << 20
MAX_VERSION: Final = 2_100_000_000
PICTURES: Final = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
KEYSTORE_VARIABLE: Final = "EMBERFLEET_KEYSTORE_PASSWORD"
VALIDITY: Final = datetime.timedelta(days=30 * 365)


@dataclass(frozen=True, slots=True)
class Sample:
    """What the app is made with beside the bundle.

    Attributes:
        picture: A PNG or JPEG that it classifies; None: a plain gradient, whose answer means nothing.
        keystore: PKCS#12 of who signs the app, its password in `EMBERFLEET_KEYSTORE_PASSWORD`; None: a key
            made for this file and forgotten.
    """

    picture: bytes | None = None
    keystore: Path | None = None


def build_apk(bundle: bytes, key: VerifyKey, sample: Sample) -> bytes:
    """Write and sign the app around a bundle that `key` has signed.

    Raises:
        SignatureError: `key` has not signed the bundle.
        ConversionError: a program is missing that is needed, or failed; a picture that is none; a version
            that Android does not count to.
    """
    opened = Bundle.open(bundle, [key])
    tflite = opened.part(TFLITE_PART)
    picture = _picture(sample.picture, opened.manifest.preprocessing)
    with tempfile.TemporaryDirectory(prefix="emberfleet-") as name:
        folder = Path(name)
        entries = [
            *_compile_manifest(folder, opened.manifest),
            Entry("classes.dex", build_dex(Pins.of(key, tflite))),
            Entry(f"assets/{BUNDLE_ASSET}", bundle, stored=True),
            Entry(f"assets/{TFLITE_ASSET}", tflite, stored=True),
            Entry(f"assets/{PICTURE_ASSET}", picture, stored=True),
        ]
        entries += [Entry(f"lib/{abi}/{LIBRARY}", data) for abi, data in build_libraries().items()]
        return sign_apk(pack(entries), sample.keystore)


def sign_apk(apk: bytes, keystore: Path | None) -> bytes:
    """Sign an app for Android 8 and newer, by a keystore or a key that is forgotten; see `Sample`.

    Raises:
        ConversionError: no apksigner, no password, or a keystore that is none.
    """
    signer = find_tool("apksigner", "apksigner (Debian), or an Android SDK with ANDROID_HOME set")
    with tempfile.TemporaryDirectory(prefix="emberfleet-") as name:
        folder = Path(name)
        whose = _throwaway_key(folder) if keystore is None else _own_key(keystore)
        unsigned, signed = folder / "unsigned.apk", folder / "signed.apk"
        unsigned.write_bytes(apk)
        schemes = ["--v1-signing-enabled", "false", "--v4-signing-enabled", "false"]
        sdk = ["--min-sdk-version", str(MIN_SDK)]
        run_tool([signer, "sign", *whose, *sdk, *schemes, "--in", unsigned, "--out", signed], folder)
        return signed.read_bytes()


def _picture(given: bytes | None, size: Preprocessing) -> bytes:
    if given is None:
        return gradient(size.width, size.height)
    if len(given) > MAX_PICTURE_BYTES or not given.startswith(PICTURES):
        raise ConversionError(
            f"the picture has {len(given)} bytes and begins with {given[:4].hex()}: expected a PNG or JPEG "
            f"of at most {MAX_PICTURE_BYTES} bytes"
        )
    return given


def gradient(width: int, height: int) -> bytes:
    """A grey PNG, dark on its left."""
    row = bytes([0, *(255 * w // width for w in range(width))])
    pieces = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0),
        b"IDAT": zlib.compress(row * height),
        b"IEND": b"",
    }
    return PICTURES[0] + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in pieces.items()
    )


def _compile_manifest(folder: Path, manifest: Manifest) -> list[Entry]:
    """The manifest in Android's binary XML, and the table of resources that goes with it."""
    if manifest.model_version > MAX_VERSION:
        raise ConversionError(
            f"version {manifest.model_version}: Android counts the versions of an app up to {MAX_VERSION}"
        )
    text = (source_folder() / "android" / "templates" / "app.xml").read_text()
    text = text.replace("@VERSION@", str(manifest.model_version)).replace("@LABEL@", manifest.model_name)
    source, out = folder / "AndroidManifest.xml", folder / "compiled.apk"
    source.write_text(text)
    aapt = find_tool("aapt2", "aapt (Debian), or an Android SDK with its build tools and ANDROID_HOME set")
    # Debian's aapt2 is older than uses-native-library: it warns of it instead of refusing.
    command: list[str | Path] = [aapt, "link", "--warn-manifest-validation", "--manifest", source]
    run_tool([*command, "-I", find_framework(), "-o", out], folder)
    with zipfile.ZipFile(out) as archive:
        return [Entry(name, archive.read(name), name == "resources.arsc") for name in archive.namelist()]


def _own_key(keystore: Path) -> list[str | Path]:
    """Options of apksigner for a key in a PKCS#12 file; raises as `sign_apk` does."""
    if not os.environ.get(KEYSTORE_VARIABLE):
        raise ConversionError(f"the password of {keystore} is not known: set {KEYSTORE_VARIABLE}")
    password = f"env:{KEYSTORE_VARIABLE}"
    return ["--ks", keystore.resolve(), "--ks-type", "PKCS12", "--ks-pass", password]


def _throwaway_key(folder: Path) -> list[str | Path]:
    """Options of apksigner for a key that is made here, with a certificate of its own."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Emberfleet sample")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(
            name, name, key.public_key(), x509.random_serial_number(), now, now + VALIDITY
        )
    ).sign(key, hashes.SHA256())
    encoding = serialization.Encoding
    key_file, certificate_file = folder / "key.pk8", folder / "certificate.pem"
    key_file.write_bytes(
        key.private_bytes(encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    certificate_file.write_bytes(certificate.public_bytes(encoding.PEM))
    return ["--key", key_file, "--cert", certificate_file]
