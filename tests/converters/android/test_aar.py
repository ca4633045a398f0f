"""The Android library as a file."""

from __future__ import annotations

import io
import re
import subprocess
import zipfile
from pathlib import Path

import pytest

from emberfleet.converters.android.aar import build_aar
from emberfleet.converters.android.classes import Pins, build_classes
from emberfleet.converters.android.native import TARGETS
from emberfleet.core.errors import SignatureError
from tests.converters.android.building import skip_unless
from tests.runner.bundles import KEY, OTHER_KEY


@pytest.fixture(scope="module")
def contents(aar: Path) -> dict[str, bytes]:
    """Name -> bytes."""
    with zipfile.ZipFile(aar) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_it_holds_what_gradle_looks_for(contents: dict[str, bytes]) -> None:
    assert set(contents) == {
        "AndroidManifest.xml",
        "classes.jar",
        "R.txt",
        "proguard.txt",
        "META-INF/com/android/build/gradle/aar-metadata.properties",
        "assets/emberfleet/model.ember",
        "assets/emberfleet/model.tflite",
        *(f"jni/{abi}/libember.so" for abi in TARGETS),
    }


def test_the_models_are_byte_for_byte_those_that_were_signed(
    contents: dict[str, bytes], bundle: bytes, tflite: bytes
) -> None:
    assert contents["assets/emberfleet/model.ember"] == bundle
    assert contents["assets/emberfleet/model.tflite"] == tflite


def test_another_key_is_refused_before_anything_is_built(bundle: bytes) -> None:
    with pytest.raises(SignatureError):
        build_aar(bundle, OTHER_KEY.verify_key)


def test_the_key_is_in_the_code(contents: dict[str, bytes], tflite: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(contents["classes.jar"])) as jar:
        pinned = jar.read("dev/emberfleet/Pinned.class")
        assert KEY.verify_key.text.encode() in pinned
        assert all(name.startswith("dev/emberfleet/") for name in jar.namelist())
        assert {each[:8] for each in (jar.read(name) for name in jar.namelist())} == {
            bytes.fromhex("cafebabe00000034")
        }
    assert build_classes(Pins.of(OTHER_KEY.verify_key, tflite)) != contents["classes.jar"]


def test_the_vendors_opencl_may_be_loaded_and_need_not_be_there(contents: dict[str, bytes]) -> None:
    manifest = contents["AndroidManifest.xml"].decode()
    for library in ("libOpenCL.so", "libOpenCL-pixel.so"):
        assert re.search(
            rf'<uses-native-library android:name="{library}" android:required="false" ?/>', manifest
        )
    assert 'android:minSdkVersion="26"' in manifest


def test_a_shrinker_keeps_what_c_finds_by_name(contents: dict[str, bytes]) -> None:
    rules = contents["proguard.txt"].decode()
    code = (Path(__file__).resolve().parents[3] / "edge/android/jni/ember_jni.c").read_text()
    named = {name.replace("/", ".") for name in re.findall(r'"(dev/emberfleet/\w+)"', code)}
    assert len(named) == 4
    for name in named | {"dev.emberfleet.EmberModel", "com.google.crypto.tink.subtle.Ed25519Verify"}:
        assert f"-keep class {name} " in rules


def test_a_zip_program_finds_no_fault(aar: Path) -> None:
    skip_unless("unzip")
    done = subprocess.run(["unzip", "-tq", str(aar)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
