"""The Java classes, the smali classes and the C behind them, really run: on this machine's JVM, with PoCL."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emberfleet.converters.android.classes import Pins, build_classes
from emberfleet.converters.android.dex import build_dex
from emberfleet.converters.bundle import build_bundle
from emberfleet.core.arrays import Float32
from emberfleet.runtime.runtime import Runtime
from emberfleet.train.data.images import decode_image
from tests.converters.android.building import (
    HERE,
    Desk,
    build_desktop_library,
    compile_desktop,
    compile_java,
    skip_unless,
    skip_unless_it_builds,
    undex,
)
from tests.runner.bundles import KEY, OTHER_KEY
from tests.runtime.stripes import CLASSES, SIDE, stripes, trained

LABELS = ("caf\u00e9", "\U0001f600", "\u4e2d\u6587", '"', "\\")
UNTRUSTED = "dev.emberfleet.UntrustedModelException: "


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """libember.so for this machine."""
    skip_unless("gcc")
    skip_unless_it_builds()
    return build_desktop_library(tmp_path_factory.mktemp("desktop"))


@pytest.fixture(scope="module", params=["java", "smali"])
def classes(
    request: pytest.FixtureRequest, tflite: bytes, tmp_path_factory: pytest.TempPathFactory
) -> list[Path]:
    """A class path with the library's classes: those of the AAR, or those of the sample app."""
    skip_unless_it_builds()
    folder = tmp_path_factory.mktemp(request.param)
    jar, pins = folder / "classes.jar", Pins.of(KEY.verify_key, tflite)
    jar.write_bytes(build_classes(pins))
    desktop = compile_desktop(folder / "desktop", jar)
    if request.param == "smali":
        skip_unless("smali")
        (folder / "classes.dex").write_bytes(build_dex(pins))
        jar = undex(folder / "classes.dex", folder / "twin.jar")
    return [jar, desktop]


