from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from emberfleet.core.lowering import quantize
from emberfleet.engine.numpy_backend.backend import NumpyBackend
from tests.runner.building import build_program, run, run_program
from tests.runner.bundles import KEY, OTHER_KEY
from tests.runtime.stripes import CLASSES, stripes, trained

TEXT = KEY.verify_key.text


@pytest.fixture
def model(bundle: bytes, tmp_path: Path) -> Path:
    """The bundle as a file."""
    path = tmp_path / "model.ember"
    path.write_bytes(bundle)
    return path


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ember-run as a library, for a process that has prepared PoCL."""
    return build_program(tmp_path_factory.mktemp("program"))


def _run(program: Path, opencl_library: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
    return run_program(program, *words, EMBER_OPENCL_LIBRARY=opencl_library)


def test_help_teaches(built: Path) -> None:
    done = run(built / "ember-run", "--help")
    assert done.returncode == 0
    for word in (
        "Usage:",
        "--key",
        "--verified",
        "--input",
        "--json",
        "--plan",
        "--list",
        "Example:",
        "Exit codes",
    ):
        assert word in done.stdout


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((), "no bundle"),
        (("a", "b"), "more than one bundle: b"),
        (("--nonsense",), "unknown option --nonsense"),
        (("a", "--key"), "a value is missing behind --key"),
        (("a", "--key", "short"), "44 characters"),
        (("a", "--key", "?" * 44), "44 characters"),
        (("a", *(("--key", TEXT) * 17)), "more than 16"),
    ],
)
def test_a_wrong_command_is_explained(built: Path, words: tuple[str, ...], text: str) -> None:
    done = run(built / "ember-run", *words)
    assert done.returncode == 2
    assert text in done.stderr
    assert "--help" in done.stderr


def test_a_bundle_of_another_key_is_refused(built: Path, model: Path) -> None:
    done = run(built / "ember-run", model, "--key", OTHER_KEY.verify_key.text)
    assert (done.returncode, done.stdout) == (1, "")
    assert "does not verify under any trusted key" in done.stderr


def test_a_machine_without_opencl_is_told_so(built: Path, model: Path) -> None:
    done = run(built / "ember-run", model, "--key", TEXT, "--library", "libnowhere.so")
    assert done.returncode == 1
    assert "no OpenCL library here" in done.stderr


def test_it_says_what_python_says(program: Path, opencl_library: str, model: Path) -> None:
    image = stripes(1, 3).images[0]
    picture = model.with_suffix(".pgm")
    picture.write_bytes(b"P5\n# a comment\n9 9\n255\n" + image.tobytes())
    x = trained().preprocessing.apply(image[None])
    values = model.with_suffix(".f32")
    x.tofile(values)
    network = quantize(trained().graph, trained().tensors)
    codes = (
        NumpyBackend().integer_predictor(network, 1).run_integer(network.input_tensor.params.quantize(x))[0]
    )
    for path in (picture, values):
        done = _run(program, opencl_library, model, "--key", TEXT, "--input", path, "--json")
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        assert answer["codes"] == codes.tolist()
        scores = network.output_tensor.params.dequantize(codes)
        np.testing.assert_array_equal(np.array(answer["scores"], np.float32), scores)
        assert answer["labels"] == [CLASSES[int(codes.argmax())]]
        assert (answer["model"], answer["version"], answer["plan"]) == ("stripes", 3, "int8-cpu")


def test_people_are_told_the_likeliest_classes(program: Path, opencl_library: str, model: Path) -> None:
    picture = model.with_suffix(".pgm")
    picture.write_bytes(b"P5 9 9 255\n" + stripes(1, 3).images[0].tobytes())
    done = _run(program, opencl_library, model, "--verified", "--input", picture)
    shares = [float(line.split()[0]) for line in done.stdout.splitlines()]
    assert sum(shares) == pytest.approx(100, abs=0.1)
    assert shares == sorted(shares, reverse=True)


@pytest.mark.parametrize(
    ("picture", "text"),
    [
        (b"P5 9 8 255\n" + bytes(72), "the image is 9 x 8 with 1 channels, the network takes 9 x 9 with 1"),
        (b"P6 9 9 255\n" + bytes(243), "with 3 channels"),
        (b"P5 9 9 65535\n" + bytes(162), "8 bits"),
        (b"P5 9 9", "not a binary"),
        (b"P5 9 9 255\n" + bytes(80), "80 bytes of input, expected 81"),
        (b"", "0 bytes of input, expected 324"),
    ],
)
def test_another_picture_is_refused(
    program: Path, opencl_library: str, model: Path, picture: bytes, text: str
) -> None:
    path = model.with_suffix(".pgm")
    path.write_bytes(picture)
    done = _run(program, opencl_library, model, "--key", TEXT, "--input", path)
    assert done.returncode == 1
    assert text in done.stderr


def test_devices_are_listed(program: Path, opencl_library: str) -> None:
    done = _run(program, opencl_library, "--list")
    assert done.returncode == 0
    assert "groups of" in done.stdout
