"""The sample app as a file, seen by Android's own tools."""

from __future__ import annotations

import io
import re
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emberfleet.converters.android.apk import KEYSTORE_VARIABLE, Sample, build_apk, gradient, sign_apk
from emberfleet.converters.android.native import TARGETS
from emberfleet.converters.android.tools import find_framework, find_tool
from emberfleet.core.errors import ConversionError
from tests.converters.android.building import run, skip_unless, skip_unless_it_builds
from tests.runner.bundles import KEY


def _skip_unless_it_packs() -> None:
    skip_unless_it_builds()
    try:
        for program in ("aapt2", "smali", "apksigner"):
            find_tool(program, program)
        find_framework()
    except ConversionError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def picture() -> bytes:
    """A JPEG."""
    target = io.BytesIO()
    Image.new("RGB", (20, 30)).save(target, "JPEG")
    return target.getvalue()


@pytest.fixture(scope="module")
def keystore(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Somebody's own key; its password is 'changeit'."""
    skip_unless("keytool")
    store = tmp_path_factory.mktemp("keystore") / "own.p12"
    run(
        *("keytool", "-genkeypair", "-keystore", store, "-storetype", "PKCS12", "-storepass", "changeit"),
        *(
            "-alias",
            "k",
            "-keyalg",
            "EC",
            "-groupname",
            "secp256r1",
            "-dname",
            "CN=Somebody",
            "-validity",
            "9",
        ),
    )
    return store


@pytest.fixture(scope="module")
def app(bundle: bytes, picture: bytes, keystore: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An app with a picture, signed by somebody."""
    _skip_unless_it_packs()
    path = tmp_path_factory.mktemp("apk") / "stripes.apk"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KEYSTORE_VARIABLE, "changeit")
        path.write_bytes(build_apk(bundle, KEY.verify_key, Sample(picture, keystore)))
    return path


def test_android_takes_its_signature_from_version_8_on(app: Path) -> None:
    said = run("apksigner", "verify", "-v", "--min-sdk-version", "26", app)
    assert "Verifies" in said.splitlines()[0]
    assert "v2 scheme (APK Signature Scheme v2): true" in said
    assert "v3 scheme (APK Signature Scheme v3): true" in said


def test_a_changed_byte_is_found(app: Path, tmp_path: Path) -> None:
    data = bytearray(app.read_bytes())
    data[data.index(b"PK\x03\x04", 4) + 60] ^= 1
    (tmp_path / "changed.apk").write_bytes(data)
    done = subprocess.run(
        ["apksigner", "verify", "--min-sdk-version", "26", str(tmp_path / "changed.apk")], capture_output=True
    )
    assert done.returncode != 0


def test_it_says_what_it_is(app: Path) -> None:
    skip_unless("aapt")
    said = run("aapt", "dump", "badging", app)
    assert "package: name='dev.emberfleet.sample' versionCode='3'" in said
    assert "sdkVersion:'26'" in said
    assert "launchable-activity: name='dev.emberfleet.sample.MainActivity'" in said
    assert re.findall(r"native-code: (.*)", said) == [" ".join(f"'{abi}'" for abi in sorted(TARGETS))]
    tree = run("aapt", "dump", "xmltree", app, "AndroidManifest.xml")
    for library in ("libOpenCL.so", "libOpenCL-pixel.so"):
        assert library in tree
    assert 'android:label(0x01010001)="stripes"' in tree


def test_the_models_are_byte_for_byte_those_that_were_signed(app: Path, bundle: bytes, tflite: bytes) -> None:
    with zipfile.ZipFile(app) as archive:
        assert archive.read("assets/emberfleet/model.ember") == bundle
        assert archive.read("assets/emberfleet/model.tflite") == tflite


def test_what_is_mapped_into_memory_is_aligned(app: Path) -> None:
    skip_unless("zipalign")
    run("zipalign", "-c", "-p", "4", app)
    with zipfile.ZipFile(app) as archive:
        stored = {entry.filename for entry in archive.infolist() if entry.compress_type == zipfile.ZIP_STORED}
    assert stored >= {"resources.arsc", "assets/emberfleet/model.tflite"}


def test_another_program_takes_it_apart(app: Path, tmp_path: Path) -> None:
    skip_unless("apktool")
    run("apktool", "decode", "--no-res", "--frame-path", tmp_path, "-o", tmp_path / "out", app)
    found = (tmp_path / "out" / "smali" / "dev" / "emberfleet" / "EmberModel.smali").read_text()
    assert "invoke-static {p0, v0}, Ldev/emberfleet/EmberModel;->nativeOpen([B[B)J" in found


def test_a_keystore_and_a_picture_of_ones_own_are_used(app: Path, picture: bytes) -> None:
    assert "CN=Somebody" in run("apksigner", "verify", "--print-certs", "--min-sdk-version", "26", app)
    with zipfile.ZipFile(app) as archive:
        assert archive.read("assets/sample") == picture


def test_a_keystore_without_its_password_is_refused(
    app: Path, keystore: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KEYSTORE_VARIABLE, raising=False)
    with pytest.raises(ConversionError, match="set EMBERFLEET_KEYSTORE_PASSWORD"):
        sign_apk(app.read_bytes(), keystore)
    monkeypatch.setenv(KEYSTORE_VARIABLE, "wrong")
    with pytest.raises(ConversionError, match="apksigner failed"):
        sign_apk(app.read_bytes(), keystore)


def test_without_a_keystore_a_key_is_made(app: Path, tmp_path: Path) -> None:
    (tmp_path / "again.apk").write_bytes(sign_apk(app.read_bytes(), None))
    said = run("apksigner", "verify", "--print-certs", "--min-sdk-version", "26", tmp_path / "again.apk")
    assert "CN=Emberfleet sample" in said
    assert "Somebody" not in said


def test_without_a_picture_there_is_a_gradient() -> None:
    pixels = np.asarray(Image.open(io.BytesIO(gradient(9, 5))))
    np.testing.assert_array_equal(pixels, np.tile(255 * np.arange(9) // 9, (5, 1)))


def test_a_picture_that_is_none_is_refused(bundle: bytes) -> None:
    with pytest.raises(ConversionError, match="expected a PNG or JPEG"):
        build_apk(bundle, KEY.verify_key, Sample(b"GIF89a"))
