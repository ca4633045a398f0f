"""The runner's sources on the processors that phones have, emulated, with that system's PoCL and libcrypto.

Needs a folder with a Debian for arm64 or armhf that has libc6-dev and pocl-opencl-icd, named in
EMBERFLEET_ARM_ROOT, and what `tests.pi.userland` needs. docs/guides/raspberry-pi.md says how to make one.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from emberfleet.converters.android import tools
from emberfleet.converters.android.sources import source_folder
from emberfleet.converters.bundle import build_bundle
from emberfleet.core.errors import ConversionError
from emberfleet.core.graph import without_softmax
from emberfleet.core.lowering import quantize
from emberfleet.engine.numpy_backend.backend import NumpyBackend
from tests.converters.android.building import run, skip_unless
from tests.pi.userland import Userland, target_of, what_is_missing
from tests.runner.building import CORPUS
from tests.runner.bundles import KEY, OTHER_KEY
from tests.runtime.stripes import CLASSES, stripes, trained

PLACE = "/mnt/runner"
IMAGES = 3
TRIPLES = {"arm64": "aarch64-linux-gnu", "armhf": "arm-linux-gnueabihf"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def phone(tmp_path_factory: pytest.TempPathFactory) -> Userland:
    """An emulated processor with ember-run, a bundle and images in /mnt/runner."""
    named = os.environ.get("EMBERFLEET_ARM_ROOT")
    if not named:
        pytest.skip("EMBERFLEET_ARM_ROOT names no folder with a Debian for arm64 or armhf")
    root = Path(named)
    target = target_of(root)
    assert target is not None, f"{root} is no Debian for arm64 or armhf"
    if what_is_missing():
        pytest.skip("; ".join(what_is_missing()))
    skip_unless("make")
    try:
        clang = tools.find_native_tools().clang
    except ConversionError as error:
        pytest.skip(str(error))
    shown, layer = tmp_path_factory.mktemp("shown"), tmp_path_factory.mktemp("layer")
    run(
        *("make", "-s", "-C", source_folder() / "runner", f"OUT={shown}", "LDFLAGS=-fuse-ld=lld"),
        f"CC={clang} --target={TRIPLES[target.partition('-')[0]]} --sysroot={root}",
        *("SANITIZED=-O1 -DFUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION", "all", shown / "run_files"),
    )
    shutil.copytree(CORPUS, shown / "corpus")
    bundle = build_bundle(trained(), 3, KEY, name="stripes", opencl_float=True)
    (shown / "model.ember").write_bytes(bundle)
    place = len(bundle) // 2
    (shown / "changed.ember").write_bytes(bundle[:place] + bytes([bundle[place] ^ 1]) + bundle[place + 1 :])
    for n, image in enumerate(stripes(IMAGES).images):
        height, width = image.shape[:2]
        (shown / f"{n}.pgm").write_bytes(b"P5 %d %d 255\n" % (width, height) + image.tobytes())
    return Userland.fresh(root, layer, {PLACE: shown})


def _run(phone: Userland, bundle: str, *words: str, fails: bool = False) -> str:
    return phone.run(f"{PLACE}/ember-run", f"{PLACE}/{bundle}", *words, fails=fails)


@pytest.mark.parametrize("plan", ["int8-cpu", "int8-gpu", "float32-cpu", "float32-gpu"])
def test_answers_are_those_of_python(phone: Userland, plan: str) -> None:
    model, images = trained(), stripes(IMAGES).images
    x, backend = model.preprocessing.apply(images), NumpyBackend()
    words = ("--key", KEY.verify_key.text, "--precision", plan.partition("-")[0], "--plan", plan, "--json")
    answers = [
        json.loads(_run(phone, "model.ember", *words, "--input", f"{PLACE}/{n}.pgm")) for n in range(IMAGES)
    ]
    assert {answer["plan"] for answer in answers} == {plan}
    if plan.startswith("int8"):
        network = quantize(model.graph, model.tensors)
        codes = backend.integer_predictor(network, IMAGES).run_integer(
            network.input_tensor.params.quantize(x)
        )
        np.testing.assert_array_equal([answer["codes"] for answer in answers], codes.reshape(IMAGES, -1))
    else:
        scores = backend.predictor(without_softmax(model.graph), model.tensors, IMAGES).run(x)
        limit = 1e-5 * float(np.abs(scores).max())
        np.testing.assert_allclose(
            [answer["scores"] for answer in answers], scores.reshape(IMAGES, -1), rtol=1e-5, atol=limit
        )
    assert [answer["labels"][0] for answer in answers] == [CLASSES[index] for index in stripes(IMAGES).labels]


def test_a_changed_bundle_is_refused(phone: Userland) -> None:
    assert "does not match its checksum" in _run(
        phone, "changed.ember", "--key", KEY.verify_key.text, fails=True
    )


def test_the_corpus_is_read_without_a_fault(phone: Userland) -> None:
    files = sorted(path.name for path in CORPUS.iterdir())
    said = phone.run(f"{PLACE}/run_files", *(f"{PLACE}/corpus/{name}" for name in files))
    assert said == f"{len(files)} files\n"


def test_another_key_is_refused(phone: Userland) -> None:
    assert "signature does not verify" in _run(
        phone, "model.ember", "--key", OTHER_KEY.verify_key.text, fails=True
    )