@pytest.fixture(scope="module")
def assets(bundle: bytes, tflite: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an app with the library has in its assets, and a picture."""
    folder = tmp_path_factory.mktemp("assets")
    (folder / "emberfleet").mkdir()
    (folder / "emberfleet" / "model.ember").write_bytes(bundle)
    (folder / "emberfleet" / "model.tflite").write_bytes(tflite)
    for seed in range(3):
        rows = stripes(1, seed).images[0, :, :, 0]
        pixels = np.repeat(np.repeat(rows, 5 + seed, 0), 7, 1)
        Image.fromarray(np.stack([pixels, pixels, pixels // 2], -1)).save(folder / f"{seed}.png")
    shutil.copy(folder / "1.png", folder / "sample")
    halves = dataclasses.replace(trained(2), classes=LABELS)
    _write(folder / "halves", build_bundle(halves, 7, OTHER_KEY, name="halves"))
    return folder


def _expected(assets: Path, name: str) -> tuple[str, Float32]:
    runtime = Runtime.open(assets / "emberfleet" / "model.ember", [KEY.verify_key], "numpy")
    pixels = decode_image((assets / name).read_bytes(), name, (SIDE, SIDE), 1)
    prediction = runtime.predict(pixels[None])
    return prediction.labels()[0][0], prediction.probabilities[0]


def _read(line: str) -> tuple[str, Float32]:
    found = re.fullmatch(r"(\w+) ([\d.E-]+) \[(.*)\] 5 true", line)
    assert found, line
    scores = np.array([float(score) for score in found[3].split(",")], np.float32)
    assert float(found[2]) == pytest.approx(float(scores.max()))
    return found[1], scores


def test_it_gives_pythons_answers(
    library: Path, classes: list[Path], assets: Path, opencl_library: str
) -> None:
    pictures = [f"{seed}.png" for seed in range(3)]
    lines = Desk(library, *classes).with_opencl(
        opencl_library,
        f"assets={assets}",
        "opencl",
        "open",
        "about",
        *(f"classify={assets / name}" for name in pictures),
        f"classify-hardware={assets / pictures[0]}",
        "classify-wrong",
        "close",
        "close",
        f"classify={assets / pictures[0]}",
        "start-app",
    )
    assert lines[1:3] == ["true", "opened"]
    name, version, plan, device, labels = lines[3].split(" | ")
    assert (name, version, plan, labels) == ("stripes", "3", "int8-cpu", ",".join(CLASSES))
    assert device
    for picture, line in zip(pictures, lines[4:7], strict=True):
        label, scores = _read(line)
        expected_label, expected = _expected(assets, picture)
        assert label == expected_label
        np.testing.assert_allclose(scores, expected, rtol=1e-6)
    assert lines[7] == lines[4]
    assert lines[8].startswith("dev.emberfleet.EmberException: the image must have width x height pixels")
    assert lines[9:11] == ["closed", "closed"]
    assert lines[11] == "java.lang.IllegalStateException: the model is closed"
    shown, score = lines[12].split()
    assert shown == _expected(assets, "sample")[0]
    assert float(score) == pytest.approx(float(_expected(assets, "sample")[1].max()), rel=1e-6)


def test_each_position_has_its_answer_and_labels_are_any_text(
    library: Path, classes: list[Path], assets: Path, opencl_library: str
) -> None:
    """A model of another signer among the assets, which the app trusts by name."""
    lines = Desk(library, *classes).with_opencl(
        opencl_library,
        f"assets={assets / 'halves'}",
        "open",
        f"open-trusting={OTHER_KEY.verify_key.text}",
        "about",
        f"classify={assets / '2.png'}",
    )
    assert lines[1] == f"{UNTRUSTED}the signature does not verify under any trusted key"
    assert lines[2] == "opened"
    assert lines[3].startswith("halves | 7 | ")
    assert lines[3].endswith(f" | {','.join(LABELS)}")
    bundle = assets / "halves" / "emberfleet" / "model.ember"
    runtime = Runtime.open(bundle, [OTHER_KEY.verify_key], "numpy")
    pixels = decode_image((assets / "2.png").read_bytes(), "2.png", (SIDE, SIDE), 1)
    expected = runtime.predict(pixels[None])
    words, scores = lines[4].split(" [")
    assert tuple(words.split(" ")[0:3:2]) == expected.labels()[0]
    found = [float(score) for score in scores.partition("]")[0].split(",")]
    np.testing.assert_allclose(np.reshape(found, (2, 5)), expected.probabilities[0], rtol=1e-6)


def test_without_opencl_it_says_so_and_hands_out_the_tflite(
    library: Path, classes: list[Path], assets: Path, tflite: bytes
) -> None:
    lines = Desk(library, *classes).without_opencl(
        f"assets={assets}", "opencl", "open", "tflite", "tflite-asset", "start-app"
    )
    assert lines[1] == "false"
    assert lines[2].startswith("dev.emberfleet.NoOpenClException: ")
    assert lines[3] == f"true {Pins.of(KEY.verify_key, tflite).values['@TFLITE@']}"
    assert lines[4] == "emberfleet/model.tflite"
    assert lines[5].startswith("No OpenCL here, so run emberfleet/model.tflite with LiteRT. ")


def test_what_was_tampered_with_is_refused(
    library: Path, classes: list[Path], assets: Path, tmp_path: Path
) -> None:
    """A changed bit anywhere, another signer's model, a .tflite of somebody else."""
    bundle = (assets / "emberfleet" / "model.ember").read_bytes()
    words = []
    places = [len(bundle) // 9 * k + 77 for k in range(9)]
    for place in places:
        words += [f"assets={tmp_path / str(place)}", "open"]
        _write(tmp_path / str(place), bundle[:place] + bytes([bundle[place] ^ 1]) + bundle[place + 1 :])
    words += [f"assets={assets}", f"open-trusting={OTHER_KEY.verify_key.text}"]
    words += [f"open-trusting={OTHER_KEY.verify_key.text},{KEY.verify_key.text}", "open-trusting=AAAA"]
    words += [f"open-file={assets / 'emberfleet' / 'model.ember'}", f"assets={tmp_path / 'absent'}", "open"]
    _write(tmp_path / "other", bundle)
    words += [f"assets={tmp_path / 'other'}", "tflite"]
    lines = Desk(library, *classes).without_opencl(*words)
    for line in lines[1 : 2 * len(places) : 2]:
        assert re.match(r"dev\.emberfleet\.(EmberException|UntrustedModelException): ", line)
    after = lines[2 * len(places) :]
    assert after[1] == f"{UNTRUSTED}the signature does not verify under any trusted key"
    assert after[2].startswith("dev.emberfleet.NoOpenClException")
    assert after[3] == "java.lang.IllegalArgumentException: a public key is 32 bytes in base64"
    assert after[4] == f"{UNTRUSTED}the signature does not verify under any trusted key"
    assert after[6].startswith("java.nio.file.NoSuchFileException")
    assert after[8] == f"{UNTRUSTED}the .tflite is not the one that this library was made with"


def test_without_a_verifier_nothing_is_opened_and_the_apps_tink_is_one(
    library: Path, classes: list[Path], assets: Path, tmp_path: Path
) -> None:
    """Android before Ed25519: the class that has Tink's name has its interface, not its code."""
    words = (f"assets={assets}", "forget-ed25519", "open", f"open-trusting={OTHER_KEY.verify_key.text}")
    alone = Desk(library, *classes).without_opencl(*words)
    assert alone[2].startswith(f"{UNTRUSTED}nothing on this device verifies Ed25519 signatures")
    assert alone[3] == alone[2]
    tink = compile_java(tmp_path / "tink", sorted((HERE / "tink").rglob("*.java")))
    beside = Desk(library, *classes, tink).without_opencl(*words)
    assert beside[2].startswith("dev.emberfleet.NoOpenClException")
    assert beside[3] == f"{UNTRUSTED}the signature does not verify under any trusted key"


def _write(folder: Path, bundle: bytes) -> None:
    (folder / "emberfleet").mkdir(parents=True)
    (folder / "emberfleet" / "model.ember").write_bytes(bundle)
    (folder / "emberfleet" / "model.tflite").write_bytes(b"TFL3")
